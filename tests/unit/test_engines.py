"""Engines give what a graph computes, and refuse what is not its input."""

import functools
import gc
import subprocess
import sys
import weakref
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from runtime.buffers import READ_BYTES, Inputs, Outputs, read_only
from runtime.engine import open_engine
from runtime.engines.ort_cuda import BoundEngine
from runtime.errors import BackendError, TensorMismatchError
from runtime.manifest import GraphSpec, TensorSpec
from tests.affine_graph import SPEC, WEIGHT, X, affine, write_affine
from tests.models import tiny_bundle

BACKENDS = ["ort", "openvino", "reference"]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write_affine(tmp_path_factory.mktemp("graphs"))


@pytest.fixture(params=[READ_BYTES, 0], ids=["copied", "read in place"])
def _inputs_are_taken(request, monkeypatch):
    """Small ones are copied into buffers, large ones are not; here both are small."""
    monkeypatch.setattr("runtime.buffers.READ_BYTES", request.param)


@pytest.fixture(params=BACKENDS)
def engine(request, path, _inputs_are_taken):
    engine = open_engine(request.param, path, SPEC, threads=1)
    yield engine
    engine.close()


def test_an_engine_computes_its_graph(engine):
    np.testing.assert_allclose(engine.run({"x": X})["y"], X @ WEIGHT)


def test_outputs_keep_their_buffer_from_call_to_call(engine):
    first = engine.run({"x": X})["y"]
    kept = first.copy()

    second = engine.run({"x": 2 * X})["y"]

    assert second is first
    np.testing.assert_allclose(second, 2 * kept)


@pytest.mark.usefixtures("_inputs_are_taken")
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_input_may_be_the_last_output(backend, tmp_path):
    square = np.float32([[0, 1, 2], [3, 0, 1], [1, 1, 1]])
    model = affine(weight=numpy_helper.from_array(square, "w"), width=3)
    (tmp_path / "square.onnx").write_bytes(model.SerializeToString())
    y = TensorSpec(name="y", shape=(1, 3))
    spec = msgspec.structs.replace(SPEC, outputs=(y,))
    engine = open_engine(backend, tmp_path / "square.onnx", spec, threads=1)
    found = X

    for power in (1, 2, 3):
        last, kept = found, found.copy()
        found = engine.run({"x": last})["y"]
        np.testing.assert_allclose(found, X @ np.linalg.matrix_power(square, power))
        assert not engine.keeps_last or (last == kept).all()

    assert engine.keeps_last is (backend != "reference")

    engine.close()


def two_ports():
    """Outputs of which one could be an input, and where a library was told they lie."""
    y, other = TensorSpec(name="y", shape=(1, 3)), TensorSpec(name="z", shape=(1, 2))
    return Outputs(msgspec.structs.replace(SPEC, outputs=(y, other))), {}


def test_an_output_that_may_be_read_next_is_not_written_over():
    outputs, bound = two_ports()

    seen = []
    for value in (1, 2, 3):
        outputs.offer(bound.__setitem__)
        bound["y"][:] = bound["z"][:] = value
        found = outputs.turn()
        assert (found["y"] == value).all()
        assert (found["z"] == value).all()
        seen.append(found)

    assert (seen[1]["y"] == 2).all()
    assert seen[2] is seen[0]
    assert seen[1]["z"] is seen[0]["z"]  # like no input: one buffer


def test_a_call_after_one_that_failed_leaves_what_succeeded_last():
    outputs, bound = two_ports()
    outputs.offer(bound.__setitem__)
    bound["y"][:] = 1
    last = outputs.turn()["y"]

    for value in (np.nan, np.nan, 2):  # two that fail, and the same once more
        outputs.offer(bound.__setitem__)
        bound["y"][:] = value
        assert (last == 1).all()

    assert (outputs.turn()["y"] == 2).all()


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_an_engine_goes_when_nobody_has_it_any_more(backend, path):
    engine = open_engine(backend, path, SPEC, threads=1)
    engine.run({"x": X})
    seen = weakref.ref(engine)
    gc.collect()

    gc.disable()  # by itself, and not when a collection finds it
    try:
        del engine
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("port", ["_inputs", "_outputs"])
@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_memory_that_a_library_refuses_is_said_in_one_line(backend, port, path):
    engine = open_engine(backend, path, SPEC, threads=1)

    class Refusing:
        def take(self, _inputs, _bind):
            raise RuntimeError("no\n  memory")

        offer = functools.partialmethod(take, None)

    setattr(engine, port, Refusing())

    with pytest.raises(BackendError, match=f"^{backend}: no memory$"):
        engine.run({"x": X})


