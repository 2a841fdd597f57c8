"""TensorRT: every graph compiles without a GPU, and the device's part on a fake one."""
# ruff: noqa: N815  # the bindings' names

import ctypes
import enum
import queue
import sys
import threading
import types
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import helper

from export.assemble import (
    autoencoder_graphs,
    flow_of,
    write_autoencoder,
    write_flow,
)
from export.eight_bits import Seen, quantised
from export.graphs import Graph, write_graph
from runtime.engine import Waiting, open_engine
from runtime.engines import tensorrt, tensorrt_build
from runtime.engines.cache import CacheCounts, EngineCache, KeptEngine
from runtime.engines.cuda import Cuda, import_cuda
from runtime.engines.keep_warm import PERIOD_S, WarmEngine
from runtime.engines.tensorrt import _nothing, _started
from runtime.engines.tensorrt_build import _begin_timing
from runtime.errors import BackendError, TensorMismatchError, UsageError
from runtime.manifest import EIGHT_BITS, TensorSpec, decode_manifest
from runtime.onnx_guard import check_file
from runtime.solver import SOLVERS
from tests.affine_graph import SPEC, WEIGHT, X, write_affine
from tests.models import random_model, tiny_bundle
from verbs.rig_commands import serve
from verbs.serve import waiting_of


class cudaError_t(enum.IntEnum):  # noqa: N801  # the bindings' name
    cudaSuccess = 0
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorNotReady = 600
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorDevicesUnavailable = 46


OK = cudaError_t.cudaSuccess


