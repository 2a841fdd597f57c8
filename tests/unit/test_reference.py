"""The reference backend is the definition: it agrees with three independent ones."""

import copy
import functools
import tempfile
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch.nn import functional as F

from export.assemble import autoencoder_modules
from export.fold import FoldedVelocity
from export.graphs import graph_from_module, write_graph
from runtime.bundle import open_bundle
from runtime.engine import open_engine
from runtime.engines.reference import Evaluation
from runtime.engines.reference_operators import OPERATORS
from runtime.errors import BackendError
from runtime.golden import map_verdicts
from runtime.manifest import GraphSpec, TensorSpec
from runtime.model import open_model
from runtime.onnx_graph import read_onnx
from runtime.onnx_values import tensor_values
from tests.models import random_model, tiny_bundle

INT = TensorProto.INT64


def apply(operator, inputs, attributes):
    found = OPERATORS[operator](tuple(inputs), attributes)
    return found[0] if len(found) == 1 else found


@functools.cache
def rng():
    return np.random.default_rng(0)


def numbers(*shape):
    return rng().normal(size=shape)


def ints(*values):
    return np.array(values, np.int64)


def levels(first, end, step):
    return np.arange(first, end, step, dtype=np.float32)


HALF = np.array(0.5, np.float32)
SLICES = np.array([1, -2, 0], np.int8)
CASES = [
    ("Add", [numbers(2, 3), numbers(3)], {}),
    ("Sub", [numbers(2, 3), numbers(2, 1)], {}),
    ("Mul", [numbers(2, 3), numbers(1)], {}),
    ("Div", [numbers(2, 3), numbers(3)], {}),
    ("Sqrt", [abs(numbers(5))], {}),
    ("Tanh", [numbers(5)], {}),
    ("Sigmoid", [numbers(5)], {}),
    ("Reciprocal", [numbers(5)], {}),
    ("ReduceMean", [numbers(2, 3, 4), ints(-1)], {}),
    ("ReduceMean", [numbers(2, 3, 4), ints(0, 2)], {"keepdims": 0}),
    ("ReduceL2", [numbers(2, 3, 1, 4), ints(2, 3)], {"keepdims": 1}),
    ("ReduceL2", [numbers(2, 3)], {}),
    ("Identity", [numbers(5)], {}),
    ("MatMul", [numbers(2, 4, 3), numbers(3, 5)], {}),
    ("Unsqueeze", [numbers(2, 3), ints(0, -1)], {}),
    ("Squeeze", [numbers(1, 3, 1), ints(-1)], {}),
    ("Squeeze", [numbers(1, 3, 1)], {}),
    ("Reshape", [numbers(2, 6), ints(0, 3, -1)], {}),
    ("Reshape", [numbers(0, 6), ints(3, 0)], {"allowzero": 1}),
    ("Transpose", [numbers(2, 3, 4)], {"perm": [2, 0, 1]}),
    ("Transpose", [numbers(2, 3, 4)], {}),
    ("Split", [numbers(2, 7), ints(3, 4)], {"axis": 1}),
    ("Split", [numbers(2, 7)], {"axis": 1, "num_outputs": 3}),
    ("Slice", [numbers(6, 5), ints(-3), ints(2**62)], {}),
    ("Slice", [numbers(6, 5), ints(5), ints(-(2**62)), ints(0), ints(-2)], {}),
    ("Slice", [numbers(6, 5), ints(1, 0), ints(4, -1), ints(1, 0), ints(2, 1)], {}),
    ("Gather", [numbers(4, 5), ints(3, -1, 0)], {"axis": 1}),
    ("Gather", [numbers(4, 5), np.array(2)], {}),
    ("Concat", [numbers(2, 3), numbers(2, 1)], {"axis": 1}),
    ("Softmax", [40 * numbers(3, 4)], {"axis": 0}),
    ("LayerNormalization", [numbers(2, 3, 4), numbers(4), numbers(4)], {}),
    (
        "LayerNormalization",
        [numbers(2, 3, 4), numbers(3, 4)],
        {"axis": 1, "epsilon": 0.5},
    ),
    ("RMSNormalization", [numbers(2, 3, 4), numbers(4)], {"epsilon": 0.25}),
    (
        "InstanceNormalization",
        [numbers(2, 3, 4), numbers(3), numbers(3)],
        {"epsilon": 0.25},
    ),
    # Ties, both ends of the range, and a step and a zero for each slice.
    ("QuantizeLinear", [levels(-70, 70, 0.125), HALF, np.array(3, np.int8)], {}),
    ("QuantizeLinear", [levels(-70, 70, 0.125), HALF, np.array(3, np.uint8)], {}),
    ("QuantizeLinear", [levels(-70, 70, 0.125), HALF], {}),
    (
        "QuantizeLinear",
        [levels(0, 12, 1).reshape(2, 3, 2), levels(1, 4, 1) / 4, SLICES],
        {"axis": 1},
    ),
    ("DequantizeLinear", [np.arange(-128, 128).astype(np.int8), HALF], {}),
    (
        "DequantizeLinear",
        [np.arange(12).astype(np.int8).reshape(4, 3), levels(1, 4, 1) / 4, SLICES],
        {"axis": -1},
    ),
]


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"),
    CASES,
    ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)],
)
def test_an_operator_is_what_onnx_says_it_is(operator, inputs, attributes):
    names = [f"i{i}" for i in range(len(inputs))]
    count = attributes.get("num_outputs", 2 if operator == "Split" else 1)
    outputs = [f"o{i}" for i in range(count)]
    graph = helper.make_graph(
        [helper.make_node(operator, names, outputs, **attributes)],
        "one",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(x.dtype), list(x.shape)
            )
            for name, x in zip(names, inputs, strict=True)
        ],
        [helper.make_tensor_value_info(o, TensorProto.DOUBLE, None) for o in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    wanted = ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))

    found = OPERATORS[operator](tuple(inputs), attributes)

    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert one.dtype == (np.float64 if other.dtype.kind == "f" else other.dtype)
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("operator", "attributes", "theirs"),
    [
        ("Erf", {}, torch.erf),
        ("Gelu", {}, F.gelu),
        ("Gelu", {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
    ],
)
def test_what_onnx_rounds_to_float32_is_torchs_in_float64(operator, attributes, theirs):
    x = numbers(50)

    found = apply(operator, [x], attributes)

    np.testing.assert_allclose(found, theirs(torch.tensor(x)).numpy(), rtol=1e-12)


def test_no_operator_goes_untested():
    assert OPERATORS.keys() - {c[0] for c in CASES} == {
        "Cast",
        "Conv",
        "ConvTranspose",
        "Erf",
        "Gelu",
    }


convolutions = st.tuples(
    st.integers(1, 3),  # stride
    st.integers(0, 3),  # padding
    st.integers(1, 2),  # dilation
    st.integers(1, 3),  # kernel
    st.sampled_from([1, 2]),  # groups
    st.booleans(),  # bias
)


@given(convolutions, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_convolution_is_torchs_in_float64(convolution, seed):
    stride, padding, dilation, kernel, groups, has_bias = convolution
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 4, 7, 9))
    weight = rng.normal(size=(6, 4 // groups, kernel, kernel))
    bias = rng.normal(size=6) if has_bias else None
    wanted = F.conv2d(
        torch.tensor(x),
        torch.tensor(weight),
        None if bias is None else torch.tensor(bias),
        stride,
        padding,
        dilation,
        groups,
    ).numpy()

    found = apply(
        "Conv",
        [x, weight, bias],
        {
            "strides": (stride,) * 2,
            "pads": (padding,) * 4,
            "dilations": (dilation,) * 2,
            "group": groups,
        },
    )

    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@given(convolutions, st.integers(0, 2), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_transposed_convolution_is_torchs_in_float64(convolution, more, seed):
    stride, padding, dilation, kernel, groups, has_bias = convolution
    more = min(more, max(stride, dilation) - 1)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 4, 8))
    weight = rng.normal(size=(4, 6 // groups, kernel))
    bias = rng.normal(size=6) if has_bias else None
    wanted = F.conv_transpose1d(
        torch.tensor(x),
        torch.tensor(weight),
        None if bias is None else torch.tensor(bias),
        stride,
        padding,
        more,
        groups,
        dilation,
    ).numpy()

    found = apply(
        "ConvTranspose",
        [x, weight, bias],
        {
            "strides": (stride,),
            "pads": (padding,) * 2,
            "dilations": (dilation,),
            "output_padding": (more,),
            "group": groups,
        },
    )

    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("to", "dtype"), [(1, np.float64), (16, np.float64), (7, np.int64), (9, np.bool_)]
)
def test_a_cast_to_any_float_keeps_float64(to, dtype):
    assert apply("Cast", [np.array([1.1])], {"to": to}).dtype == dtype


def test_a_cast_to_what_has_no_meaning_here_is_refused():
    with pytest.raises(BackendError) as caught:
        apply("Cast", [np.zeros(1)], {"to": 17})

    assert str(caught.value) == (
        "reference: expected a cast to floats, int32, int64 or bool, "
        "found element type 17"
    )


def test_a_sum_over_nothing_is_refused_where_it_would_change_nothing():
    with pytest.raises(BackendError) as caught:
        apply("ReduceL2", [np.zeros(1)], {"noop_with_empty_axes": 1})

    assert str(caught.value) == "reference: expected axes to reduce, found none"


@given(
    st.sampled_from(
        ["float32", "float64", "float16", "int64", "int32", "uint8", "bool"]
    ),
    st.lists(st.integers(0, 100), min_size=0, max_size=5),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_constants_numbers_are_read_however_they_are_stored(dtype, values, is_raw):
    array = np.array(values).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = (
        numpy_helper.from_array(array, "w")
        if is_raw
        else helper.make_tensor("w", kind, array.shape, array)
    )
    graph = helper.make_graph([], "g", [], [], [tensor])
    data = helper.make_model(graph).SerializeToString()

    (constant,) = read_onnx(data, "g").constants
    found = tensor_values(constant, Path(), "g")

    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_bfloat16_is_read_as_the_numbers_that_it_holds():
    tensor = helper.make_tensor(
        "w",
        TensorProto.BFLOAT16,
        [3],
        np.array([0x3F80, 0xC000, 0x3E80], "<u2").tobytes(),
        raw=True,
    )
    data = helper.make_model(
        helper.make_graph([], "g", [], [], [tensor])
    ).SerializeToString()

    (constant,) = read_onnx(data, "g").constants

    assert tensor_values(constant, Path(), "g").tolist() == [1.0, -2.0, 0.25]


@pytest.mark.parametrize("is_raw", [True, False])
def test_float8_is_read_as_the_numbers_that_it_holds(is_raw):
    array = np.array([1, -2, 448, 2**-9], ml_dtypes.float8_e4m3fn)
    tensor = (
        numpy_helper.from_array(array, "w")
        if is_raw
        else helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, [4], array)
    )
    graph = helper.make_graph([], "g", [], [], [tensor])

    (constant,) = read_onnx(helper.make_model(graph).SerializeToString(), "g").constants

    assert tensor_values(constant, Path(), "g").tolist() == [1, -2, 448, 2**-9]


def exported(module, shapes, inputs, outputs):
    """Evaluate a module in torch and its exported graph here, both in float64."""
    wide = copy.deepcopy(module).double()
    for part in wide.modules():
        if isinstance(getattr(part, "eps", None), float):
            # ONNX keeps attributes as float32: torch is to add the same number.
            part.eps = float(np.float32(part.eps))
    generator = torch.Generator().manual_seed(1)
    args = tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    graph = graph_from_module("g", wide, args, inputs=inputs, outputs=outputs)
    with torch.no_grad():
        wanted = wide(*args)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "g.onnx"
        write_graph(graph, path)
        evaluate = Evaluation(read_onnx(path.read_bytes(), "g"), path.parent, "g")
        found = evaluate({n: a.numpy() for n, a in zip(inputs, args, strict=True)})
    return [(found[n], w.numpy()) for n, w in zip(outputs, wanted, strict=True)]


@pytest.mark.slow
def test_every_exported_graph_is_torch_in_float64():
    model = random_model()
    voxels, flow = model.config.vae.voxels, model.config.flow
    folded = FoldedVelocity(model.field).eval()
    latent = (1, flow.tokens, flow.width)
    encoder, retrieval, decoder = autoencoder_modules(model.vae)
    results = [
        *exported(encoder, [(1, voxels)], ["voxels"], ["z_n"]),
        *exported(retrieval, [(1, voxels)], ["voxels"], ["retrieval"]),
        *exported(decoder, [latent], ["z_n"], ["voxels"]),
        *exported(
            folded,
            [latent, (1, sum(folded.sizes))],
            ["z", "modulation"],
            ["velocity"],
        ),
    ]

    for found, wanted in results:
        assert np.linalg.norm(found - wanted) <= 1e-12 * np.linalg.norm(wanted)


@pytest.mark.slow
def test_a_bundles_graphs_agree_with_onnx_runtime_and_its_golden_vectors():
    with open_bundle(tiny_bundle()) as bundle:
        for graph in bundle.manifest.graphs:
            path = bundle.folder / graph.file
            rng = np.random.default_rng(2)
            inputs = {
                spec.name: rng.normal(size=spec.shape).astype(np.float32)
                for spec in graph.inputs
            }
            session = onnxruntime.InferenceSession(
                str(path), providers=["CPUExecutionProvider"]
            )
            names = [spec.name for spec in graph.outputs]
            wanted = session.run(names, inputs)
            engine = open_engine("reference", path, graph)

            found = engine.run(inputs)

            for name, one in zip(names, wanted, strict=True):
                error = np.linalg.norm(found[name] - one)
                assert error <= 1e-5 * np.linalg.norm(one), (graph.name, name)
            engine.close()
        for form in (None, "step"):
            with open_model(bundle, "reference", form=form) as model:
                found = list(map_verdicts(model.maps(), bundle.golden()))
                assert max(one.rel_l2 for one in found) <= 1e-6


def small(node, *constants):
    return helper.make_model(
        helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
            list(constants),
        ),
        opset_imports=[helper.make_opsetid("", 20)],
    )


SPEC = GraphSpec(
    name="g",
    file="graphs/g.onnx",
    opset=20,
    precision="f32",
    inputs=(TensorSpec(name="x", shape=(1, 3)),),
    outputs=(TensorSpec(name="y", shape=(1, 2)),),
)


def opened(tmp_path, model: onnx.ModelProto):
    path = tmp_path / "g.onnx"
    path.write_bytes(model.SerializeToString())
    return open_engine("reference", path, SPEC)


def test_an_operator_that_is_not_defined_here_is_named(tmp_path):
    with pytest.raises(BackendError) as caught:
        opened(tmp_path, small(helper.make_node("Det", ["x"], ["y"])))

    assert str(caught.value).endswith(", found Det")
    assert "\n" not in str(caught.value)


def test_shapes_that_do_not_fit_are_one_line(tmp_path):
    weight = numpy_helper.from_array(np.zeros((4, 2), np.float32), "w")
    engine = opened(
        tmp_path, small(helper.make_node("MatMul", ["x", "w"], ["y"]), weight)
    )

    with pytest.raises(
        BackendError, match=r"^reference: graphs/g.onnx: MatMul: "
    ) as caught:
        engine.run({"x": np.zeros((1, 3), np.float32)})

    assert "\n" not in str(caught.value)


def test_an_output_of_another_shape_is_not_stretched(tmp_path):
    held = numpy_helper.from_array(np.ones((3, 1), np.float32), "w")
    engine = opened(
        tmp_path, small(helper.make_node("MatMul", ["x", "w"], ["y"]), held)
    )

    with pytest.raises(BackendError) as caught:
        engine.run({"x": np.ones((1, 3), np.float32)})

    assert str(caught.value) == (
        "reference: y: expected shape [1, 2] as the manifest's, found [1, 1]"
    )


@pytest.mark.parametrize("weight", [3e38, np.inf])
def test_what_is_not_finite_is_a_result_and_no_warning(tmp_path, weight):
    held = numpy_helper.from_array(np.full((3, 2), weight, np.float32), "w")
    engine = opened(
        tmp_path, small(helper.make_node("MatMul", ["x", "w"], ["y"]), held)
    )

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = engine.run({"x": np.array([[0, 2, -4 if weight > 1e39 else 4]], "f4")})

    assert not np.isfinite(found["y"]).any()


def test_another_precision_is_refused(tmp_path):
    with pytest.raises(BackendError) as caught:
        open_engine(
            "reference",
            tiny_file(tmp_path),
            SPEC,
            precision="bf16",
        )

    assert str(caught.value) == (
        "reference: expected precision f32, computed in float64, found bf16. Export "
        "the bundle in that precision, or choose f32."
    )


def tiny_file(tmp_path):
    weight = numpy_helper.from_array(np.zeros((3, 2), np.float32), "w")
    path = tmp_path / "g.onnx"
    model = small(helper.make_node("MatMul", ["x", "w"], ["y"]), weight)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_closed_engine_says_so(tmp_path):
    engine = open_engine("reference", tiny_file(tmp_path), SPEC)
    engine.close()

    with pytest.raises(BackendError) as caught:
        engine.run({"x": np.zeros((1, 3), np.float32)})

    assert str(caught.value) == "reference: expected an open engine, found it closed"
