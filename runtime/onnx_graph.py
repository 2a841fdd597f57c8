"""What an ONNX file says, read by nobody else's parser: bytes in, facts out.

Accepts one flat graph over dense tensors. Functions, subgraphs, sparse and optional
values, and whatever this version of the reader does not know, are refused: a library's
parser, written in C++, sees only files that passed here. Field numbers:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final

from runtime.errors import BundleError
from runtime.onnx_tensor import Port, Tensor, read_port, read_tensor
from runtime.protobuf import BYTES, FIXED32, VARINT, Message

Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | Tensor


@final
@dataclass(frozen=True, slots=True)
class Node:
    """One operator with its arguments; an omitted argument is an empty name."""

    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


@final
@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """Everything that an ONNX file computes with."""

    opsets: Mapping[str, int]
    """Version of each operator domain; the standard's own is the empty name."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[Node, ...]
    constants: tuple[Tensor, ...]

    def tensors(self) -> tuple[Tensor, ...]:
        """Return every tensor, those of attributes too."""
        inside = (
            value
            for node in self.nodes
            for value in node.attributes.values()
            if isinstance(value, Tensor)
        )
        return (*self.constants, *inside)


def read_onnx(data: bytes | memoryview, what: str) -> OnnxGraph:
    """Read an ONNX file.

    Args:
        data: The file's bytes; large constants are not copied.
        what: The file's name in an error.

    Raises:
        BundleError: Not ONNX, or more than one flat graph over dense tensors.
    """
    model = Message(
        memoryview(data),
        what,
        single={1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES, 7: BYTES},
        repeated={8: BYTES, 14: BYTES, 20: BYTES, 25: BYTES},
    )
    if model.has(25):
        raise BundleError(f"{what}: expected a flat graph, found local functions")
    if model.has(20):
        raise BundleError(f"{what}: expected a graph alone, found training steps")
    if not model.has(7):
        raise BundleError(f"{what}: expected an ONNX graph, found none")
    opsets: dict[str, int] = {}
    for entry in model.raws(8):
        one = Message(entry, what, single={1: BYTES, 2: VARINT}, repeated={})
        domain = _domain(one.text(1))
        if domain in opsets:
            raise BundleError(
                f"{what}: expected one opset for each domain, found {domain!r} twice"
            )
        opsets[domain] = one.number(2)
    return _graph(model.raw(7), what, opsets)


def _graph(data: memoryview, what: str, opsets: Mapping[str, int]) -> OnnxGraph:
    graph = Message(
        data,
        what,
        single={2: BYTES, 10: BYTES},
        repeated=dict.fromkeys((1, 5, 11, 12, 13, 14, 15, 16), BYTES),
    )
    if graph.has(15):
        raise BundleError(f"{what}: expected dense weights, found sparse ones")
    return OnnxGraph(
        opsets=MappingProxyType(dict(opsets)),
        inputs=tuple(read_port(one, what) for one in graph.raws(11)),
        outputs=tuple(read_port(one, what) for one in graph.raws(12)),
        nodes=tuple(_node(one, what) for one in graph.raws(1)),
        constants=tuple(read_tensor(one, what) for one in graph.raws(5)),
    )


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _node(data: memoryview, what: str) -> Node:
    node = Message(
        data,
        what,
        single={3: BYTES, 4: BYTES, 6: BYTES, 7: BYTES, 8: BYTES},
        repeated={1: BYTES, 2: BYTES, 5: BYTES, 9: BYTES},
    )
    operator = node.text(4)
    if node.raw(8):
        raise BundleError(f"{what}: {operator}: expected an operator, found a function")
    attributes: dict[str, Attribute] = {}
    for one in node.raws(5):
        name, value = _attribute(one, f"{what}: {operator}")
        if name in attributes:
            raise BundleError(
                f"{what}: {operator}: expected attribute {name} once, found twice"
            )
        attributes[name] = value
    return Node(
        operator, _domain(node.text(7)), node.texts(1), node.texts(2), attributes
    )


# Type numbers of AttributeProto, each with the field that holds the value.
_FLOAT, _INT, _STRING, _TENSOR, _FLOATS, _INTS = 1, 2, 3, 4, 6, 7
_FIELDS: Final = {_FLOAT: 2, _INT: 3, _STRING: 4, _TENSOR: 5, _FLOATS: 7, _INTS: 8}


def _attribute(data: memoryview, what: str) -> tuple[str, Attribute]:
    one = Message(
        data,
        what,
        single={1: BYTES, 2: FIXED32, 3: VARINT, 4: BYTES, 5: BYTES, 6: BYTES,
                13: BYTES, 14: BYTES, 20: VARINT, 21: BYTES, 22: BYTES},
        repeated={7: FIXED32, 8: VARINT, 9: BYTES, 10: BYTES, 11: BYTES, 15: BYTES,
                  23: BYTES},
    )  # fmt: skip
    name, kind = one.text(1), one.number(20)
    if one.has(6) or one.has(11):
        raise BundleError(f"{what}: expected a plain operator, found a subgraph")
    others = [n for n in range(2, 24) if one.has(n) and n not in (13, 20)]
    if kind not in _FIELDS or any(n != _FIELDS[kind] for n in others):
        raise BundleError(
            f"{what}: expected attribute {name} to be numbers, text or a tensor, found "
            f"type {kind} with fields {others}"
        )
    if kind == _FLOAT:
        values = _floats(one.raw(2) or memoryview(bytes(4)), what)
        return name, values[0]
    if kind == _INT:
        return name, one.number(3)
    if kind == _STRING:
        return name, one.text(4)
    if kind == _TENSOR:
        return name, read_tensor(one.raw(5), what)
    if kind == _FLOATS:
        return name, _floats(memoryview(one.fixed(7)), what)
    return name, one.numbers(8)


def _floats(data: memoryview, what: str) -> tuple[float, ...]:
    if len(data) % 4:
        raise BundleError(f"{what}: expected whole floats, found {len(data)} bytes")
    return struct.unpack(f"<{len(data) // 4}f", data)
