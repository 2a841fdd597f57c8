"""A model of some of its maps opens, and judges, their graphs alone."""

import numpy as np
import pytest

from runtime.bundle import open_bundle
from runtime.graphs import PARTS, flow_graphs
from runtime.model import open_model
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
        ("unrolled", PREDICTING, PREDICTING),
        ("step", PREDICTING, ("decoder", "step")),
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
