"""OpenVINO on the CPU: the fast path there, in bfloat16 on AMX, float32 for parity."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from runtime.engine import (
    Array,
    Engine,
    Precision,
    allocate,
    check_ports,
    fill,
    read_only,
)
from runtime.engines.signal_stack import use_ordinary_signal_stack
from runtime.errors import BackendError
from runtime.manifest import GraphSpec


def _import() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise BackendError(
            "openvino: expected the library openvino, found none. "
            "Install the extra cpu."
        ) from error
    return openvino


@final
class OpenVinoEngine:
    """An inference request whose tensors share memory with numpy buffers."""

    name = "openvino"

    def __init__(self, library: Any, request: Any, graph: GraphSpec) -> None:
        self.version = library.__version__
        self._request = request
        self._inputs = allocate(graph.inputs)
        outputs = allocate(graph.outputs)
        self._outputs = read_only(outputs)
        for name, buffer in (self._inputs | outputs).items():
            request.set_tensor(name, library.Tensor(buffer, shared_memory=True))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Evaluate the graph; see `Engine.run`."""
        fill(self._inputs, inputs)
        try:
            self._request.infer()
        except RuntimeError as error:
            raise BackendError(f"openvino: {' '.join(str(error).split())}") from error
        return self._outputs

    def close(self) -> None:
        """Give the compiled model's memory back."""
        self._request = None
        use_ordinary_signal_stack()


def open_engine(
    path: Path, graph: GraphSpec, *, precision: Precision, threads: int | None
) -> Engine:
    """Compile a graph for the CPU; see `runtime.engine.open_engine`."""
    openvino = _import()
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        # Never left to the library, which takes bf16 wherever the CPU has AMX.
        "INFERENCE_PRECISION_HINT": precision,
    }
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = str(threads)
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(str(path)), "CPU", config)
        request = compiled.create_infer_request()
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise BackendError(f"openvino: {graph.file}: {message}") from error
    finally:
        use_ordinary_signal_stack()
    check_ports(
        graph,
        {port.any_name: tuple(port.shape) for port in compiled.inputs},
        {port.any_name: tuple(port.shape) for port in compiled.outputs},
    )
    return OpenVinoEngine(openvino, request, graph)
