"""TensorRT, native or RTX: pinned buffers, one stream, the whole call as one graph.

At start: everything is allocated and every address set once, one warm call is made (the
library defers work to it), and the call is captured: copy in, compute, copy out. A call
then is a copy into pinned memory, one launch and one wait.
"""

import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from runtime.buffers import Array, fill, read_only
from runtime.engine import Engine, Precision, Waiting, check_ports
from runtime.engines.cache import EngineFacts, KeptEngine
from runtime.engines.cuda import Cuda, import_cuda
from runtime.engines.keep_warm import WarmEngine
from runtime.engines.tensorrt_build import (
    build_engine,
    import_tensorrt,
    is_rtx,
    logger_of,
)
from runtime.errors import BackendError
from runtime.manifest import GraphSpec, TensorSpec


@final
class TensorRtEngine:
    """An execution context whose whole call is captured in one CUDA graph."""

    name = "tensorrt"
    keeps_last = False

    def __init__(
        self, version: str, context: Any, cuda: Cuda, graph: GraphSpec
    ) -> None:
        """Allocate, run once, capture.

        Args:
            version: Of the library.
            context: The library's execution context.
            cuda: Closed with this engine.
            graph: What the manifest says of the graph.

        Raises:
            BackendError: The device failed.
        """
        self.version = version
        self._context, self._cuda = context, cuda
        self._in = {s.name: self._buffers(s) for s in graph.inputs}
        self._out = {s.name: self._buffers(s) for s in graph.outputs}
        self._inputs = {s.name: _typed(self._in[s.name][0], s) for s in graph.inputs}
        outputs = {s.name: _typed(self._out[s.name][0], s) for s in graph.outputs}
        self._outputs = read_only(outputs)
        self._enqueue()
        self._cuda.wait()
        self._launch: Callable[[], None] = self._enqueue
        try:
            self._launch = cuda.capture(self._enqueue)
        except BackendError as error:
            warnings.warn(
                f"tensorrt: {graph.file}: every kernel is launched by itself, which is "
                f"slower, because the call cannot be captured: {error}",
                RuntimeWarning,
                stacklevel=2,
            )

    def _buffers(self, spec: TensorSpec) -> tuple[np.ndarray, int]:
        size = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
        host, device = self._cuda.pinned(size), self._cuda.device_memory(size)
        if not self._context.set_tensor_address(spec.name, device):
            raise BackendError(f"tensorrt: {spec.name}: expected an address to be set")
        return host, device

    def _enqueue(self) -> None:
        for host, device in self._in.values():
            self._cuda.to_device(device, host)
        if not self._context.execute_async_v3(int(self._cuda.stream)):
            raise BackendError("tensorrt: expected the call to be queued, found it not")
        for host, device in self._out.values():
            self._cuda.to_host(host, device)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Evaluate the graph; see `Engine.run`."""
        fill(self._inputs, inputs)
        self.warm()
        return self._outputs

    def warm(self) -> None:
        """Compute once more what is in the buffers: keeps the GPU's clocks up.

        For idle times between volumes, as `runtime.engines.keep_warm` does; not while
        another thread runs the engine.

        Raises:
            BackendError: The device failed.
        """
        self._launch()
        self._cuda.wait()

    def close(self) -> None:
        """Give the device's memory back; outputs must not be used any more."""
        self._context = None
        self._cuda.close()


def _typed(memory: np.ndarray, spec: TensorSpec) -> np.ndarray:
    return memory.view(spec.dtype).reshape(spec.shape)


def open_engine(
    path: Path,
    graph: GraphSpec,
    *,
    precision: Precision,
    threads: int | None,  # noqa: ARG001  # the GPU computes
    kept: KeptEngine | None = None,
    waiting: Waiting | None = None,
) -> Engine:
    """Compile a graph for the GPU, or load it; see `runtime.engine.open_engine`.

    Raises:
        BackendError: No library, no GPU, or the graph is not written in `precision`.
    """
    if precision != graph.precision:
        raise BackendError(
            f"tensorrt: {graph.file}: expected a graph written in {precision}, found "
            f"{graph.precision}. Export the bundle in that precision."
        )
    waiting = waiting or Waiting()
    library = import_tensorrt()
    cuda = Cuda(import_cuda(), wait=waiting.wait)
    try:
        found = _engine(library, path, graph, cuda.identity(), kept)
        check_ports(graph, *_ports(library, found))
        context, remember = _started(library, found, cuda.identity(), kept)
        version = f"{library.__name__} {library.__version__}"
        engine = TensorRtEngine(version, context, cuda, graph)
        remember()
    except BaseException:
        cuda.close()
        raise
    return WarmEngine(engine) if waiting.keep_warm else engine


def _ports(
    library: Any, engine: Any
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
    is_input = {
        name: engine.get_tensor_mode(name) == library.TensorIOMode.INPUT
        for name in names
    }
    return (
        {name: shapes[name] for name in names if is_input[name]},
        {name: shapes[name] for name in names if not is_input[name]},
    )


def _engine(
    library: Any, path: Path, graph: GraphSpec, device: str, kept: KeptEngine | None
) -> Any:
    """Return an engine on the device, from the cache where a sound one is there."""
    logger = logger_of(library)
    runtime = library.Runtime(logger)
    facts = None
    if kept is not None:
        facts = kept.facts(library.__name__, library.__version__, device, ())
        found = kept.cache.load(facts)
        if found is not None:
            engine = runtime.deserialize_cuda_engine(found.tobytes())
            if engine is not None:
                return engine
            kept.cache.refuse(facts, "one that the library refuses")
    data = build_engine(library, path, graph.file, device=device, kept=kept)
    if kept is not None and facts is not None:
        kept.cache.store(facts, data)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise BackendError(
            f"tensorrt: {graph.file}: expected an engine that loads, found "
            f"{'; '.join(logger.lines) or 'none'}"
        )
    return engine


def _started(
    library: Any, engine: Any, device: str, kept: KeptEngine | None
) -> tuple[Any, Callable[[], None]]:
    """Return a context, and what keeps its kernels once it has run.

    RTX compiles for the device when it first runs, which its runtime cache remembers.
    """
    remember: Callable[[], None] = _nothing
    if kept is None or not is_rtx(library):
        context = engine.create_execution_context()
    else:
        config = engine.create_runtime_config()
        cache = config.create_runtime_cache()
        facts = kept.facts("tensorrt_rtx-runtime", library.__version__, device, ())
        found = kept.cache.load(facts, is_engine=False)
        is_known = found is not None and cache.deserialize(found.tobytes())
        config.set_runtime_cache(cache)
        context = engine.create_execution_context(config)
        if not is_known:
            remember = functools.partial(_keep, kept, facts, cache)
    if context is None:
        raise BackendError("tensorrt: expected a context, found none")
    return context, remember


def _nothing() -> None:
    return


def _keep(kept: KeptEngine, facts: EngineFacts, cache: Any) -> None:
    kept.cache.store(facts, bytes(cache.serialize()), is_engine=False)