class FakeRuntime:
    """`cuda.bindings.runtime` on the host: a stream is a list of work to be done."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = types.SimpleNamespace(
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2
    )
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self):
        self.devices, self.fails, self.polls = 1, {}, 0
        self.memory, self.calls, self.pending = {}, [], []
        self.captured = None
        self.given = self.returned = 0

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name.startswith("cuda") and callable(found) and name != "cudaError_t":
            self.calls.append(name)
            if name in self.fails:
                return lambda *_: (self.fails[name], None)
        return found

    def cudaGetDeviceCount(self):
        return (OK, self.devices)

    def _take(self):
        self.given += 1
        return (OK, self.given)

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == 1
        return self._take()

    def cudaEventCreateWithFlags(self, flags):
        return self._take()

    def _allocate(self, size):
        block = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(block)] = block
        self.given += 1
        return (OK, ctypes.addressof(block))

    def cudaMalloc(self, size):
        return self._allocate(size)

    def cudaHostAlloc(self, size, flags):
        return self._allocate(size)

    def _give(self, handle):
        self.returned += 1
        if isinstance(handle, int):
            self.memory.pop(handle, None)
        return (OK,)

    cudaFree = cudaFreeHost = cudaStreamDestroy = cudaEventDestroy = _give
    cudaGraphDestroy = cudaGraphExecDestroy = _give

    def add(self, work):
        (self.pending if self.captured is None else self.captured).append(work)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        self.add(lambda: ctypes.memmove(target, source, size))
        return (OK,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.captured = []
        return (OK,)

    def cudaStreamEndCapture(self, stream):
        graph, self.captured = self.captured, None
        self.given += 1
        return (OK, graph)

    def cudaGraphInstantiate(self, graph, flags):
        self.given += 1
        return (OK, graph)

    def cudaGraphLaunch(self, graph, stream):
        self.pending += graph
        return (OK,)

    def cudaEventRecord(self, event, stream):
        return (OK,)

    def cudaEventQuery(self, event):
        self.polls += 1
        if self.polls % 3:
            return (cudaError_t.cudaErrorNotReady,)
        return self.cudaEventSynchronize(event)

    def cudaEventSynchronize(self, event):
        for work in self.pending:
            work()
        self.pending.clear()
        return (OK,)

    def cudaGetLastError(self):
        return (OK,)

    def cudaDriverGetVersion(self):
        return (OK, 13020)

    def cudaGetDeviceProperties(self, device):
        return (
            OK,
            types.SimpleNamespace(
                name=b"Fake GPU",
                major=8,
                minor=9,
                multiProcessorCount=4,
                totalGlobalMem=1024,
            ),
        )


class FakeContext:
    """Computes x @ WEIGHT at the addresses that it was given."""

    def __init__(self, runtime):
        self.runtime, self.addresses, self.queued = runtime, {}, 0

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def at(self, name, count):
        block = (ctypes.c_float * count).from_address(self.addresses[name])
        return np.ctypeslib.as_array(block)

    def execute_async_v3(self, stream):
        self.queued += 1

        def compute():
            self.at("y", 2)[:] = self.at("x", 3) @ WEIGHT

        self.runtime.add(compute)
        return True


@pytest.fixture
def runtime():
    return FakeRuntime()


def made(runtime, wait="block"):
    context = FakeContext(runtime)
    cuda = Cuda(runtime, wait=wait)
    return tensorrt.TensorRtEngine("fake 1", context, cuda, SPEC), context


@pytest.mark.parametrize("wait", ["block", "spin"])
def test_a_call_is_one_launch_of_a_captured_graph(runtime, wait):
    engine, context = made(runtime, wait)
    assert context.queued == 2  # the warm call, then the capture
    runtime.calls.clear()

    for scale in (1, 2):
        np.testing.assert_allclose(
            engine.run({"x": scale * X})["y"], scale * X @ WEIGHT
        )

    assert context.queued == 2
    assert runtime.calls.count("cudaGraphLaunch") == 2
    assert "cudaMemcpyAsync" not in runtime.calls
    assert not {"cudaMalloc", "cudaHostAlloc"} & set(runtime.calls)
    assert (runtime.polls > 2) == (wait == "spin")


def test_outputs_keep_their_buffer_and_cannot_be_written(runtime):
    engine, _ = made(runtime)
    first = engine.run({"x": X})["y"]

    assert engine.run({"x": X})["y"] is first
    with pytest.raises(ValueError, match="read-only"):
        first[:] = 0
    with pytest.raises(TensorMismatchError):
        engine.run({"x": X[0]})


def test_what_cannot_be_captured_runs_kernel_by_kernel_and_says_so(runtime):
    runtime.fails["cudaStreamEndCapture"] = (
        cudaError_t.cudaErrorStreamCaptureUnsupported
    )
    runtime.cudaStreamBeginCapture = lambda *_: (OK,)

    with pytest.warns(RuntimeWarning) as caught:
        engine, context = made(runtime)
    runtime.pending.clear()

    assert str(caught[0].message) == (
        "tensorrt: graphs/affine.onnx: every kernel is launched by itself, which is "
        "slower, because the call cannot be captured: cuda: expected to end a capture, "
        "found cudaErrorStreamCaptureUnsupported"
    )
    assert "cudaGetLastError" in runtime.calls
    np.testing.assert_allclose(engine.run({"x": X})["y"], X @ WEIGHT)
    assert context.queued == 3


def test_a_device_that_disappears_is_one_line(runtime):
    engine, _ = made(runtime)
    runtime.fails["cudaGraphLaunch"] = cudaError_t.cudaErrorDevicesUnavailable

    with pytest.raises(BackendError) as caught:
        engine.run({"x": X})

    assert str(caught.value) == (
        "cuda: expected to launch a graph, found cudaErrorDevicesUnavailable"
    )
    engine.close()


@pytest.mark.parametrize("wait", ["block", "spin"])
def test_a_device_that_disappears_while_it_computes_is_noticed(runtime, wait):
    engine, _ = made(runtime, wait)
    call = "cudaEventQuery" if wait == "spin" else "cudaEventSynchronize"
    runtime.fails[call] = cudaError_t.cudaErrorDevicesUnavailable

    with pytest.raises(BackendError, match="expected to wait for the GPU, found cuda"):
        engine.run({"x": X})


def test_all_that_was_taken_is_given_back_once(runtime):
    engine, _ = made(runtime)
    assert runtime.memory

    engine.close()
    engine.close()

    assert runtime.memory == {}
    assert runtime.returned == runtime.given


def test_no_device_and_no_driver_are_one_line(runtime):
    runtime.devices = 0
    with pytest.raises(BackendError) as none:
        Cuda(runtime)
    runtime.fails["cudaGetDeviceCount"] = cudaError_t.cudaErrorInsufficientDriver
    with pytest.raises(BackendError) as no_driver:
        Cuda(runtime)

    assert str(none.value) == "cuda: expected a GPU, found none"
    assert str(no_driver.value) == (
        "cuda: expected to find a GPU, found no NVIDIA driver, or one that is too old "
        "(cudaErrorInsufficientDriver)"
    )


def test_a_devices_identity_has_all_that_an_engine_depends_on(runtime):
    assert Cuda(runtime).identity() == (
        "Fake GPU sm89 4 processors 1024 bytes driver 13020"
    )


class FakeLibrary:
    """TensorRT: an engine is a plain text, and loads only where it was built."""

    __name__, __version__ = "tensorrt", "11.0"
    TensorIOMode = types.SimpleNamespace(INPUT=1, OUTPUT=2)

    class ILogger:
        INTERNAL_ERROR, ERROR = 0, 1

    def __init__(self, runtime):
        self.runtime, self.loaded = runtime, []

    def Runtime(self, logger):
        return self

    def deserialize_cuda_engine(self, data):
        self.loaded.append(data)
        return self if data == b"plan" else None

    num_io_tensors = 2

    def get_tensor_name(self, i):
        return "xy"[i]

    def get_tensor_shape(self, name):
        return {"x": (1, 3), "y": (1, 2)}[name]

    def get_tensor_mode(self, name):
        return {"x": 1, "y": 2}[name]

    def create_execution_context(self):
        return FakeContext(self.runtime)


@pytest.fixture
def path(tmp_path) -> Path:
    return write_affine(tmp_path)


def test_an_engine_is_built_once_and_rebuilt_where_the_library_refuses_it(
    runtime, path, tmp_path, monkeypatch
):
    library, built = FakeLibrary(runtime), []
    monkeypatch.setattr(tensorrt, "import_tensorrt", lambda: library)
    monkeypatch.setattr(tensorrt, "import_cuda", lambda: runtime)
    monkeypatch.setattr(
        tensorrt, "build_engine", lambda *_, **__: built.append(1) or b"plan"
    )
    said = []
    cache = EngineCache(tmp_path / "engines", said.append)
    kept = KeptEngine(cache, "a" * 64, "affine", "f32")

    for _ in range(2):
        engine = open_engine("tensorrt", path, SPEC, kept=kept)
        np.testing.assert_allclose(engine.run({"x": X})["y"], X @ WEIGHT)
        assert (engine.name, engine.version) == ("tensorrt", "tensorrt 11.0")
        engine.close()
    assert (len(built), cache.counts.loaded, said) == (1, 1, [])

    facts = kept.facts("tensorrt", "11.0", Cuda(runtime).identity(), ())
    cache.store(facts, b"of another kind")
    open_engine("tensorrt", path, SPEC, kept=kept).close()

    assert len(built) == 2
    assert "found one that the library refuses; building it anew" in said[0]


class FakeHelp:
    """What TensorRT measured, or RTX compiled: a text, too."""

    def serialize(self):
        return b"help"

    def deserialize(self, data):
        return data == b"help"


def test_what_helps_tensorrt_is_kept_and_is_no_engine(runtime, tmp_path):
    """Else an engine that was built beside it would count as loaded."""
    cache = EngineCache(tmp_path / "engines")
    kept = KeptEngine(cache, "a" * 64, "affine", "f32")
    library, engine = FakeLibrary(runtime), mock.MagicMock()
    library.__name__ = "tensorrt_rtx"
    engine.create_runtime_config().create_runtime_cache.return_value = FakeHelp()

    known = []
    for _ in range(2):
        _, remember = _started(library, engine, "Fake GPU", kept)
        known.append(remember is _nothing)
        remember()
        facts = _begin_timing(library, mock.MagicMock(), "Fake GPU", kept)
        cache.store(facts, b"times", is_engine=False)

    assert known == [False, True]
    assert cache.counts == CacheCounts()


def on_the_fake(runtime, monkeypatch):
    monkeypatch.setattr(tensorrt, "import_tensorrt", lambda: FakeLibrary(runtime))
    monkeypatch.setattr(tensorrt, "import_cuda", lambda: runtime)
    monkeypatch.setattr(tensorrt, "build_engine", lambda *_, **__: b"plan")


def test_whoever_asks_for_it_spins(runtime, path, monkeypatch):
    on_the_fake(runtime, monkeypatch)

    engine = open_engine("tensorrt", path, SPEC, waiting=Waiting("spin"))
    engine.run({"x": X})

    assert "cudaEventQuery" in runtime.calls
    assert "cudaEventSynchronize" in runtime.calls[-1:]  # the fake's query ends there
    engine.close()


class Pauses:
    """Ends a pause when the test says so, and knows when one has begun."""

    def __init__(self):
        self.begun, self.ends = queue.Queue(), queue.Queue()

    def __call__(self, over, seconds):
        self.begun.put(seconds)
        self.ends.get(timeout=30)
        return over.is_set()

    def one(self):
        """Let one pause end, and wait until the call after it is done."""
        self.ends.put(None)
        return self.begun.get(timeout=30)


def test_between_volumes_the_last_call_is_repeated_and_changes_nothing(runtime):
    engine, _ = made(runtime)
    pauses = Pauses()
    warm = WarmEngine(engine, pauses)
    assert pauses.begun.get(timeout=30) == PERIOD_S
    found = warm.run({"x": X})["y"]
    before = runtime.calls.count("cudaGraphLaunch")

    for _ in range(3):
        pauses.one()

    assert runtime.calls.count("cudaGraphLaunch") == before + 3
    np.testing.assert_allclose(found, X @ WEIGHT)
    assert (warm.name, warm.version) == ("tensorrt", "fake 1")
    pauses.ends.put(None)
    warm.close()
    assert runtime.memory == {}
    assert not [t for t in threading.enumerate() if t.name == "keep-warm"]


def test_a_device_that_disappears_between_volumes_is_met_by_the_next_one(runtime):
    engine, _ = made(runtime)
    pauses = Pauses()
    warm = WarmEngine(engine, pauses)
    pauses.begun.get(timeout=30)
    runtime.fails["cudaGraphLaunch"] = cudaError_t.cudaErrorDevicesUnavailable

    pauses.ends.put(None)
    (thread,) = [t for t in threading.enumerate() if t.name == "keep-warm"]
    thread.join(30)

    with pytest.raises(BackendError, match="found cudaErrorDevicesUnavailable"):
        warm.run({"x": X})
    warm.close()


def test_a_kept_warm_engine_is_what_is_opened(runtime, path, monkeypatch):
    on_the_fake(runtime, monkeypatch)

    engine = open_engine("tensorrt", path, SPEC, waiting=Waiting(keep_warm=True))

    assert isinstance(engine, WarmEngine)
    np.testing.assert_allclose(engine.run({"x": X})["y"], X @ WEIGHT)
    engine.close()


def test_no_other_backend_waits_for_a_gpu(path):
    with pytest.raises(BackendError) as caught:
        open_engine("ort", path, SPEC, waiting=Waiting("spin"))

    assert str(caught.value) == (
        "waiting: expected the backend tensorrt, which alone has a choice, found ort"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backend": "ort", "wait": "spin"},
            "--wait spin: expected --backend tensorrt, which waits for a GPU, found "
            "ort",
        ),
        (
            {"backend": "auto", "keep_warm": True},
            "--keep-warm: expected --backend tensorrt, which waits for a GPU, found "
            "auto",
        ),
        (
            {"backend": "auto", "precision": "f16"},
            "--precision: expected another backend than auto, which takes one itself, "
            "found f16",
        ),
    ],
)
def test_a_server_says_for_which_backend_a_flag_is(tmp_path, options, message):
    with pytest.raises(UsageError) as caught:
        serve(bundle=tmp_path, gallery=tmp_path, **options)

    assert str(caught.value) == message


def test_a_server_tells_its_workers_how_to_wait():
    assert waiting_of("tensorrt", "spin", is_kept_warm=True) == Waiting("spin", True)
    assert waiting_of("tensorrt", "block", is_kept_warm=False) == Waiting()
    assert waiting_of("ort", "block", is_kept_warm=False) is None


def test_a_graph_in_another_precision_than_asked_for_is_refused(path):
    with pytest.raises(BackendError) as caught:
        open_engine("tensorrt", path, SPEC, precision="bf16")

    assert str(caught.value) == (
        "tensorrt: graphs/affine.onnx: expected a graph written in bf16, found f32. "
        "Export the bundle in that precision."
    )


def test_missing_bindings_of_cuda_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)

    with pytest.raises(BackendError) as caught:
        import_cuda()

    assert str(caught.value) == (
        "cuda: expected the library cuda-bindings, found none. Install the extra gpu."
    )


def test_a_missing_library_names_the_extras(path, monkeypatch):
    for name in tensorrt_build.LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(BackendError) as caught:
        open_engine("tensorrt", path, SPEC)

    assert str(caught.value) == (
        "tensorrt: expected the library tensorrt or tensorrt_rtx, found none. "
        "Install the extra tensorrt or rtx."
    )


@pytest.fixture(scope="module")
def rtx():
    # The extra dev installs it: where it is missing, nothing below was checked.
    import tensorrt_rtx

    return tensorrt_rtx


@pytest.fixture(scope="module")
def model_graphs():
    """The flow and the autoencoder of a random model, of the tiny preset."""
    model = random_model()
    steps = {"decode": 2, "encode": 2}
    flow = flow_of(model.field, SOLVERS["rotation"], steps)
    return flow, autoencoder_graphs(model.vae)


def assert_compiles(rtx, folder, spec):
    path = folder / spec.file
    check_file(path, spec)
    assert tensorrt_build.unsupported(rtx, path) == []
    assert len(tensorrt_build.build_engine(rtx, path, spec.file)) > 1000


@pytest.mark.slow
def test_every_graph_of_a_bundle_compiles_with_tensorrt_rtx(rtx):
    bundle = tiny_bundle()
    manifest = decode_manifest((bundle / "manifest.json").read_bytes())

    assert {graph.precision for graph in manifest.graphs} == {"f32"}
    for graph in manifest.graphs:
        assert_compiles(rtx, bundle, graph)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f16", "bf16"])
def test_every_graph_in_half_precision_compiles_with_tensorrt_rtx(
    rtx, model_graphs, tmp_path, precision
):
    flow, autoencoder = model_graphs
    (tmp_path / "graphs").mkdir()

    written = (
        *write_flow(flow.graphs(precision), tmp_path),
        *write_autoencoder(autoencoder, (precision,), tmp_path),
    )

    assert [(spec.name, spec.precision) for spec in written] == [
        (name, precision)
        for name in (
            *("step", "decode_flow", "encode_flow"),
            *("encoder", "retrieval", "decoder"),
        )
    ]
    for spec in written:
        assert_compiles(rtx, tmp_path, spec)


@pytest.mark.parametrize("precision", EIGHT_BITS)
def test_an_engine_of_8_bits_keeps_a_byte_for_each_weight(rtx, tmp_path, precision):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(1024, 1024)).astype(np.float32)
    one = np.ones(1024, np.float32)
    whole = Graph(
        "product",
        (helper.make_node("MatMul", ["x", "w"], ["y"]),),
        (TensorSpec(name="x", shape=(1, 1024)),),
        (TensorSpec(name="y", shape=(1, 1024)),),
        {"w": weight},
    )
    path = tmp_path / "product.onnx"
    write_graph(quantised(whole, lambda _: Seen(-one, one, 0 * one), precision), path)

    assert tensorrt_build.unsupported(rtx, path) == []
    plan = tensorrt_build.build_engine(rtx, path, path.name)

    # Half precision would take two, and be read twice as long at each step.
    assert weight.size < len(plan) < 1.5 * weight.size


@pytest.mark.slow
def test_a_flow_of_8_bits_compiles_with_tensorrt_rtx(rtx, model_graphs, tmp_path):
    flow, _ = model_graphs
    z = np.random.default_rng(0).normal(size=(3, 8, 12))
    flow.ranges.watch(z, [0.0, 0.5, 1.0])
    (tmp_path / "graphs").mkdir()

    for precision in EIGHT_BITS:
        # Encoding differs from decoding in its numbers alone.
        for spec in write_flow(flow.graphs(precision)[:2], tmp_path):
            assert_compiles(rtx, tmp_path, spec)


def test_an_operator_that_rtx_has_not_is_named_with_its_node(rtx, path):
    model = onnx.load(path)
    model.graph.node[0].CopyFrom(helper.make_node("Det", ["x"], ["y"], name="the one"))
    path.write_bytes(model.SerializeToString())

    (line,) = tensorrt_build.unsupported(rtx, path)
    with pytest.raises(BackendError) as caught:
        tensorrt_build.build_engine(rtx, path, "graphs/affine.onnx")

    assert "the one" in line
    assert str(caught.value).startswith("tensorrt: graphs/affine.onnx: ")
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_tensorrt_computes_a_bundles_graph_on_this_gpu():
    try:
        Cuda(tensorrt.import_cuda()).close()
        tensorrt_build.import_tensorrt()
    except BackendError as error:
        pytest.skip(f"not run: {error}")
    from runtime.bundle import open_bundle
    from runtime.model import open_model

    # Which gives no model that does not give the golden vectors.
    with (
        open_bundle(tiny_bundle()) as bundle,
        open_model(bundle, "tensorrt") as model,
    ):
        assert model.backend.startswith("tensorrt ")
