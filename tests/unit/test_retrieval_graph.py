"""A bundle from before the retrieval features had a graph of their own.

Its encoder gives them beside z_n. It is served as it was; what asks for the features
themselves says what to do.
"""

import shutil

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from runtime.bundle import open_bundle, write_manifest
from runtime.errors import BundleError
from runtime.graphs import BOTH_WAYS, PARTS, SERVED, map_limits
from runtime.manifest import TensorSpec, decode_manifest
from runtime.model import open_model
from runtime.sealed import seal
from tests.in_process import said
from tests.models import tiny_bundle

LINE = (
    "manifest.json: expected a graph retrieval, found encoder, decoder, step, "
    "decode_flow, encode_flow. Export the bundle again."
)


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """The tiny bundle as it was exported then."""
    folder = tmp_path_factory.mktemp("before") / "bundle"
    shutil.copytree(tiny_bundle(), folder)
    path = folder / "graphs/encoder.onnx"
    model = onnx.load(path, load_external_data=False)
    (z_n,) = model.graph.output
    shape = [side.dim_value for side in z_n.type.tensor_type.shape.dim]
    model.graph.node.append(helper.make_node("Sigmoid", ["z_n"], ["retrieval"]))
    model.graph.output.append(
        helper.make_tensor_value_info("retrieval", TensorProto.FLOAT, shape)
    )
    path.write_bytes(model.SerializeToString())
    (folder / "graphs/retrieval.onnx").unlink()
    manifest = decode_manifest((folder / "manifest.json").read_bytes())
    second = TensorSpec(name="retrieval", shape=tuple(shape))
    graphs = tuple(
        msgspec.structs.replace(graph, outputs=(*graph.outputs, second))
        if graph.name == "encoder"
        else graph
        for graph in manifest.graphs
        if graph.name != "retrieval"
    )
    (folder / "manifest.json").unlink()
    write_manifest(
        folder, msgspec.structs.replace(manifest, graphs=graphs, files=seal(folder))
    )
    return folder


@pytest.mark.parametrize("backend", ["ort", "openvino", "reference"])
@pytest.mark.parametrize("parts", [SERVED, BOTH_WAYS])
def test_it_answers_and_predicts_as_one_of_today(before, backend, parts):
    found = []
    for folder in (before, tiny_bundle()):
        with (
            open_bundle(folder) as bundle,
            open_model(bundle, backend, parts=parts, threads=1) as model,
        ):
            assert {"encoder", "retrieval"} < map_limits(
                bundle.manifest, backend, "f32"
            ).keys()
            voxels = bundle.golden()["voxels"][0]
            found.append(model.decode_latent(model.encode_voxels(voxels)))

    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


def test_the_features_are_asked_of_a_new_export(before):
    for parts in (PARTS, ("retrieval",)):
        with open_bundle(before) as bundle, pytest.raises(BundleError) as caught:
            open_model(bundle, "ort", parts=parts)
        assert str(caught.value) == LINE


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("verify",), ("compile", "--backend", "openvino")]
)
def test_what_judges_the_whole_bundle_says_so_in_one_line(
    before, tmp_path, monkeypatch, arguments
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    verb, *rest = arguments

    status, output, error = said(verb, before, *rest)

    assert (status, output) == (BundleError.exit_status, "")
    assert error.splitlines()[-1] == f"neuroflow: {LINE}"
    assert "Traceback" not in error
