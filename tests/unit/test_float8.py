"""Numbers of 8-bit floating point are those that an independent library has."""

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from runtime.engine import open_engine
from runtime.float8 import from_codes, rounded
from runtime.manifest import GraphSpec, TensorSpec

F8 = ml_dtypes.float8_e4m3fn
CODES = np.arange(256, dtype=np.uint8)


def test_every_code_is_the_number_that_ml_dtypes_reads():
    found = from_codes(CODES)

    np.testing.assert_array_equal(found, CODES.view(F8).astype(np.float32))
    assert np.signbit(found[0x80])
    assert np.isnan(found[[0x7F, 0xFF]]).all()


def test_a_number_of_the_format_is_kept_and_a_tie_goes_to_the_even_code():
    numbers = from_codes(CODES[:0x7F]).astype(np.float64)
    np.testing.assert_array_equal(rounded(numbers), numbers)

    middles = (numbers[:-1] + numbers[1:]) / 2

    even = np.arange(0x7E) + np.arange(0x7E) % 2
    for sign in (-1, 1):
        np.testing.assert_array_equal(rounded(sign * middles), sign * numbers[even])
        # The smallest step away from the tie decides otherwise.
        below, above = np.nextafter(middles, 0), np.nextafter(middles, np.inf)
        np.testing.assert_array_equal(rounded(sign * below), sign * numbers[:-1])
        np.testing.assert_array_equal(rounded(sign * above), sign * numbers[1:])


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
@example([464.0, 480.0, -500.0, float("inf"), float("nan"), 2.0**-10, -0.0])
def test_any_number_rounds_as_ml_dtypes_rounds_it(values):
    x = np.array(values, np.float32)
    kept = np.clip(x, -448, 448)

    for found, wanted in (
        (rounded(x.astype(np.float64)), kept.astype(F8)),
        (rounded(x.astype(np.float64), is_saturated=False), x.astype(F8)),
    ):
        np.testing.assert_array_equal(found, wanted.astype(np.float64))


@pytest.mark.parametrize("is_saturated", [True, False])
def test_the_reference_quantises_to_what_onnx_runtime_does(tmp_path, is_saturated):
    """Ties, both ends of the range, and what is no number; a step for each channel."""
    steps = np.array([0.5, 1, 2, 0.25], np.float32)
    grid = from_codes(CODES[:0x7F])
    middles = (grid[:-1] + grid[1:]) / 2
    column = np.concatenate([grid, middles, [1e4, np.inf, np.nan, 464]])
    x = (column[:, None] * steps * np.array([1, -1, 1, 1])).astype(np.float32)
    names = ["steps", "zeros"]
    graph = helper.make_graph(
        [
            helper.make_node(
                "QuantizeLinear",
                ["x", *names],
                ["q"],
                axis=1,
                saturate=int(is_saturated),
            ),
            helper.make_node("DequantizeLinear", ["q", *names], ["y"], axis=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        [
            numpy_helper.from_array(steps, "steps"),
            numpy_helper.from_array(np.zeros(4, F8), "zeros"),
        ],
    )
    path = tmp_path / "g.onnx"
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    (wanted,) = session.run(None, {"x": x})
    port = TensorSpec(name="x", shape=x.shape)
    spec = GraphSpec(
        name="g",
        file="g.onnx",
        opset=20,
        precision="f32",
        inputs=(port,),
        outputs=(TensorSpec(name="y", shape=x.shape),),
    )
    engine = open_engine("reference", path, spec)

    found = engine.run({"x": x})["y"]

    np.testing.assert_array_equal(found, wanted)
    beyond = 448 if is_saturated else np.nan
    last = found[-4:, 0] / steps[0]
    np.testing.assert_array_equal(last, [beyond, beyond, np.nan, 448])
    engine.close()
