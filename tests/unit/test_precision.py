"""A half graph computes in half what it says, and float32 elsewhere."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from export.graphs import Graph, write_graph
from export.precision import HALVES, halved, rounded_in_float32
from runtime.errors import ParityError
from runtime.manifest import TensorSpec

KINDS = {"f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def graph_of(nodes, weights, *, inputs=("x",), outputs=("y",), shape=(1, 3)) -> Graph:
    return Graph(
        "small",
        tuple(helper.make_node(op, [*i], [*o], **a) for op, i, o, a in nodes),
        tuple(TensorSpec(name=name, shape=shape) for name in inputs),
        tuple(TensorSpec(name=name, shape=shape) for name in outputs),
        weights,
    )


def linear(weight, bias) -> Graph:
    nodes = [("MatMul", "xw", "h", {}), ("Add", "hb", "y", {})]
    return graph_of(nodes, {"w": weight, "b": bias})


def attention() -> Graph:
    """Two products with a softmax between them."""
    nodes = [
        ("MatMul", "xw", "s", {}),
        ("Softmax", "s", "p", {"axis": -1}),
        ("MatMul", "pw", "y", {}),
    ]
    return graph_of(nodes, {"w": np.arange(9, dtype=np.float32).reshape(3, 3) / 7})


def residual() -> Graph:
    """A normalised, gated product added to its own input, as in a block."""
    nodes = [
        ("LayerNormalization", "xs", "n", {"axis": -1}),
        ("MatMul", "nw", "h", {}),
        ("Gelu", "h", "g", {"approximate": "tanh"}),
        ("Mul", "rg", "m", {}),
        ("Add", "xm", "y", {}),
    ]
    weights = {
        "s": np.ones(3, np.float32),
        "w": np.arange(9, dtype=np.float32).reshape(3, 3) / 7,
    }
    return graph_of(nodes, weights, inputs=("x", "r"))


def proto_of(graph, path):
    write_graph(graph, path)
    onnx.checker.check_model(str(path), full_check=True)
    return onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)


def by_ort(graph, path, inputs):
    write_graph(graph, path)
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)[0]


def types_of(model):
    known = {w.name: w.data_type for w in model.graph.initializer}
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    return known | {v.name: v.type.tensor_type.elem_type for v in values}


@pytest.mark.parametrize("precision", HALVES)
def test_products_are_half_and_everything_else_is_float32(tmp_path, precision):
    model = proto_of(halved(residual(), precision), tmp_path / "g.onnx")

    types = types_of(model)
    found = {n.op_type: {types[i] for i in n.input} for n in model.graph.node}
    assert found["LayerNormalization"] == {TensorProto.FLOAT}
    assert found["MatMul"] == {KINDS[precision]}
    for op in ("Gelu", "Mul", "Add"):
        assert found[op] == {TensorProto.FLOAT}
    assert types["x"] == types["r"] == types["y"] == TensorProto.FLOAT


@pytest.mark.parametrize("precision", HALVES)
def test_the_statistics_of_a_norm_are_float32_behind_a_half_product(
    tmp_path, precision
):
    statistics = [
        ("ReduceMean", "hi", "m", {}),
        ("Sub", "hm", "d", {}),
        ("ReduceL2", "di", "l", {}),
        ("Div", "lc", "v", {}),
        ("Sqrt", "v", "s", {}),
        ("Reciprocal", "s", "r", {}),
        ("Mul", "hr", "y", {}),
    ]
    weights = {
        "w": np.eye(3, dtype=np.float32),
        "c": np.array(3, np.float32),
        "i": np.array([1], np.int64),
    }
    graph = graph_of([("MatMul", "xw", "h", {}), *statistics], weights)

    model = proto_of(halved(graph, precision), tmp_path / "g.onnx")

    types = types_of(model)
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Cast"):
            assert types[node.input[0]] == TensorProto.FLOAT, node.op_type


def test_no_cast_comes_between_the_two_products_of_attention():
    graph = halved(attention(), "bf16")

    operators = [node.op_type for node in graph.nodes]
    assert operators == ["Cast", "MatMul", "Softmax", "MatMul", "Cast"]


def test_a_half_weight_takes_half_the_bytes_and_nothing_is_kept_twice():
    graph = halved(residual(), "bf16")

    assert {k: v.dtype for k, v in graph.weights.items()} == {
        "s": np.float32, "w.half": ml_dtypes.bfloat16
    }  # fmt: skip
    assert graph.precision == graph.spec("g.onnx").precision == "bf16"


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(HALVES)), st.integers(0, 2**32 - 1), st.integers(-8, 4))
def test_rounding_is_that_of_numpy_operator_by_operator(
    tmp_path_factory, precision, seed, exponent
):
    """Small integers times a power of two: sums of three products are exact."""
    rng = np.random.default_rng(seed)
    dtype = HALVES[precision]

    def numbers(*shape):
        drawn = rng.integers(-2000, 2000, size=shape)
        return (drawn * 2.0**exponent).astype(np.float32)

    x, weight, bias = numbers(1, 3), numbers(3, 3) * 2.0**-10, numbers(3)
    path = tmp_path_factory.mktemp("g") / "g.onnx"

    found = by_ort(
        rounded_in_float32(halved(linear(weight, bias), precision)), path, {"x": x}
    )

    with np.errstate(over="ignore"):
        a, b = (array.astype(dtype).astype(np.float64) for array in (x, weight))
        product = (a @ b).astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(found, product + bias)


@pytest.mark.parametrize("precision", HALVES)
def test_the_rounding_graph_is_what_another_evaluator_makes_of_the_half_graph(
    tmp_path, precision
):
    graph = halved(residual(), precision)
    rng = np.random.default_rng(0)
    inputs = {key: rng.normal(size=(1, 3)).astype(np.float32) for key in ("x", "r")}
    write_graph(graph, tmp_path / "half.onnx")

    wanted = ReferenceEvaluator(str(tmp_path / "half.onnx")).run(None, inputs)[0]
    found = by_ort(rounded_in_float32(graph), tmp_path / "g.onnx", inputs)
    exact = by_ort(residual(), tmp_path / "exact.onnx", inputs)

    # One rounding of the gated part, of about the size of the gate.
    ulp = 2.0 ** {"f16": -10, "bf16": -7}[precision]
    np.testing.assert_allclose(found, wanted, atol=2 * ulp)
    assert (found != exact).any()


def test_a_number_beyond_float16_becomes_infinite_and_is_not_hidden(tmp_path):
    weight, bias = np.eye(3, dtype=np.float32) * 300, np.zeros(3, np.float32)
    x = np.array([[1, 250, -250]], np.float32)

    half = halved(linear(weight, bias), "f16")
    found = by_ort(rounded_in_float32(half), tmp_path / "rounded.onnx", {"x": x})
    hidden = by_ort(half, tmp_path / "half.onnx", {"x": x})

    np.testing.assert_array_equal(found, [[300, np.inf, -np.inf]])
    # Why a half graph is not judged by what a float32 engine makes of it.
    np.testing.assert_array_equal(hidden, [[300, 75000, -75000]])
    wide = rounded_in_float32(halved(linear(weight, bias), "bf16"))
    assert np.isfinite(by_ort(wide, tmp_path / "bf16.onnx", {"x": x})).all()


def test_an_operator_that_nobody_judged_is_refused():
    with pytest.raises(ParityError) as caught:
        halved(graph_of([("Exp", "x", "y", {})], {}), "f16")

    assert str(caught.value) == (
        "Exp: expected an operator whose half precision is known, one of Add, Conv, "
        "ConvTranspose, Div, Gather, Gelu, InstanceNormalization, "
        "LayerNormalization, MatMul, Mul, Reciprocal, ReduceL2, ReduceMean, Reshape, "
        "Sigmoid, Slice, Softmax, Split, Sqrt, Squeeze, Sub, Transpose, Unsqueeze"
    )


def test_only_a_half_graph_can_be_rounded():
    with pytest.raises(ParityError) as caught:
        rounded_in_float32(residual())

    assert str(caught.value) == ("small: expected a graph in f16 or bf16, found f32")
