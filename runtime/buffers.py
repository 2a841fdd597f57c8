"""The memory of an engine's inputs and outputs, by the names of a graph's ports.

Knows no library: each tells its own which memory is which. Pure.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from runtime.arrays import Shaped
from runtime.errors import TensorMismatchError
from runtime.manifest import GraphSpec, TensorSpec

Array = Shaped[np.ndarray, "..."]
READ_BYTES: Final = 256 * 1024
"""From this size on it costs less to tell a library where an input lies than to copy
it: a latent of the published size takes 1.7 MB."""
Bind = Callable[[str, Array], None]
"""Tells a library which memory is a port's, by its name."""


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

    def __init__(self, specs: tuple[TensorSpec, ...]) -> None:
        """Allocate the buffers of those that are copied.

        Args:
            specs: What the manifest says of the inputs.
        """
        self._buffers = allocate(specs)
        # Kept, so that the memory that the library reads stays where it is.
        self._bound: dict[str, Array] = {}

    def take(self, inputs: Mapping[str, Array], bind: Bind) -> None:
        """Let the library read these; it must be done with them when a call returns.

        Args:
            inputs: By name.
            bind: Tells the library from which memory to read an input.

        Raises:
            TensorMismatchError: Another set of names, another shape or another dtype.
        """
        check_inputs(self._buffers, inputs)
        for name, buffer in self._buffers.items():
            array = inputs[name]
            read = _as_library_takes(array) if array.nbytes >= READ_BYTES else None
            if read is None:
                np.copyto(buffer, array)
            _bind(name, buffer if read is None else read, self._bound, bind)


class Outputs:
    """An engine's outputs; one that its next call may read has two buffers.

    They are written in turn: whoever drives a step gives its state back as it is, and
    an engine that reads inputs where they lie must not write there.
    """

    def __init__(self, graph: GraphSpec) -> None:
        """Allocate the buffers.

        Args:
            graph: An output of the shape and dtype of an input may become one.
        """
        taken = {(port.shape, port.dtype) for port in graph.inputs}
        twice = [out for out in graph.outputs if (out.shape, out.dtype) in taken]
        first, second = allocate(graph.outputs), allocate(tuple(twice))
        seen = read_only(first)
        self._next = first, seen
        self._last = first | second, MappingProxyType({**seen, **read_only(second)})
        self._bound: dict[str, Array] = {}

    def offer(self, bind: Bind) -> None:
        """Let the library write where it did not in the last call that succeeded.

        Args:
            bind: Tells the library where to write an output.
        """
        for name, buffer in self._next[0].items():
            _bind(name, buffer, self._bound, bind)

    def turn(self) -> Mapping[str, Array]:
        """Return what was written, once a call has succeeded.

        One that failed is followed by one that writes to the same place: what the last
        that succeeded returned stays whole.
        """
        self._next, self._last = self._last, self._next
        return self._last[1]


def _bind(name: str, place: Array, bound: dict[str, Array], bind: Bind) -> None:
    if place is not bound.get(name):
        bind(name, place)
        bound[name] = place


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