def test_a_caller_cannot_write_to_an_output(engine):
    with pytest.raises(ValueError, match="read-only"):
        engine.run({"x": X})["y"][:] = 0


def test_an_input_may_be_reused_at_once(engine):
    x = X.copy()
    expected = x @ WEIGHT

    y = engine.run({"x": x})["y"]
    x[:] = 0

    np.testing.assert_allclose(y, expected)


def test_an_input_may_be_what_cannot_be_written_to(engine):
    x = X.copy()
    x.flags.writeable = False

    np.testing.assert_allclose(engine.run({"x": x})["y"], X @ WEIGHT)

    assert (x == X).all()
    assert not x.flags.writeable


def test_another_engines_output_is_read_where_it_lies(monkeypatch):
    monkeypatch.setattr("runtime.buffers.READ_BYTES", 0)
    bound = {}
    inputs = Inputs(SPEC.inputs)
    output = read_only({"x": X.copy()})["x"]

    inputs.take({"x": output}, bound.__setitem__)

    assert np.shares_memory(bound["x"], output)
    assert bound["x"].flags.writeable  # OpenVINO takes no other
    assert not output.flags.writeable


def test_an_input_that_nobody_can_write_to_is_copied(monkeypatch):
    monkeypatch.setattr("runtime.buffers.READ_BYTES", 0)
    bound = {}
    inputs = Inputs(SPEC.inputs)
    mapped = np.frombuffer(X.tobytes(), X.dtype).reshape(X.shape)

    inputs.take({"x": mapped}, bound.__setitem__)

    assert (bound["x"] == X).all()
    assert not np.shares_memory(bound["x"], mapped)


def test_inputs_may_lie_anywhere_and_in_any_order(engine):
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = rng.normal(size=(1, 3)).astype(np.float32)
        backwards = np.ascontiguousarray(x[:, ::-1])[:, ::-1]
        fixed = x.copy()
        fixed.flags.writeable = False
        for one in (x, backwards, fixed):
            np.testing.assert_allclose(
                engine.run({"x": one})["y"], x @ WEIGHT, rtol=1e-5, atol=1e-6
            )
        del x, one


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": X[0]}, "x: expected float32 [1, 3], found float32 [3]"),
        (
            {"x": X.astype(np.float64)},
            "x: expected float32 [1, 3], found float64 [1, 3]",
        ),
        ({"z": X}, "inputs: expected x, found z"),
        ({}, "inputs: expected x, found none"),
    ],
)
def test_what_is_not_the_input_is_refused(engine, inputs, message):
    with pytest.raises(TensorMismatchError) as caught:
        engine.run(inputs)

    assert str(caught.value) == message


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_with_other_ports_than_the_manifest_says_is_refused(path, backend):
    other = GraphSpec(
        name="affine",
        file="graphs/affine.onnx",
        opset=20,
        precision="f32",
        inputs=SPEC.inputs,
        outputs=(TensorSpec(name="y", shape=(1, 7)),),
    )

    with pytest.raises(TensorMismatchError) as caught:
        open_engine(backend, path, other)

    assert str(caught.value) == (
        "graphs/affine.onnx: outputs: expected y float32 [1, 7], found y float32 [1, 2]"
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_that_its_library_refuses_is_one_line_of_the_backend(
    path, tmp_path, backend
):
    model = onnx.load(path)
    model.graph.node[0].input[1] = "nothing"
    path = tmp_path / "broken.onnx"
    path.write_bytes(model.SerializeToString())

    with pytest.raises(BackendError) as caught:
        open_engine(backend, path, SPEC)

    assert str(caught.value).startswith(f"{backend}: graphs/affine.onnx: ")
    assert "\n" not in str(caught.value)


def test_ort_says_that_it_has_no_bfloat16(path):
    with pytest.raises(BackendError) as caught:
        open_engine("ort", path, SPEC, precision="bf16")

    assert str(caught.value) == (
        "ort: expected precision f32 on the CPU, found bf16. "
        "Choose the backend openvino."
    )


@pytest.mark.parametrize(
    ("backend", "cpu", "gpu", "message"),
    [
        (
            "ort",
            True,
            True,
            "ort: expected one of onnxruntime and onnxruntime-gpu, found both, which "
            "overwrite each other. Uninstall both, then install the extra cpu.",
        ),
        (
            "ort_cuda",
            True,
            True,
            "ort_cuda: expected one of onnxruntime and onnxruntime-gpu, found both, "
            "which overwrite each other. Uninstall both, then install the extra gpu.",
        ),
        (
            "ort",
            False,
            False,
            "ort: expected the library onnxruntime, found none. Install the extra cpu.",
        ),
        (
            "ort_cuda",
            False,
            False,
            "ort_cuda: expected the library onnxruntime-gpu, found none. "
            "Install the extra gpu.",
        ),
    ],
)
def test_the_distribution_that_a_backend_lacks_is_named_with_its_extra(
    path, monkeypatch, backend, cpu, gpu, message
):
    there = {"onnxruntime": cpu, "onnxruntime-gpu": gpu}
    monkeypatch.setattr("runtime.engines.ort.installed", there.__getitem__)

    with pytest.raises(BackendError) as caught:
        open_engine(backend, path, SPEC)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (
            "ort",
            "ort: expected onnxruntime to load, found libcudart.so.13: cannot open "
            "shared object file. Install the extra cpu anew.",
        ),
        (
            "ort_cuda",
            "ort_cuda: expected onnxruntime-gpu to load, found libcudart.so.13: cannot "
            "open shared object file. Install the extra gpu anew.",
        ),
    ],
)
def test_a_distribution_that_does_not_load_is_one_line(
    path, tmp_path, monkeypatch, backend, message
):
    words = "libcudart.so.13: cannot open\\nshared object file"
    (tmp_path / "onnxruntime.py").write_text(f"raise ImportError('{words}')")
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(BackendError) as caught:
        open_engine(backend, path, SPEC)

    assert str(caught.value) == message


