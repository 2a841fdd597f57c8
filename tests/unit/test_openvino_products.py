"""Products written as convolutions: the same numbers, and only where that was meant."""

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from runtime.engines.device import cpu_facts, cpu_flags
from runtime.engines.openvino import convolutions_are_faster
from runtime.engines.openvino_products import LEAST_ROWS, convolve
from runtime.engines.openvino_weights import halve, rounded

SIDE, ROWS = 256, 32
CORE = openvino.Core()
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}


def drawn(seed, *shape):
    numbers = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return numbers / np.float32(16)


def product(x, seed, **how):
    weight = ops.constant(drawn(seed, SIDE, SIDE))
    return ops.matmul(x, weight, how.get("ta", False), how.get("tb", False))


def model(build, rows=ROWS, batch=1):
    x = ops.parameter([batch, rows, SIDE], np.float32, name="x")
    return openvino.Model([ops.result(out) for out in build(x)], [x], "m")


def perceptron(x):
    """Two products in a row with bias and activation, as a block has them."""
    hidden = ops.add(product(x, 1), ops.constant(drawn(2, SIDE)))
    hidden = ops.gelu(hidden, "tanh")
    return [ops.add(ops.constant(drawn(3, SIDE)), product(hidden, 4, tb=True))]


def both_ways(x):
    """A product whose bias is added where its sum without is used too."""
    bare = product(x, 1)
    return [ops.add(bare, ops.constant(drawn(2, SIDE))), ops.relu(bare)]


def rows_times(x):
    """What follows is no bias: a number for each row, and the other way round."""
    out = ops.multiply(product(x, 1), ops.constant(drawn(2, SIDE)))
    return [ops.add(product(out, 3), ops.constant(drawn(4, ROWS, 1)))]


def kinds(one):
    return sorted(
        node.get_type_name()
        for node in one.get_ops()
        if node.get_type_name() in ("MatMul", "Convolution")
    )


def computed(one, x):
    compiled = CORE.compile_model(one, "CPU", FLOAT32)
    return list(compiled({0: x}).values())


@pytest.mark.parametrize(
    ("build", "products"), [(perceptron, 2), (both_ways, 1), (rows_times, 2)]
)
def test_convolutions_compute_what_the_products_did(build, products):
    plain, written = model(build), model(build)
    kept = halve(openvino, plain)

    weights = convolve(openvino, written, halve(openvino, written))

    assert len(kept) == products
    assert kinds(plain) == ["MatMul"] * products
    assert kinds(written) == ["Convolution"] * products
    assert [half.bits.shape for half in weights] == [(SIDE, SIDE, 1)] * products
    x = drawn(9, 1, ROWS, SIDE)
    for found, wanted in zip(computed(written, x), computed(plain, x), strict=True):
        assert found.shape == wanted.shape
        distance = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert distance < 1e-6


def test_a_weight_is_turned_unless_it_lies_as_a_convolution_has_it():
    one = model(perceptron)

    weights = convolve(openvino, one, halve(openvino, one))

    found = {half.bits[..., 0].tobytes() for half in weights}
    first, second = (rounded(drawn(seed, SIDE, SIDE)) for seed in (1, 4))
    assert found == {np.ascontiguousarray(first.T).tobytes(), second.tobytes()}


STEP = np.float32(0.05)


def integers(dtype=np.int8, scales=SIDE):
    rng = np.random.default_rng(5)
    whole = rng.integers(-63, 64, (SIDE, SIDE)).astype(dtype)
    return whole, rng.uniform(0.01, 0.02, scales).astype(np.float32)


def of_integers(x, zero=0, **how):
    """As the library reads an ONNX graph in 8 bits, activations and weights."""
    whole, column = integers(**how)
    low, high = (ops.constant(np.float32(k * STEP)) for k in (-128, 127))
    rows = ops.fake_quantize(x, low, high, low, high, 256)
    zeros = ops.constant(np.full(SIDE, zero, np.int8))
    difference = ops.subtract(
        ops.convert(ops.constant(whole), "f32"),
        ops.reshape(ops.convert(zeros, "f32"), [1, SIDE], False),
    )
    scales = ops.reshape(ops.constant(column), [1, column.size], False)
    matrix = ops.multiply(difference, scales)
    return [ops.add(ops.matmul(rows, matrix, False, False), drawn(6, SIDE))]


def test_products_of_integers_are_convolutions_of_integers():
    one = model(of_integers)

    assert convolve(openvino, one, halve(openvino, one)) == []

    assert kinds(one) == ["Convolution"]
    steps, (whole, column) = np.rint(400 * drawn(9, 1, ROWS, SIDE)), integers()
    assert np.abs(steps).max() < 127
    wanted = steps * float(STEP) @ (whole * column.astype(np.float64)) + drawn(6, SIDE)
    # Between two steps, so that nobody's rounding decides.
    (found,) = computed(one, (steps + np.float32(0.1)) * STEP)
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 1e-6


@pytest.mark.parametrize(
    "how", [{"scales": 1}, {"zero": 3}, {"dtype": np.uint8}], ids=str
)
def test_integers_of_another_kind_stay(how):
    one = model(lambda x: of_integers(x, **how))

    convolve(openvino, one, halve(openvino, one))

    assert kinds(one) == ["MatMul"]


def shared(x):
    weight = ops.constant(drawn(1, SIDE, SIDE))
    return [
        ops.matmul(x, weight, False, False),
        ops.matmul(ops.relu(x), weight, False, False),
    ]


@pytest.mark.parametrize(
    ("build", "rows", "batch"),
    [
        (perceptron, LEAST_ROWS - 1, 1),
        (perceptron, ROWS, 2),
        (shared, ROWS, 1),
        (lambda x: [product(x, 1, ta=True)], SIDE, 1),
        (
            lambda x: [ops.matmul(x, ops.constant(drawn(1, SIDE, 8)), False, False)],
            32,
            1,
        ),
    ],
    ids=["few rows", "two samples", "one weight twice", "turned input", "small"],
)
def test_other_products_stay(build, rows, batch):
    one = model(build, rows, batch)
    before = kinds(one)

    convolve(openvino, one, halve(openvino, one))

    assert kinds(one) == before
    assert "Convolution" not in before


def test_where_convolutions_are_faster():
    with_amx = "processor : 0\nflags\t\t: sse avx512_bf16 amx_bf16\nflags : other\n"

    assert cpu_flags(with_amx) == {"sse", "avx512_bf16", "amx_bf16"}
    assert not convolutions_are_faster(cpu_flags(with_amx))
    assert convolutions_are_faster({"avx512_bf16"})
    assert not convolutions_are_faster(cpu_flags(""))
    assert cpu_flags(cpu_facts()) == cpu_flags(cpu_facts().partition("\n\n")[0])
