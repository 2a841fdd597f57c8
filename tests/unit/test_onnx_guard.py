"""No library parses a graph that is not flat, standard, whole and as listed."""

import functools
import shutil

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from runtime.engine import open_engine
from runtime.errors import BundleError, TensorMismatchError
from runtime.manifest import TensorSpec, decode_manifest
from runtime.onnx_graph import OnnxGraph, read_onnx
from runtime.onnx_guard import check_file
from runtime.onnx_operators import OPERATORS
from tests.affine_graph import SPEC, WEIGHT, affine
from tests.models import tiny_bundle

FLOAT = TensorProto.FLOAT


def external(location: str, *, offset=0, length=24) -> TensorProto:
    tensor = TensorProto(
        name="w", dims=[3, 2], data_type=FLOAT, data_location=TensorProto.EXTERNAL
    )
    for key, value in {
        "location": location,
        "offset": str(offset),
        "length": str(length),
    }.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def refusal(model: onnx.ModelProto, folder, spec=SPEC) -> str:
    path = folder / "affine.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises((BundleError, TensorMismatchError)) as caught:
        check_file(path, spec)
    return str(caught.value)


@pytest.mark.slow
def test_every_fact_of_an_exported_graph_is_what_onnx_itself_reads():
    bundle = tiny_bundle()
    for path in sorted(bundle.glob("graphs/*.onnx")):
        theirs = onnx.load(path, load_external_data=False)

        ours = read_onnx(path.read_bytes(), path.name)

        assert ours.opsets == {o.domain: o.version for o in theirs.opset_import}
        for found, wanted in (
            (ours.inputs, theirs.graph.input),
            (ours.outputs, theirs.graph.output),
        ):
            assert [(p.name, list(p.shape)) for p in found] == [
                (p.name, [d.dim_value for d in p.type.tensor_type.shape.dim])
                for p in wanted
            ]
        assert len(ours.nodes) == len(theirs.graph.node)
        for node, wanted_node in zip(ours.nodes, theirs.graph.node, strict=True):
            assert (node.operator, node.domain) == (wanted_node.op_type, "")
            assert list(node.inputs) == list(wanted_node.input)
            assert list(node.outputs) == list(wanted_node.output)
            for attribute in wanted_node.attribute:
                value = helper.get_attribute_value(attribute)
                wanted_value = {bytes: lambda v: v.decode(), list: tuple}.get(
                    type(value), lambda v: v
                )(value)
                assert node.attributes[attribute.name] == wanted_value
        for tensor, wanted_tensor in zip(
            ours.constants, theirs.graph.initializer, strict=True
        ):
            assert (tensor.name, list(tensor.shape)) == (
                wanted_tensor.name,
                list(wanted_tensor.dims),
            )
            assert bytes(tensor.raw or b"") == wanted_tensor.raw_data
            entries = {e.key: e.value for e in wanted_tensor.external_data}
            if tensor.external:
                assert entries == {
                    "location": tensor.external.location,
                    "offset": str(tensor.external.offset),
                    "length": str(tensor.external.length),
                }
            else:
                assert entries == {}


@pytest.mark.slow
def test_a_bundle_passes():
    bundle = tiny_bundle()
    manifest = decode_manifest((bundle / "manifest.json").read_bytes())

    for graph in manifest.graphs:
        check_file(bundle / graph.file, graph)


def test_the_operators_are_the_standards():
    standard = {s.name for s in onnx.defs.get_all_schemas() if s.domain == ""}

    assert standard >= OPERATORS
    for name in ("If", "Loop", "Scan", "RandomNormal", "ImageDecoder", "StringConcat"):
        assert name in standard - OPERATORS


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            helper.make_node("Steal", ["x", "w"], ["y"]),
            "expected operators of the ONNX standard on plain tensors, "
            "found ai.onnx.Steal",
        ),
        (
            helper.make_node("MatMul", ["x", "w"], ["y"], domain="com.microsoft"),
            "expected operators of the ONNX standard on plain tensors, "
            "found com.microsoft.MatMul",
        ),
        (
            helper.make_node("MatMul", ["x", "w"], ["y"], overload="f"),
            "MatMul: expected an operator, found a function",
        ),
        (
            helper.make_node("Loop", ["x"], ["y"], body=affine().graph),
            "Loop: expected a plain operator, found a subgraph",
        ),
        (
            helper.make_node("MatMul", ["x", "w"], ["y"], a="line\nbreak"),
            "MatMul: expected printable text, found b'line\\nbreak'",
        ),
    ],
)
def test_an_operator_beside_the_standard_is_refused(tmp_path, node, message):
    assert refusal(affine(node=node), tmp_path) == f"graphs/affine.onnx: {message}"


