"""What a compiled graph is to the rest of the runtime, whoever compiled it.

Knows no library: `open_engine` imports the one that is asked for.
"""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from runtime.arrays import Shaped
from runtime.engines.cache import KeptEngine
from runtime.errors import BackendError, TensorMismatchError
from runtime.manifest import GraphSpec, TensorSpec
from runtime.onnx_guard import check_file

Backend = Literal["ort", "ort_cuda", "openvino", "tensorrt", "reference"]
Precision = Literal["f32", "f16", "bf16", "int8", "fp8"]
"""Of the arithmetic. What is not f32 keeps inputs, outputs and the flow's state so."""
Array = Shaped[np.ndarray, "..."]
READ_BYTES: Final = 256 * 1024
"""From this size on it costs less to tell a library where an input lies than to copy
it: a latent of the published size takes 1.7 MB."""
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


def allocate(specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """Return zeroed buffers for tensors, by name."""
    return {spec.name: np.zeros(spec.shape, spec.dtype) for spec in specs}


def read_only(buffers: Mapping[str, Array]) -> Mapping[str, Array]:
    """Return views of buffers that the caller of an engine cannot write to."""
    views = {name: buffer.view() for name, buffer in buffers.items()}
    for view in views.values():
        view.flags.writeable = False
    return MappingProxyType(views)


class Inputs:
    """An engine's inputs: large ones are read where they lie, others are copied."""

    def __init__(
        self, specs: tuple[TensorSpec, ...], bind: Callable[[str, Array], None]
    ) -> None:
        """Allocate the buffers of those that are copied.

        Args:
            specs: What the manifest says of the inputs.
            bind: Tells the library from which memory to read an input.
        """
        self._buffers, self._bind = allocate(specs), bind
        # Kept, so that the memory that the library reads stays where it is.
        self._bound = dict(self._buffers)
        for name, buffer in self._buffers.items():
            bind(name, buffer)

    def take(self, inputs: Mapping[str, Array]) -> None:
        """Let the library read these; it must be done with them when a call returns.

        Raises:
            TensorMismatchError: Another set of names, another shape or another dtype.
        """
        check_inputs(self._buffers, inputs)
        for name, buffer in self._buffers.items():
            array = inputs[name]
            read = _as_library_takes(array) if array.nbytes >= READ_BYTES else None
            if read is None:
                np.copyto(buffer, array)
            place = buffer if read is None else read
            if place is not self._bound[name]:
                self._bind(name, place)
                self._bound[name] = place


class Outputs:
    """An engine's outputs; one that its next call may read has two buffers.

    They are written in turn: whoever drives a step gives its state back as it is, and
    an engine that reads inputs where they lie must not write there.
    """

    def __init__(self, graph: GraphSpec, bind: Callable[[str, Array], None]) -> None:
        """Allocate the buffers and bind the first.

        Args:
            graph: An output of the shape and dtype of an input may become one.
            bind: Tells the library where to write an output.
        """
        self._bind = bind
        taken = {(port.shape, port.dtype) for port in graph.inputs}
        twice = [out for out in graph.outputs if (out.shape, out.dtype) in taken]
        first, second = allocate(graph.outputs), allocate(tuple(twice))
        seen = read_only(first)
        self._next = first, seen
        self._last = first | second, MappingProxyType({**seen, **read_only(second)})
        for name, buffer in first.items():
            bind(name, buffer)

    def turn(self) -> Mapping[str, Array]:
        """Return where the library writes now, which is not where it did before."""
        (buffers, seen), (last, _) = self._next, self._last
        for name, buffer in buffers.items():
            if buffer is not last[name]:
                self._bind(name, buffer)
        self._next, self._last = self._last, self._next
        return seen


def _as_library_takes(array: Array) -> Array | None:
    """Return an array over the same memory that can be written; None: there is none."""
    if not (array.flags.c_contiguous and array.flags.aligned):
        return None
    if array.flags.writeable:
        return array
    # OpenVINO takes no other, though it only reads: such as another engine's output.
    view = array.view()
    try:
        view.flags.writeable = True
    except ValueError:
        return None
    return view


def fill(buffers: Mapping[str, Array], inputs: Mapping[str, Array]) -> None:
    """Copy inputs into an engine's buffers.

    Raises:
        TensorMismatchError: Another set of names, another shape or another dtype.
    """
    check_inputs(buffers, inputs)
    for name, buffer in buffers.items():
        np.copyto(buffer, inputs[name])


def check_inputs(buffers: Mapping[str, Array], inputs: Mapping[str, Array]) -> None:
    """Refuse what are not a graph's inputs.

    Raises:
        TensorMismatchError: Another set of names, another shape or another dtype.
    """
    if inputs.keys() != buffers.keys():
        raise TensorMismatchError(
            "inputs",
            expected=", ".join(sorted(buffers)),
            found=", ".join(sorted(inputs)) or "none",
        )
    for name, buffer in buffers.items():
        array = inputs[name]
        if array.shape != buffer.shape or array.dtype != buffer.dtype:
            raise TensorMismatchError(
                name,
                expected=f"{buffer.dtype} {list(buffer.shape)}",
                found=f"{array.dtype} {list(array.shape)}",
            )


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
