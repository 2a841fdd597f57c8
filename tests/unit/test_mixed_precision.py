"""A bundle that has the flow in 8 bits and its other maps in float32."""

import dataclasses
import json

import msgspec
import numpy as np
import pytest

from runtime.bundle import Bundle, open_bundle
from runtime.engine import open_engine
from runtime.errors import BackendError, BundleError, ParityError
from runtime.golden import BY_HINT, LIMITS
from runtime.graphs import graph_of, map_limits
from runtime.model import open_model
from tests.models import served_bundle
from verbs import verify

FLOW = ("step", "decode_flow", "encode_flow")
FLOWS = ("decode_flow", "encode_flow")
OTHERS = ("encoder", "retrieval", "decoder")


def replaced(bundle, graphs):
    return dataclasses.replace(
        bundle, manifest=msgspec.structs.replace(bundle.manifest, graphs=tuple(graphs))
    )


@pytest.fixture
def bundle():
    """Its graphs of the flow are said to be in int8: what they are is not asked."""
    with open_bundle(served_bundle()) as bundle:
        plain = bundle.manifest.graphs
        int8 = [
            msgspec.structs.replace(graph, precision="int8")
            for graph in plain
            if graph.name in FLOW
        ]
        yield replaced(bundle, (*plain, *int8))


@pytest.mark.parametrize("backend", ["ort", "openvino", "reference", "tensorrt"])
def test_each_map_is_held_to_its_own_precision(bundle, backend):
    # OpenVINO computes them in bfloat16 where the processor has it.
    others = BY_HINT if backend == "openvino" else LIMITS["f32"]
    assert map_limits(bundle.manifest, backend, "int8") == {
        **dict.fromkeys(OTHERS, others),
        **dict.fromkeys(FLOWS, LIMITS["int8"]),
    }
    whole = dict.fromkeys((*OTHERS, *FLOWS), LIMITS["f32"])
    assert map_limits(bundle.manifest, backend, "f32") == whole


def test_a_library_that_is_told_has_the_wide_limit_everywhere(bundle):
    limits = map_limits(bundle.manifest, "openvino", "bf16")

    assert set(limits.values()) == {BY_HINT}


def changed_by(monkeypatch, name, share):
    """A golden vector that differs from what its map computes."""
    golden = Bundle.golden

    def changed(bundle):
        found = dict(golden(bundle))
        rng = np.random.default_rng(0)
        noise = rng.standard_normal(found[name].shape)
        norms = [np.linalg.norm(array) for array in (found[name], noise)]
        found[name] = found[name] + share * noise * norms[0] / norms[1]
        return found

    monkeypatch.setattr(Bundle, "golden", changed)


@pytest.mark.parametrize(
    ("name", "what"), [("retrieval", "retrieval"), ("voxels_predicted", "decoder")]
)
def test_a_float32_map_that_is_wrong_by_a_percent_is_no_longer_let_pass(
    bundle, monkeypatch, name, what
):
    """Its cosine is far above what the flow in 8 bits must keep."""
    changed_by(monkeypatch, name, 0.01)

    with pytest.raises(ParityError) as caught:
        open_model(bundle, "ort", "int8", threads=1)

    said = f"golden {what} (ort "
    assert str(caught.value).startswith(said)
    assert "expected relative L2 error <= 1e-05, found relative L2 error 0.0" in str(
        caught.value
    )


def test_the_flow_may_differ_by_what_8_bits_may(bundle, monkeypatch):
    changed_by(monkeypatch, "z_v", 0.01)

    open_model(bundle, "ort", "int8", threads=1).close()
    with pytest.raises(ParityError, match="golden decode_flow"):
        open_model(bundle, "ort", "f32", threads=1)


@pytest.mark.parametrize("name", FLOW)
def test_a_flow_in_float32_does_not_take_the_place_of_one_in_8_bits(bundle, name):
    graphs = bundle.manifest.graphs
    lacking = replaced(
        bundle, [g for g in graphs if (g.name, g.precision) != (name, "int8")]
    )

    with pytest.raises(BundleError, match=f"expected a graph {name} in int8, found "):
        graph_of(lacking.manifest, name, "ort", "int8")
    assert graph_of(bundle.manifest, name, "ort", "int8").precision == "int8"


def test_verify_says_each_maps_limits(bundle, monkeypatch, capsys):
    monkeypatch.setattr(verify, "open_bundle", lambda _folder: bundle)
    arguments = {"backend": "ort", "precision": "int8"}

    verify.verify_bundle(bundle.folder, as_json=True, **arguments)

    told = json.loads(capsys.readouterr().out)
    results = {name: one["limits"] for name, one in told["results"].items()}
    assert told["limits"] == {"rel_l2": None, "cosine": 0.997}
    assert results["encoder"] == results["decoder"] == {"rel_l2": 1e-5, "cosine": None}
    assert results["decode_flow"] == results["encode_flow.step_2"] == told["limits"]


def test_verify_says_them_in_its_first_line(bundle, monkeypatch, capsys):
    monkeypatch.setattr(verify, "open_bundle", lambda _folder: bundle)

    verify.verify_bundle(bundle.folder, as_json=False, backend="ort", precision="int8")

    first = capsys.readouterr().out.splitlines()[0]
    assert first.endswith(
        ", int8: expected cosine >= 0.997 of the flow, relative L2 error <= 1e-05 "
        "elsewhere to the golden vectors"
    )


@pytest.mark.parametrize(
    ("backend", "end"),
    [
        (
            "ort",
            ". Choose another backend or precision on this machine; where --backend "
            "reference finds the same, export the bundle again.",
        ),
        (
            "reference",
            ". No backend can help: the golden vectors are not what the graphs "
            "compute. Export the bundle again.",
        ),
    ],
)
def test_a_changed_golden_vector_gets_advice_that_can_help(
    bundle, monkeypatch, backend, end
):
    changed_by(monkeypatch, "z_v", 0.01)
    monkeypatch.setattr(verify, "open_bundle", lambda _folder: bundle)

    with pytest.raises(ParityError) as caught:
        verify.verify_bundle(
            bundle.folder, as_json=True, backend=backend, precision="f32"
        )

    assert str(caught.value).startswith("decode_flow: expected relative L2")
    assert str(caught.value).endswith(end)


def test_half_precision_that_a_bundle_is_not_written_in_is_asked_of_export(bundle):
    graph = bundle.manifest.graph("step")

    with pytest.raises(BackendError) as caught:
        open_engine("ort", bundle.folder / graph.file, graph, precision="f16")

    assert str(caught.value) == (
        "ort: graphs/step.onnx: expected a graph written in f16, found f32. Export the "
        "bundle with --precisions f32 f16."
    )