def test_functions_are_refused(tmp_path):
    function = helper.make_function(
        "mine", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], []
    )

    assert refusal(affine(functions=[function]), tmp_path) == (
        "graphs/affine.onnx: expected a flat graph, found local functions"
    )


@pytest.mark.parametrize(
    ("opsets", "found"),
    [
        ([("", 21)], "ai.onnx 21"),
        ([("", 20), ("evil", 1)], "ai.onnx 20, evil 1"),
        ([("evil", 1)], "evil 1"),
    ],
)
def test_another_opset_or_domain_is_refused(tmp_path, opsets, found):
    imports = [helper.make_opsetid(*pair) for pair in opsets]

    assert refusal(affine(opset_imports=imports), tmp_path) == (
        f"graphs/affine.onnx: expected opset 20 of ai.onnx alone, found {found}"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"outputs": (TensorSpec(name="y", shape=(1, 7)),)},
            "outputs: expected y float32 [1, 7], found y float32 [1, 2]",
        ),
        (
            {"inputs": (TensorSpec(name="x", shape=(1, 3), dtype="int64"),)},
            "inputs: expected x int64 [1, 3], found x float32 [1, 3]",
        ),
        ({"inputs": ()}, "inputs: expected none, found x float32 [1, 3]"),
    ],
)
def test_ports_that_differ_from_the_manifest_are_refused(tmp_path, changes, message):
    import msgspec

    spec = msgspec.structs.replace(SPEC, **changes)

    assert refusal(affine(), tmp_path, spec) == f"graphs/affine.onnx: {message}"


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "sub/w.weights", "missing", "link", ""]
)
def test_weights_that_lie_elsewhere_are_refused(tmp_path, location):
    folder = tmp_path / "graphs"
    (folder / "sub").mkdir(parents=True)
    for path in (tmp_path / "secret", folder / "sub/w.weights"):
        path.write_bytes(bytes(64))
    (folder / "link").symlink_to(tmp_path / "secret")

    assert refusal(affine(weight=external(location)), folder) == (
        "graphs/affine.onnx: w: expected its bytes in a file beside the graph, "
        f"found {location!r}"
    )


def test_weights_beyond_the_end_of_their_file_are_refused(tmp_path):
    (tmp_path / "w.weights").write_bytes(bytes(64))

    found = refusal(affine(weight=external("w.weights", offset=48)), tmp_path)

    assert found == (
        "graphs/affine.onnx: w: expected its bytes within the 64 of w.weights, "
        "found them to end at 72"
    )


def test_a_length_that_is_not_the_shapes_is_refused(tmp_path):
    (tmp_path / "w.weights").write_bytes(bytes(64))

    found = refusal(affine(weight=external("w.weights", length=8)), tmp_path)

    assert found == (
        "graphs/affine.onnx: w: expected 24 bytes for float32 [3, 2], found 8"
    )


def test_a_field_said_twice_is_refused(tmp_path):
    """Two parsers may take one the first and the other the last."""
    data = affine().SerializeToString()

    with pytest.raises(BundleError, match="expected field 7 once, found twice"):
        read_onnx(data + affine().SerializeToString()[2:], "g")


