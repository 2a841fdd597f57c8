"""A model of some of its maps opens, and judges, their graphs alone."""

import numpy as np
import pytest

from runtime.bundle import open_bundle
from runtime.engines.ort import OrtEngine
from runtime.errors import BackendError
from runtime.graphs import BOTH_WAYS, PARTS, SERVED, flow_graphs
from runtime.model import SAMPLES, open_model
from tests.models import tiny_bundle

SEEING = ("encoder",)
PREDICTING = ("decoder", "encode_flow")


def test_a_step_graph_serves_either_direction_and_neither_needs_none():
    assert flow_graphs("ort") == ("decode_flow", "encode_flow")
    assert flow_graphs("ort", parts=PREDICTING) == ("encode_flow",)
    assert flow_graphs("ort", parts=SEEING) == ()
    assert flow_graphs("openvino", parts=PREDICTING) == ("step",)
    assert flow_graphs("openvino", parts=SEEING) == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "parts", "graphs"),
    [
        ("unrolled", PARTS, PARTS),
        ("unrolled", SEEING, SEEING),
        ("unrolled", ("retrieval",), ("retrieval",)),
        ("unrolled", BOTH_WAYS, BOTH_WAYS),
        ("unrolled", PREDICTING, PREDICTING),
        ("step", PREDICTING, ("decoder", "step")),
        ("step", SERVED, ("encoder", "step")),
    ],
)
def test_parts_of_a_model_give_what_the_whole_gives(form, parts, graphs):
    with open_bundle(tiny_bundle()) as bundle:
        golden = bundle.golden()
        with open_model(bundle, form=form, parts=parts) as model:
            assert model.graphs == graphs
            assert model.backend.startswith("ort ")
            for name, (run, source, target) in model.maps().items():
                found = run(golden[source][0].astype(np.float32))
                np.testing.assert_allclose(
                    found, golden[target][0], rtol=1e-4, atol=1e-5, err_msg=name
                )


@pytest.fixture
def calls(monkeypatch):
    """The inputs of every evaluation by ONNX Runtime, in order."""
    made: list[str] = []
    run = OrtEngine.run

    def counted(engine, inputs):
        made.append(" ".join(sorted(inputs)))
        return run(engine, inputs)

    monkeypatch.setattr(OrtEngine, "run", counted)
    return made


@pytest.mark.parametrize(
    ("form", "judged"),
    [("unrolled", ["voxels", "z_n"]), ("step", ["voxels", "modulation weights z"])],
)
def test_what_is_served_is_judged_once_and_nothing_else_is(calls, form, judged):
    first, flow = judged
    with open_bundle(tiny_bundle()) as bundle:
        count = bundle.manifest.flow.decode_evaluations if form == "step" else 1
        with open_model(bundle, form=form, samples=SAMPLES, parts=SERVED) as model:
            assert list(model.maps()) == ["encoder", "decode_flow"]

    assert calls == [first, *[flow] * count]


def test_an_engine_that_takes_over_is_judged_by_what_is_served_alone(
    calls, monkeypatch
):
    with open_bundle(tiny_bundle()) as bundle:
        z_n = bundle.golden()["z_n"][0].astype(np.float32)
        steps = bundle.manifest.flow.decode_evaluations
        with open_model(
            bundle, "reference", form="step", behind=["ort"], parts=SERVED
        ) as model:
            monkeypatch.setattr(
                "runtime.engines.reference.Evaluation.__call__",
                lambda *_: (_ for _ in ()).throw(BackendError("reference: gone")),
            )
            model.decode_latent(z_n)

    # Judged by one sample in one direction, then the answer.
    assert calls == ["modulation weights z"] * 2 * steps
