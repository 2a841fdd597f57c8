"""A float32 graph in half precision, with every cast written into it.

Matrix products take and give half precision, and accumulate as their engine does.
Everything else stays in float32: sums, scalings, normalisations, convolutions, the
conditioning rows, the residual stream, inputs and outputs. Halving the step graph
before it is unrolled keeps the solver's sums, the state of the flow, in float32 too.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal, final

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from export.graphs import Array, Graph
from runtime.errors import ParityError

Half = Literal["f16", "bf16"]

HALVES: Final[Mapping[Half, np.dtype]] = {
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}
_PRODUCTS: Final = frozenset({"MatMul"})
_WIDE: Final = frozenset(
    {
        "Add",
        "Conv",
        "ConvTranspose",
        "Div",
        "Gelu",
        "InstanceNormalization",
        "LayerNormalization",
        "Mul",
        "Reciprocal",
        "ReduceL2",
        "ReduceMean",
        "Sigmoid",
        "Sqrt",
        "Sub",
    }
)
"""Statistics are sums of squares, which overflow float16. Rounding sums and scalings
too makes the error of a bfloat16 velocity up to two thirds larger. Convolutions hold
little of the work, are no bfloat16 operator before opset 22, and some thirty of them in
series, each rounded, take the voxel decoder beyond the gate (2.9e-2 instead of 6.6e-3).
"""
_MOVES: Final = frozenset(
    {"Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
_FOLLOWERS: Final = _MOVES | {"Softmax"}
"""They compute in the type of their first input: between the two products of attention
no cast keeps an engine from making one kernel of it."""


@final
class _Typing:
    """The graph while it is typed: what is half so far, and the casts that exist."""

    def __init__(self, graph: Graph, half: np.dtype) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.is_half = {spec.name: False for spec in graph.inputs}
        self._graph, self._half = graph, half
        self._cast: dict[tuple[str, bool], str] = {}

    def takes_part(self, name: str) -> bool:
        """Say whether a tensor holds floating-point numbers."""
        weight = self._graph.weights.get(name)
        return name in self.is_half or (weight is not None and weight.dtype.kind == "f")

    def given(self, name: str, is_half: bool) -> str:
        """Return the name of a tensor in a type, cast at most once."""
        if not self.takes_part(name):
            if name in self._graph.weights:
                self.weights[name] = self._graph.weights[name]
            return name
        if name in self._graph.weights:
            return self._weight(name, is_half)
        if self.is_half[name] == is_half:
            return name
        key = name, is_half
        if key not in self._cast:
            self._cast[key] = f"{name}.{'half' if is_half else 'wide'}"
            self.cast(name, self._cast[key], is_half)
        return self._cast[key]

    def _weight(self, name: str, is_half: bool) -> str:
        array = self._graph.weights[name]
        if not is_half:
            self.weights[name] = array
            return name
        key = f"{name}.half"
        # A number beyond float16's range becomes infinite; the judge refuses it.
        with np.errstate(over="ignore"):
            self.weights.setdefault(key, array.astype(self._half))
        return key

    def cast(self, source: str, target: str, is_half: bool) -> None:
        """Write a cast."""
        kind = helper.np_dtype_to_tensor_dtype(
            self._half if is_half else np.dtype(np.float32)
        )
        self.nodes.append(
            helper.make_node("Cast", [source], [target], name=f"to.{target}", to=kind)
        )


def halved(graph: Graph, precision: Half) -> Graph:
    """Return a graph that computes in half what may be computed in half.

    Args:
        graph: In float32; of the operators that `export.graphs` emits.
        precision: ``f16`` or ``bf16``.

    Raises:
        ParityError: An operator of which this module does not know what is safe.
    """
    typing = _Typing(graph, HALVES[precision])
    outputs = {spec.name for spec in graph.outputs}
    for node in graph.nodes:
        is_half = _computes_in_half(node, typing)
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [typing.given(name, is_half) for name in node.input]
        typing.nodes.append(copy)
        for i, name in enumerate(node.output):
            # An output of the graph keeps its name, and its type, behind a cast.
            is_cast = is_half and name in outputs
            typing.is_half[name] = is_half and not is_cast
            if is_cast:
                copy.output[i] = f"{name}.half"
                typing.cast(f"{name}.half", name, is_half=False)
    return replace(
        graph, nodes=tuple(typing.nodes), weights=typing.weights, precision=precision
    )


def _computes_in_half(node: onnx.NodeProto, typing: _Typing) -> bool:
    """Say in which type a node computes, by the rule at the top.

    Raises:
        ParityError: An unknown operator.
    """
    if node.op_type in _PRODUCTS:
        return True
    if node.op_type in _WIDE:
        return False
    if node.op_type in _FOLLOWERS:
        return typing.is_half.get(node.input[0], False)
    raise ParityError(
        f"{node.op_type}: expected an operator whose half precision is known, "
        f"one of {', '.join(sorted(_PRODUCTS | _WIDE | _FOLLOWERS))}"
    )


def rounded_in_float32(graph: Graph) -> Graph:
    """Return a float32 graph that rounds as a half graph does, cast for cast.

    Any engine that has float32 and casts can judge by it the arithmetic of a precision
    that it lacks: each operator computes in float32, as tensor cores accumulate, and
    its result is rounded to half.

    Args:
        graph: From `halved`, unrolled or not.

    Raises:
        ParityError: It is not in half precision.
    """
    if graph.precision not in ("f16", "bf16"):
        raise ParityError(
            f"{graph.name}: expected a graph in f16 or bf16, found {graph.precision}"
        )
    dtype = HALVES[graph.precision]
    half = helper.np_dtype_to_tensor_dtype(dtype)
    is_half = {key: array.dtype == dtype for key, array in graph.weights.items()}
    nodes: list[onnx.NodeProto] = []

    def round_into(source: str, target: str) -> None:
        middle = f"{target}.rounded"
        for name, result, kind in (
            (source, middle, half),
            (middle, target, TensorProto.FLOAT),
        ):
            nodes.append(helper.make_node("Cast", [name], [result], to=kind))

    for node in graph.nodes:
        if node.op_type == "Cast":
            to_half = node.attribute[0].i == half
            is_half[node.output[0]] = to_half
            if to_half:
                round_into(node.input[0], node.output[0])
            else:
                nodes.append(helper.make_node("Identity", node.input, node.output))
            continue
        rounds = any(is_half.get(name, False) for name in node.input)
        is_half |= dict.fromkeys(node.output, rounds)
        if not rounds or node.op_type in _MOVES:
            nodes.append(node)
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.output[:] = [f"{name}.exact" for name in node.output]
        nodes.append(copy)
        for exact, name in zip(copy.output, node.output, strict=True):
            round_into(exact, name)
    weights = {
        key: array.astype(np.float32) if array.dtype == dtype else array
        for key, array in graph.weights.items()
    }
    return replace(graph, nodes=tuple(nodes), weights=weights, precision="f32")
