"""ONNX Runtime on an NVIDIA GPU: inputs and outputs bound there, one CUDA graph.

Needs the distribution onnxruntime-gpu, which excludes onnxruntime. TensorRT is the
faster way on a GPU; this one compiles in seconds.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from runtime.buffers import Array, allocate, fill, read_only
from runtime.engine import Engine, Precision, check_ports
from runtime.engines.cache import KeptEngine
from runtime.engines.ort import failures, import_ort, line
from runtime.errors import BackendError
from runtime.manifest import GraphSpec

PROVIDER = "CUDAExecutionProvider"


@final
class BoundEngine:
    """A session whose inputs and outputs lie on a device, at addresses that stay."""

    def __init__(
        self, name: str, library: Any, session: Any, graph: GraphSpec, device: str
    ) -> None:
        """Bind once, and run once: a CUDA graph is captured by the first run.

        Args:
            name: The backend's.
            library: onnxruntime.
            session: Of the graph.
            graph: What the manifest says of it.
            device: ``cuda``, or ``cpu`` for the same way of binding without a GPU.

        Raises:
            BackendError: The library failed.
        """
        self.name, self.version = name, library.__version__
        self.keeps_last = False
        self._failures = failures(library)
        self._session, self._binding = session, session.io_binding()
        self._inputs = allocate(graph.inputs)
        self._buffers = allocate(graph.outputs)
        self._outputs = read_only(self._buffers)
        values = library.OrtValue
        try:
            self._sources = {
                key: values.ortvalue_from_numpy(buffer, device, 0)
                for key, buffer in self._inputs.items()
            }
            self._targets = {
                key: values.ortvalue_from_shape_and_type(
                    list(buffer.shape), buffer.dtype, device, 0
                )
                for key, buffer in self._buffers.items()
            }
            for key, value in self._sources.items():
                self._binding.bind_ortvalue_input(key, value)
            for key, value in self._targets.items():
                self._binding.bind_ortvalue_output(key, value)
        except self._failures as error:
            raise BackendError(f"{name}: {graph.file}: {line(error)}") from error
        self._run()

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Evaluate the graph; see `Engine.run`."""
        fill(self._inputs, inputs)
        self._run()
        return self._outputs

    def _run(self) -> None:
        try:
            # In place: a CUDA graph has the addresses of its capture.
            for key, value in self._sources.items():
                value.update_inplace(self._inputs[key])
            self._session.run_with_iobinding(self._binding)
            for key, value in self._targets.items():
                self._buffers[key][...] = value.numpy()
        except self._failures as error:
            raise BackendError(f"{self.name}: {line(error)}") from error

    def close(self) -> None:
        """Give the session's memory back."""
        self._binding = self._session = None
        self._sources, self._targets = {}, {}


def check_provider(available: list[str]) -> None:
    """Refuse a library that was built without CUDA.

    Raises:
        BackendError: It has no provider for it.
    """
    if PROVIDER not in available:
        raise BackendError(
            f"ort_cuda: expected onnxruntime with {PROVIDER}, found one with "
            f"{', '.join(available)}. Install the extra gpu instead of cpu."
        )


def open_engine(
    path: Path,
    graph: GraphSpec,
    *,
    precision: Precision,
    threads: int | None,  # noqa: ARG001  # the GPU computes
    kept: KeptEngine | None = None,  # noqa: ARG001  # it compiles faster than it loads
) -> Engine:
    """Compile a graph for the GPU; see `runtime.engine.open_engine`."""
    ort = import_ort("ort_cuda")
    check_provider(ort.get_available_providers())
    if precision != graph.precision:
        raise BackendError(
            f"ort_cuda: {graph.file}: expected a graph written in {precision}, found "
            f"{graph.precision}. Export the bundle in that precision."
        )
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    try:
        return _opened(ort, path, graph, is_captured=True)
    except BackendError as error:
        warnings.warn(
            f"{error}; trying without a CUDA graph, which is slower",
            RuntimeWarning,
            stacklevel=2,
        )
        return _opened(ort, path, graph, is_captured=False)


def _opened(ort: Any, path: Path, graph: GraphSpec, *, is_captured: bool) -> Engine:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # A node that fell back to the CPU would cost two copies in silence.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    provider = {
        "enable_cuda_graph": "1" if is_captured else "0",
        # Ten bits of mantissa where the graph says float32.
        "use_tf32": "0",
    }
    try:
        session = ort.InferenceSession(
            str(path), options, providers=[(PROVIDER, provider)]
        )
    except failures(ort) as error:
        raise BackendError(f"ort_cuda: {graph.file}: {line(error)}") from error
    check_ports(
        graph,
        {port.name: tuple(port.shape) for port in session.get_inputs()},
        {port.name: tuple(port.shape) for port in session.get_outputs()},
    )
    return BoundEngine("ort_cuda", ort, session, graph, "cuda")
