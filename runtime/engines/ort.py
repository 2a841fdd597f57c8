"""ONNX Runtime on the CPU: portable, float32, the reference among the engines."""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, final

from runtime.buffers import Array, Inputs, Outputs
from runtime.engine import Engine, Precision, check_ports
from runtime.engines.cache import KeptEngine
from runtime.engines.floating_point import SubnormalsAsZero
from runtime.errors import BackendError
from runtime.manifest import GraphSpec

OrtBackend = Literal["ort", "ort_cuda"]
DISTRIBUTIONS: Final[Mapping[OrtBackend, tuple[str, str]]] = MappingProxyType(
    {"ort": ("onnxruntime", "cpu"), "ort_cuda": ("onnxruntime-gpu", "gpu")}
)
"""What a backend needs, and the extra that has it."""


def installed(name: str) -> bool:
    """Say whether a distribution of this name is installed."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def check_distributions(*, cpu: bool, gpu: bool, backend: OrtBackend = "ort") -> None:
    """Refuse the combinations of distributions in which the import is not what it says.

    Args:
        cpu: Whether onnxruntime is installed.
        gpu: Whether onnxruntime-gpu is.
        backend: Which is asked for.

    Raises:
        BackendError: Neither distribution, or both: they share one import package, and
            CUDA vanishes silently (microsoft/onnxruntime#26996).
    """
    wanted, extra = DISTRIBUTIONS[backend]
    if cpu and gpu:
        raise BackendError(
            f"{backend}: expected one of onnxruntime and onnxruntime-gpu, found both, "
            "which overwrite each other. "
            f"Uninstall both, then install the extra {extra}."
        )
    if not (cpu or gpu):
        raise BackendError(
            f"{backend}: expected the library {wanted}, found none. "
            f"Install the extra {extra}."
        )


def import_ort(backend: OrtBackend = "ort") -> Any:
    """Import ONNX Runtime, whichever of its distributions is installed.

    Args:
        backend: Which is asked for.

    Raises:
        BackendError: None or both are, or it does not load.
    """
    check_distributions(
        cpu=installed("onnxruntime"),
        gpu=installed("onnxruntime-gpu"),
        backend=backend,
    )
    wanted, extra = DISTRIBUTIONS[backend]
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"{backend}: expected {wanted} to load, found {line(error)}. "
            f"Install the extra {extra} anew."
        ) from error
    return onnxruntime


@final
class OrtEngine:
    """A session whose inputs and outputs are bound to the memory of numpy arrays."""

    name = "ort"
    keeps_last = True

    def __init__(self, library: Any, session: Any, graph: GraphSpec) -> None:
        self.version = library.__version__
        self._failures = failures(library)
        self._session = session
        self._subnormals_as_zero = SubnormalsAsZero()
        self._binding = session.io_binding()
        self._inputs, self._outputs = Inputs(graph.inputs), Outputs(graph)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Evaluate the graph; see `Engine.run`."""
        try:
            self._inputs.take(inputs, self._binding.bind_cpu_input)
            self._outputs.offer(self._write_to)
            # The caller's thread takes its part of the work, and is the only one where
            # there is no other.
            with self._subnormals_as_zero:
                self._session.run_with_iobinding(self._binding)
        except self._failures as error:
            raise BackendError(f"ort: {line(error)}") from error
        return self._outputs.turn()

    def _write_to(self, name: str, buffer: Array) -> None:
        self._binding.bind_output(
            name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data
        )

    def close(self) -> None:
        """Give the session's memory back."""
        self._binding = None
        self._session = None


def failures(library: Any) -> tuple[type[Exception], ...]:
    """Return what the library raises; its exceptions share no base but Exception."""
    state = library.capi.onnxruntime_pybind11_state
    found = [value for value in vars(state).values() if isinstance(value, type)]
    own = [value for value in found if issubclass(value, Exception)]
    return (RuntimeError, ValueError, *own)


def line(error: Exception) -> str:
    """Return what an exception says, in one line."""
    return " ".join(str(error).split())


def open_engine(
    path: Path,
    graph: GraphSpec,
    *,
    precision: Precision,
    threads: int | None,
    kept: KeptEngine | None = None,  # noqa: ARG001  # it compiles faster than it loads
) -> Engine:
    """Compile a graph for the CPU; see `runtime.engine.open_engine`."""
    ort = import_ort()
    if precision == "f16":
        # A graph that is written in it, `runtime.graphs` has computed as it says.
        raise BackendError(
            f"ort: {graph.file}: expected a graph written in f16, found "
            f"{graph.precision}. Export the bundle with --precisions f32 f16."
        )
    if precision != "f32":
        raise BackendError(
            f"ort: expected precision f32 on the CPU, found {precision}. "
            "Choose the backend openvino."
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads sleep: between two volumes of a second each, spinning would take
    # the cores from whoever receives the next volume.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Denormals in the tails of GELU and softmax cost up to a hundredfold otherwise.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    left_out = []
    if graph.precision == "fp8":
        # Its fusions for integers take 8-bit floating point too, and then refuse it.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        # Else it keeps the weights of every step by themselves, in float32.
        left_out.append("ConstantFolding")
    try:
        # The library switches them off in this thread, and leaves them so.
        with SubnormalsAsZero():
            session = ort.InferenceSession(
                str(path),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=left_out,
            )
    except failures(ort) as error:
        raise BackendError(f"ort: {graph.file}: {line(error)}") from error
    check_ports(
        graph,
        {port.name: tuple(port.shape) for port in session.get_inputs()},
        {port.name: tuple(port.shape) for port in session.get_outputs()},
    )
    return OrtEngine(ort, session, graph)
