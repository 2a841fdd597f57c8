"""What a compiled graph is to the rest of the runtime, whoever compiled it.

Knows no library: `open_engine` imports the one that is asked for.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, Protocol, runtime_checkable

from runtime.buffers import Array
from runtime.engines.cache import KeptEngine
from runtime.errors import BackendError, TensorMismatchError
from runtime.manifest import GraphSpec
from runtime.onnx_guard import check_file

Backend = Literal["ort", "ort_cuda", "openvino", "tensorrt", "reference"]
Precision = Literal["f32", "f16", "bf16", "int8", "fp8"]
"""Of the arithmetic. What is not f32 keeps inputs, outputs and the flow's state so."""
Wait = Literal["spin", "block"]
"""How a caller waits for a GPU: on a core of its own, or asleep."""


class Waiting(NamedTuple):
    """What TensorRT does while it waits: for the GPU, and for the next volume."""

    wait: Wait = "block"
    keep_warm: bool = False
    """Repeat the flow's last call between volumes, so that the GPU keeps its clocks."""


_MODULES: Final = MappingProxyType(
    {
        "ort": "runtime.engines.ort",
        "ort_cuda": "runtime.engines.ort_cuda",
        "openvino": "runtime.engines.openvino",
        "reference": "runtime.engines.reference",
        "tensorrt": "runtime.engines.tensorrt",
    }
)


@runtime_checkable
class Engine(Protocol):
    """One compiled graph with its buffers, allocated once."""

    name: str
    """Backend's name."""
    version: str
    """Version of the backend's library."""
    keeps_last: bool
    """Whether a call leaves the outputs of the one before as they are, also where it
    fails: they may be its inputs, and those of an engine that takes over."""

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Evaluate the graph.

        Args:
            inputs: Exactly the graph's inputs, of exactly their shapes and dtypes;
                read no longer when the call returns.

        Returns:
            The graph's outputs; read-only and valid until the next call.

        Raises:
            TensorMismatchError: Another name, shape or dtype.
            BackendError: The library failed.
        """
        ...

    def close(self) -> None:
        """Give the library's memory back; the engine must not run again."""
        ...


def check_ports(
    graph: GraphSpec,
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Mapping[str, tuple[int, ...]],
) -> None:
    """Hold what a library found in a file against what the manifest says of it.

    Raises:
        TensorMismatchError: Another name or shape.
    """
    for words, specs, found in (
        ("inputs", graph.inputs, inputs),
        ("outputs", graph.outputs, outputs),
    ):
        wanted = {spec.name: tuple(spec.shape) for spec in specs}
        if wanted != found:
            raise TensorMismatchError(
                f"{graph.file}: {words}", expected=str(wanted), found=str(dict(found))
            )


def open_engine(
    backend: str,
    path: Path,
    graph: GraphSpec,
    *,
    precision: Precision = "f32",
    threads: int | None = None,
    kept: KeptEngine | None = None,
    waiting: Waiting | None = None,
) -> Engine:
    """Compile a graph.

    Args:
        backend: ``ort`` (ONNX Runtime on the CPU), ``openvino``,
            ``ort_cuda``, ``tensorrt`` (native or RTX, on the GPU) or ``reference``.
        path: The graph's file, of a bundle's private copy.
        graph: What the manifest says of it.
        precision: Of the arithmetic; inputs and outputs are float32 either way.
        threads: Threads of one evaluation; None leaves the choice to the library.
        kept: Where compiled engines are kept between starts; None keeps none.
        waiting: How TensorRT waits; None where the backend has no such choice.

    Raises:
        BackendError: Unknown, missing or failing library, a precision it lacks, or a
            way of waiting that it has not.
        BundleError: The file is no flat graph of standard operators with its weights.
        TensorMismatchError: The file's inputs or outputs differ from the manifest's.
    """
    if backend not in _MODULES:
        raise BackendError(
            f"backend: expected one of {', '.join(_MODULES)}, found {backend}"
        )
    if waiting is not None and backend != "tensorrt":
        raise BackendError(
            f"waiting: expected the backend tensorrt, which alone has a choice, "
            f"found {backend}"
        )
    # Before the library is even loaded: it must never parse what this refuses.
    check_file(path, graph)
    module = importlib.import_module(_MODULES[backend])
    choices = {} if waiting is None else {"waiting": waiting}
    engine: Engine = module.open_engine(
        path, graph, precision=precision, threads=threads, kept=kept, **choices
    )
    return engine
