"""OpenVINO on the CPU: the fast path there, in bfloat16 on AMX, float32 for parity."""

import functools
import io
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, final

from runtime.buffers import Array, Inputs, Outputs
from runtime.engine import Engine, Precision, check_ports
from runtime.engines.cache import KeptEngine, let_go
from runtime.engines.device import cpu_facts, cpu_flags, cpu_here
from runtime.engines.openvino_products import convolve
from runtime.engines.openvino_weights import halve
from runtime.engines.signal_stack import use_ordinary_signal_stack
from runtime.errors import BackendError
from runtime.manifest import GraphSpec


def import_library() -> Any:
    """Return the library.

    Raises:
        BackendError: It is not installed.
    """
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
    keeps_last = True

    def __init__(
        self,
        library: Any,
        request: Any,
        graph: GraphSpec,
        memory: Sequence[object] = (),
    ) -> None:
        self.version = library.__version__
        self._library, self._request = library, request
        # A model may compute with weights in the memory it was made or loaded from.
        self._memory = memory
        self._inputs, self._outputs = Inputs(graph.inputs), Outputs(graph)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Evaluate the graph; see `Engine.run`."""
        try:
            self._inputs.take(inputs, self._bind)
            self._outputs.offer(self._bind)
            self._request.infer()
        except RuntimeError as error:
            raise BackendError(f"openvino: {one_line(error)}") from error
        return self._outputs.turn()

    def _bind(self, name: str, memory: Array) -> None:
        tensor = self._library.Tensor(memory, shared_memory=True)
        self._request.set_tensor(name, tensor)

    def close(self) -> None:
        """Give the compiled model's memory back."""
        self._request = None
        use_ordinary_signal_stack()


def check_precision(precision: Precision, capabilities: Sequence[str]) -> None:
    """Refuse a precision that the processor would only imitate.

    Raises:
        BackendError: bf16 without instructions for it, or another precision.
    """
    if precision not in ("f32", "bf16", "int8"):
        raise BackendError(
            "openvino: expected precision f32, bf16 or int8 on the CPU, found "
            f"{precision}. Choose one of these, or another backend."
        )
    if precision == "bf16" and "BF16" not in capabilities:
        raise BackendError(
            "openvino: expected a CPU that computes in bf16 (AMX, or AVX-512 with "
            f"bf16), found one with {', '.join(capabilities)}. Choose precision f32."
        )


def hint(precision: Precision, capabilities: Sequence[str]) -> Precision:
    """Return what the library is told to compute in.

    Of a graph in 8 bits that is what is not in 8 bits: norms, sums and attention, and
    whole graphs that a bundle has in float32 alone.
    """
    if precision != "int8":
        return precision
    return "bf16" if "BF16" in capabilities else "f32"


def convolutions_are_faster(flags: Collection[str]) -> bool:
    """Say whether products are written as convolutions: where that was measured.

    Args:
        flags: Instruction sets of the processor.
    """
    return "avx512_bf16" in flags and "amx_bf16" not in flags


def _compiled(
    core: Any,
    library: Any,
    path: Path,
    config: Mapping[str, str],
    kept: KeptEngine | None,
) -> tuple[Any, Sequence[object]]:
    """Return the compiled graph, and the memory that must live as long as it does.

    Where it was loaded, the first is what it was loaded from.
    """
    is_halved = config["INFERENCE_PRECISION_HINT"] == "bf16"
    is_convolved = is_halved and convolutions_are_faster(cpu_flags(cpu_facts()))

    def compiled() -> tuple[Any, Sequence[object]]:
        model = core.read_model(str(path))
        weights = halve(library, model) if is_halved else []
        if is_convolved:
            weights = convolve(library, model, weights)
        return core.compile_model(model, "CPU", config), weights

    def imported(found: Array) -> tuple[Any, Sequence[object]] | None:
        try:
            blob = library.Tensor(found, shared_memory=True)
            return core.import_model(blob, "CPU", config), (found, blob)
        except RuntimeError as error:
            if kept is not None:
                kept.cache.refuse(facts, f"one refused: {one_line(error)[:200]}")
            return None

    if kept is None:
        return compiled()
    settings = {**config, "WEIGHTS": "bf16"} if is_halved else dict(config)
    if is_convolved:
        settings["PRODUCTS"] = "convolutions"
    facts = kept.facts(
        "openvino", library.__version__, cpu_here(), tuple(sorted(settings.items()))
    )
    found = kept.cache.load(facts)
    if found is not None and (loaded := imported(found)) is not None:
        return loaded
    built, weights = compiled()
    found = kept.cache.store_written(facts, functools.partial(_export, built))
    if found is None:
        return built, weights
    # Smaller than what was compiled: that holds the weights as the graph has them too.
    del built, weights
    return imported(found) or compiled()


class _Written(io.BytesIO):
    """A file that the library takes for the one kind of stream that it writes to.

    It begins where the file stands.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file, self._start = file, file.tell()
        self.trouble: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            # On its way through the library it would be lost.
            self.trouble = self.trouble or error
            return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        is_absolute = whence == os.SEEK_SET
        try:
            place = self._file.seek(offset + self._start * is_absolute, whence)
        except OSError as error:
            # What was written before goes out at a seek.
            self.trouble = self.trouble or error
            return offset
        return place - self._start

    def tell(self) -> int:
        return self._file.tell() - self._start

    def flush(self) -> None:
        # The file's owner does, where it can say what that met with.
        return


def _export(compiled: Any, file: BinaryIO) -> None:
    written = _Written(file)
    try:
        compiled.export_model(written)
    except RuntimeError as error:
        # It computes all the same, and is built again at the next start.
        raise OSError(0, one_line(error)) from error
    if written.trouble is not None:
        raise written.trouble


def one_line(error: Exception) -> str:
    """Return what the library says in one line."""
    return " ".join(str(error).split())


def open_engine(
    path: Path,
    graph: GraphSpec,
    *,
    precision: Precision,
    threads: int | None,
    kept: KeptEngine | None = None,
) -> Engine:
    """Compile a graph for the CPU; see `runtime.engine.open_engine`."""
    openvino = import_library()
    try:
        core = openvino.Core()
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        check_precision(precision, tuple(capabilities))
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            # Never left to the library, which takes bf16 wherever the CPU has AMX.
            "INFERENCE_PRECISION_HINT": hint(precision, tuple(capabilities)),
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(threads)
        compiled, memory = _compiled(core, openvino, path, config, kept)
        request = compiled.create_infer_request()
        if memory:
            # Its weights were repacked; the file was only read through.
            let_go(memory[0])
    except RuntimeError as error:
        raise BackendError(f"openvino: {graph.file}: {one_line(error)}") from error
    finally:
        use_ordinary_signal_stack()
    check_ports(
        graph,
        {port.any_name: tuple(port.shape) for port in compiled.inputs},
        {port.any_name: tuple(port.shape) for port in compiled.outputs},
    )
    return OpenVinoEngine(openvino, request, graph, memory)
