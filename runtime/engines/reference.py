"""The definition: a graph evaluated in float64 by numpy, operator by operator.

Slow, and the judge of the fast ones on a rig that has no torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import final

import numpy as np

from runtime.arrays import Shaped
from runtime.buffers import Array, allocate, fill, read_only
from runtime.engine import Engine, Precision
from runtime.engines.cache import KeptEngine
from runtime.engines.reference_operators import OPERATORS
from runtime.errors import BackendError
from runtime.manifest import GraphSpec
from runtime.onnx_graph import Attribute, Node, OnnxGraph, read_onnx
from runtime.onnx_tensor import Tensor
from runtime.onnx_values import tensor_values


@final
class Evaluation:
    """A graph with its constants in float64, ready to be evaluated."""

    def __init__(self, graph: OnnxGraph, folder: Path, what: str) -> None:
        """Load a graph's constants.

        Args:
            graph: What the file says.
            folder: Where its weights lie.
            what: The file's name in an error.

        Raises:
            BackendError: An operator that is not defined here.
            BundleError: Constants that cannot be read.
        """
        unknown = {n.operator for n in graph.nodes} - OPERATORS.keys() - {"Constant"}
        if unknown:
            raise BackendError(
                f"reference: {what}: expected operators of {', '.join(OPERATORS)}, "
                f"found {', '.join(sorted(unknown))}"
            )
        known = (
            {p.name for p in graph.inputs} | {c.name for c in graph.constants} | {""}
        )
        for node in graph.nodes:
            if missing := set(node.inputs) - known:
                raise BackendError(
                    f"reference: {what}: {node.operator}: expected inputs that are "
                    f"computed before it, found {', '.join(sorted(missing))}"
                )
            known.update(node.outputs)
        self._what = what
        self._outputs = tuple(port.name for port in graph.outputs)
        self._constants = {
            one.name: _wide(tensor_values(one, folder, what)) for one in graph.constants
        }
        for node in graph.nodes:
            value = node.attributes.get("value")
            if node.operator == "Constant" and isinstance(value, Tensor):
                self._constants[node.outputs[0]] = _wide(
                    tensor_values(value, folder, what)
                )
        self._nodes = [node for node in graph.nodes if node.operator != "Constant"]
        self._last_use = {
            name: i for i, node in enumerate(self._nodes) for name in node.inputs
        }

    def __call__(
        self, inputs: Mapping[str, Array]
    ) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Return the graph's outputs, floating ones in float64.

        Raises:
            BackendError: The graph's shapes do not fit each other.
        """
        values: dict[str, Array | None] = {"": None, **self._constants}
        values |= {name: _wide(array) for name, array in inputs.items()}
        for i, node in enumerate(self._nodes):
            found = self._evaluate(node, values)
            values.update(zip(node.outputs, found, strict=False))
            for name in set(node.inputs):
                is_over = self._last_use[name] == i and name not in self._constants
                if is_over and name and name not in self._outputs:
                    values.pop(name)
        outputs = {name: values.get(name) for name in self._outputs}
        return {name: array for name, array in outputs.items() if array is not None}

    def _evaluate(
        self, node: Node, values: Mapping[str, Array | None]
    ) -> tuple[Array, ...]:
        arguments = tuple(values[name] for name in node.inputs)
        attributes: Mapping[str, Attribute] = node.attributes
        try:
            # What is not finite is in the result, where whoever judges it counts it.
            with np.errstate(all="ignore"):
                return OPERATORS[node.operator](arguments, attributes)
        except (ValueError, IndexError, KeyError, TypeError) as error:
            message = " ".join(str(error).split())
            raise BackendError(
                f"reference: {self._what}: {node.operator}: {message}"
            ) from error


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


@final
class ReferenceEngine:
    """An evaluation with an engine's buffers; outputs are rounded to their dtype."""

    name = "reference"
    keeps_last = False
    version = f"numpy {np.__version__}"

    def __init__(self, evaluation: Evaluation, graph: GraphSpec) -> None:
        self._evaluation: Evaluation | None = evaluation
        self._inputs = allocate(graph.inputs)
        self._buffers = allocate(graph.outputs)
        self._outputs = read_only(self._buffers)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Evaluate the graph; see `Engine.run`."""
        fill(self._inputs, inputs)
        if self._evaluation is None:
            raise BackendError("reference: expected an open engine, found it closed")
        found = self._evaluation(self._inputs)
        for name, buffer in self._buffers.items():
            # Never stretched: an output of one number is none of the whole shape.
            if name not in found or found[name].shape != buffer.shape:
                shape = list(found[name].shape) if name in found else "none"
                raise BackendError(
                    f"reference: {name}: expected shape {list(buffer.shape)} as the "
                    f"manifest's, found {shape}"
                )
            # What is too large for float32 is infinite, and is judged as that.
            with np.errstate(all="ignore"):
                np.copyto(buffer, found[name], casting="same_kind")
        return self._outputs

    def close(self) -> None:
        """Give the constants' memory back."""
        self._evaluation = None


def open_engine(
    path: Path,
    graph: GraphSpec,
    *,
    precision: Precision,
    threads: int | None,  # noqa: ARG001  # numpy's threads are the process's
    kept: KeptEngine | None = None,  # noqa: ARG001  # nothing is compiled
) -> Engine:
    """Load a graph to be evaluated in float64; see `runtime.engine.open_engine`."""
    if precision != "f32":
        raise BackendError(
            "reference: expected precision f32, computed in float64, found "
            f"{precision}. Export the bundle in that precision, or choose f32."
        )
    found = read_onnx(path.read_bytes(), graph.file)
    return ReferenceEngine(Evaluation(found, path.parent, graph.file), graph)
