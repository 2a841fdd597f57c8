"""Weights in bfloat16 before OpenVINO sees them: rounded as it would, and no other."""

import re
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from openvino import opset13 as ops

from runtime.engines.cache import EngineCache, KeptEngine
from runtime.engines.openvino import open_engine
from runtime.engines.openvino_weights import LEAST, halve, rounded
from runtime.manifest import GraphSpec, TensorSpec

SIDE = 256
CORE = openvino.Core()
HAS_BF16 = "BF16" in CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
NO_BF16 = "not run: this processor has no bfloat16"
CONFIG = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": "1"}
NAN_BITS = 0x7FC0


@given(
    hnp.arrays(np.uint32, st.integers(1, 40), elements=st.integers(0, 2**32 - 1)).map(
        lambda bits: bits.view(np.float32)
    )
)
def test_every_number_is_rounded_as_torch_rounds_it(values):
    wanted = torch.from_numpy(values.copy()).to(torch.bfloat16).float().numpy()

    found = (rounded(values).astype(np.uint32) << 16).view(np.float32)

    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (0x3F80_8000, 0x3F80),  # halfway, to even below
        (0x3F81_8000, 0x3F82),  # halfway, to even above
        (0x7F7F_FFFF, 0x7F80),  # the largest becomes infinite
        (0xFF80_0000, 0xFF80),  # infinite stays
        (0x7FFF_FFFF, NAN_BITS),  # not -0, which the carry would make of it
    ],
)
def test_numbers_by_hand(value, bits):
    one = np.array([value], np.uint32).view(np.float32)

    assert rounded(one).tolist() == [bits]


def drawn(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape, dtype=np.float32)


def model(rows=2):
    """A large and a small weight, a bias, one used as no weight, and a convolution."""
    x = ops.parameter([rows, SIDE], np.float32, name="x")
    assert SIDE * SIDE >= LEAST
    y = ops.matmul(x, ops.constant(drawn(SIDE, SIDE)), False, False)
    y = ops.add(y, ops.constant(drawn(SIDE)))
    y = ops.matmul(y, ops.constant(drawn(SIDE, 8)), False, False)
    y = ops.matmul(ops.constant(drawn(LEAST // 2, rows)), y, False, False)
    y = ops.reshape(y, [1, 8, LEAST // 2], False)
    kernel = ops.constant(drawn(LEAST // 64, 8, 8))
    y = ops.convolution(y, kernel, [1024], [0], [0], [1])
    return openvino.Model([ops.result(y)], [x], "m")


def constants(one):
    return {
        node.get_friendly_name(): node.data.copy()
        for node in one.get_ops()
        if node.get_type_name() == "Constant"
        and node.get_element_type() == openvino.Type.f32
    }


def test_large_weights_of_products_alone_are_rounded_and_all_others_are_as_before():
    one = model()
    before = constants(one)

    kept = halve(openvino, one)

    after = constants(one)
    (gone,) = before.keys() - after.keys()
    assert before[gone].shape == (SIDE, SIDE)
    for name, values in after.items():
        np.testing.assert_array_equal(values, before[name])
    converts = [node for node in one.get_ops() if node.get_type_name() == "Convert"]
    (constant,) = (node.input(0).get_source_output().get_node() for node in converts)
    assert constant.get_element_type() == openvino.Type.bf16
    np.testing.assert_array_equal(kept[0].bits, rounded(before[gone]))


def test_what_a_graph_converts_itself_stays_as_it_is():
    x = ops.parameter([2, SIDE], np.float32, name="x")
    half = ops.convert(ops.constant(drawn(SIDE, SIDE).astype(np.float16)), "f32")
    scale = ops.convert(ops.constant(np.int64(3)), "f32")
    y = ops.multiply(ops.matmul(x, half, False, False), scale)
    one = openvino.Model([ops.result(y)], [x], "m")

    assert halve(openvino, one) == []

    kinds = [
        node.input(0).get_source_output().get_element_type()
        for node in one.get_ops()
        if node.get_type_name() == "Convert"
    ]
    assert sorted(map(str, kinds)) == sorted(
        map(str, (openvino.Type.f16, openvino.Type.i64))
    )


@pytest.mark.skipif(not HAS_BF16, reason=NO_BF16)
def test_the_answers_are_those_of_the_library_s_own_rounding_to_the_bit():
    # As many rows as a latent has tokens; with two the library adds in another order.
    x, halved = drawn(SIDE, SIDE), model(SIDE)
    kept = halve(openvino, halved)

    found, wanted = (
        CORE.compile_model(one, "CPU", CONFIG)({0: x})[0]
        for one in (halved, model(SIDE))
    )

    assert kept
    np.testing.assert_array_equal(found, wanted)


def test_a_library_without_the_marks_keeps_its_weights_as_they_are(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino._offline_transformations", None)
    one = model()
    before = constants(one)

    assert halve(openvino, one) == []

    after = constants(one)
    assert after.keys() == before.keys()


def written_to(part):
    """Kilobytes of a mapped file that this process has copies of, by changing them."""
    text = Path("/proc/self/smaps").read_text()
    entries = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.MULTILINE)
    found = [
        int(re.search(r"^Anonymous: +(\d+)", one, re.MULTILINE)[1])
        for one in entries
        if part in one.partition("\n")[0]
    ]
    assert found
    return sum(found)


@pytest.mark.parametrize(
    "precision",
    [
        "f32",
        pytest.param("bf16", marks=pytest.mark.skipif(not HAS_BF16, reason=NO_BF16)),
    ],
)
def test_the_library_does_not_write_into_an_engine_that_it_loads(tmp_path, precision):
    x = ops.parameter([SIDE, SIDE], np.float32, name="x")
    y = ops.matmul(x, ops.constant(drawn(SIDE, SIDE)), False, False)
    y.output(0).set_names({"y"})
    openvino.save_model(
        openvino.Model([ops.result(y)], [x], "m"), tmp_path / "m.xml", False
    )
    x_port, y_port = (TensorSpec(name=name, shape=(SIDE, SIDE)) for name in "xy")
    spec = GraphSpec(
        name="step",
        file="m.xml",
        opset=20,
        precision="f32",
        inputs=(x_port,),
        outputs=(y_port,),
    )
    cache = EngineCache(tmp_path / "engines")
    kept = KeptEngine(cache=cache, graph="a" * 64, name="step", precision="f32")

    engine = open_engine(
        tmp_path / "m.xml", spec, precision=precision, threads=1, kept=kept
    )

    # What would be lost, because its memory is given back.
    assert written_to(".engine") == 0
    found = engine.run({"x": np.eye(SIDE, dtype=np.float32)})["y"]
    np.testing.assert_allclose(found, drawn(SIDE, SIDE), rtol=5e-3)
    engine.close()