def bound(path) -> BoundEngine:
    """The engine for a GPU, bound in the same way on the CPU."""
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    return BoundEngine("ort_cuda", onnxruntime, session, SPEC, "cpu")


def test_an_engine_bound_to_a_device_computes_its_graph_at_the_same_addresses(path):
    engine = bound(path)
    first = engine.run({"x": X})["y"]
    kept = first.copy()

    second = engine.run({"x": 2 * X})["y"]

    np.testing.assert_allclose(kept, X @ WEIGHT)
    np.testing.assert_allclose(second, 2 * kept)
    assert second is first
    with pytest.raises(ValueError, match="read-only"):
        second[:] = 0
    with pytest.raises(TensorMismatchError):
        engine.run({"x": X[0]})
    engine.close()


def test_a_device_that_fails_in_a_run_is_one_line(path, monkeypatch):
    engine = bound(path)

    def lost(*_):
        raise RuntimeError("CUDA failure 46:\nall devices are busy or unavailable")

    engine._session = type("Session", (), {"run_with_iobinding": lost})()

    with pytest.raises(BackendError) as caught:
        engine.run({"x": X})

    assert str(caught.value) == (
        "ort_cuda: CUDA failure 46: all devices are busy or unavailable"
    )


def test_onnx_runtime_without_cuda_is_said_with_the_extra(path, monkeypatch):
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"]
    )

    with pytest.raises(BackendError) as caught:
        open_engine("ort_cuda", path, SPEC)

    assert str(caught.value) == (
        "ort_cuda: expected onnxruntime with CUDAExecutionProvider, found one with "
        "CPUExecutionProvider. Install the extra gpu instead of cpu."
    )


@pytest.mark.gpu
def test_onnx_runtime_computes_on_this_gpu(path):
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("not run: onnxruntime has no CUDAExecutionProvider")
    engine = open_engine("ort_cuda", path, SPEC)

    for scale in (1, 2):
        np.testing.assert_allclose(
            engine.run({"x": scale * X})["y"], scale * X @ WEIGHT
        )


def test_a_missing_library_names_the_extra(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)

    with pytest.raises(BackendError) as caught:
        open_engine("openvino", path, SPEC)

    assert str(caught.value) == (
        "openvino: expected the library openvino, found none. Install the extra cpu."
    )


def test_an_unknown_backend_is_refused_with_the_known_ones(path):
    with pytest.raises(BackendError) as caught:
        open_engine("tflite", path, SPEC)

    assert str(caught.value) == (
        "backend: expected one of ort, ort_cuda, openvino, reference, tensorrt, "
        "found tflite"
    )


@pytest.mark.slow
def test_a_signal_finds_its_ordinary_stack_after_openvino_compiled():
    """With the library's own signal stack left behind, SIGTERM was a segfault."""
    bundle = tiny_bundle()
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from runtime.bundle import open_bundle\n"
        "from runtime.engines.signal_stack import signal_stack_bytes\n"
        "from runtime.model import open_model\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('caught', flush=True))\n"
        "with open_bundle(Path(sys.argv[1])) as bundle:\n"
        "    open_model(bundle, 'openvino').close()\n"
        "    print(signal_stack_bytes(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(bundle)],
        check=False,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout.split()) == (0, ["0", "caught"])