@pytest.mark.parametrize(
    "data", [b"", b"\x08\x0a", b"\x08\x0anothing more", b"PK\x03\x04", b"\x0f" * 64]
)
def test_what_is_no_graph_is_one_line(tmp_path, data):
    path = tmp_path / "affine.onnx"
    path.write_bytes(data)

    with pytest.raises(BundleError) as caught:
        open_engine("ort", path, SPEC)

    assert str(caught.value).startswith("graphs/affine.onnx: expected ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(BundleError) as caught:
        open_engine("ort", tmp_path / "none.onnx", SPEC)

    assert str(caught.value) == (
        "graphs/affine.onnx: expected a readable file, found No such file or directory"
    )


def test_no_library_is_loaded_for_a_file_that_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "affine.onnx"
    path.write_bytes(
        affine(node=helper.make_node("Steal", ["x"], ["y"])).SerializeToString()
    )
    loaded = []
    monkeypatch.setattr("importlib.import_module", loaded.append)

    with pytest.raises(BundleError):
        open_engine("openvino", path, SPEC)

    assert loaded == []


@functools.cache
def sound() -> bytes:
    """A file with every kind of field that the reader knows."""
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], name="n", i=1, f=0.5, s="s", ints=[1, 2],
        floats=[0.5, 1.0], t=numpy_helper.from_array(WEIGHT),
    )  # fmt: skip
    model = affine(node=node, weight=external("w.weights"))
    model.graph.initializer.append(helper.make_tensor("f", FLOAT, [2], [1.0, 2.0]))
    model.graph.initializer.append(helper.make_tensor("i", 7, [2], [1, -2]))
    return model.SerializeToString()


def facts_or_refusal(data: bytes) -> OnnxGraph | str:
    """What the reader makes of bytes; any other exception is the test's failure."""
    try:
        return read_onnx(data, "g")
    except BundleError as error:
        return str(error)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_changed_bytes_give_facts_or_the_typed_error(data):
    found = bytearray(sound())
    for _ in range(data.draw(st.integers(1, 4), label="changes")):
        at = data.draw(st.integers(0, len(found) - 1), label="at")
        kind = data.draw(st.sampled_from(["set", "cut", "insert"]), label="kind")
        if kind == "set":
            found[at] = data.draw(st.integers(0, 255), label="byte")
        elif kind == "cut" and len(found) > 8:
            del found[at : at + data.draw(st.integers(1, 8), label="count")]
        else:
            found[at:at] = data.draw(st.binary(max_size=8), label="bytes")

    graph = facts_or_refusal(bytes(found))
    if isinstance(graph, str):
        assert graph.isprintable()
        assert len(graph) < 1000
    else:
        # All that it keeps are views of the file, or takes as much as the file.
        held = sum(len(t.raw or ()) + len(t.typed or ()) for t in graph.tensors())
        assert held <= len(found)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_facts_or_the_typed_error(data):
    graph = facts_or_refusal(data)

    assert isinstance(graph, OnnxGraph) or graph.startswith("g: ")


def test_nesting_costs_no_recursion():
    """A subgraph is refused when it is met, however deep the others below it are."""
    inner = affine().graph
    for _ in range(20):
        outer = helper.make_graph([], "g", [], [])
        outer.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner))
        inner = outer
    model = affine()
    model.graph.CopyFrom(inner)

    with pytest.raises(BundleError, match="If: expected a plain operator"):
        read_onnx(model.SerializeToString(), "g")


def test_a_shape_of_absurd_size_is_refused_before_anything_is_allocated(tmp_path):
    model = affine(weight=TensorProto(name="w", dims=[2**40, 2**40], data_type=FLOAT))

    assert refusal(model, tmp_path) == (
        "graphs/affine.onnx: w: expected at most 17179869184 elements in 16 "
        "dimensions, found [1099511627776, 1099511627776]"
    )


@pytest.mark.slow
def test_a_bundle_whose_weights_were_cut_short_is_refused(tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle(), folder)
    weights = folder / "graphs/flow.weights"
    weights.write_bytes(weights.read_bytes()[:-64])
    manifest = decode_manifest((folder / "manifest.json").read_bytes())

    with pytest.raises(BundleError, match=r"within the \d+ of flow.weights"):
        check_file(folder / "graphs/step.onnx", manifest.graph("step"))
