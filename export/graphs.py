"""Torch modules to ONNX graphs: one sample, fixed shapes, no trace of this machine.

A `Graph` keeps its weights apart as arrays, so that graphs can be cloned, unrolled and
written around one shared file (`export.unroll`).
"""

import hashlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, final

import numpy as np
import onnx
import torch
from jaxtyping import Shaped
from onnx import helper, numpy_helper
from torch import Tensor, nn

from runtime.engine import Precision
from runtime.errors import ParityError
from runtime.manifest import GraphSpec, TensorSpec
from runtime.sealed import WEIGHTS_MAGIC

OPSET: Final = 20
"""Without opset 23's Attention, which TensorRT-RTX cannot build in float32."""
_IR_VERSION: Final = 10
_INLINE_BYTES: Final = 1024
"""Smaller tensors stay in the graph: shape inference must see them."""
_ALIGNMENT: Final = 64

Array = Shaped[np.ndarray, "..."]


@final
@dataclass(frozen=True, slots=True)
class Graph:
    """An ONNX graph with its weights beside it."""

    name: str
    nodes: tuple[onnx.NodeProto, ...] = field(repr=False)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: Mapping[str, Array] = field(repr=False)
    precision: Precision = "f32"
    """Of the matrix products; inputs and outputs are float32."""

    def spec(self, file: str) -> GraphSpec:
        """Return what a manifest says of this graph."""
        return GraphSpec(
            name=self.name,
            file=file,
            opset=OPSET,
            precision=self.precision,
            inputs=self.inputs,
            outputs=self.outputs,
        )


def _specs(names: Sequence[str], tensors: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, shape=tuple(tensor.shape))
        for name, tensor in zip(names, tensors, strict=True)
    )


def _traced(
    module: nn.Module, args: tuple[Tensor, ...], inputs: list[str], outputs: list[str]
) -> Any:
    """Run torch's exporter, whose remarks to the terminal are not the user's."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                args,
                dynamo=True,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                verbose=False,
            )
    finally:
        log.setLevel(level)
    if program is None:
        raise ParityError("torch.onnx.export: expected a program, found none")
    return program.model


def graph_from_module(
    name: str,
    module: nn.Module,
    args: tuple[Tensor, ...],
    *,
    inputs: list[str],
    outputs: list[str],
) -> Graph:
    """Export a module as it computes for one sample.

    Args:
        name: Of the graph in the bundle.
        module: In evaluation mode, float32, on the CPU.
        args: One example of each input; its shape is the graph's.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
    """
    from onnx_ir import serde

    with torch.no_grad():
        found = module(*args)
    found = found if isinstance(found, tuple) else (found,)
    model = _traced(module, args, inputs, outputs)
    weights = {
        key: np.asarray(value.const_value.numpy(), order="C")
        for key, value in model.graph.initializers.items()
    }
    # Weights leave first: a protobuf message must not exceed 2 GiB.
    for key in weights:
        del model.graph.initializers[key]
    proto = serde.serialize_model(model)
    if proto.functions:
        raise ParityError(f"{name}: expected a flat graph, found local functions")
    nodes, constants = _split_constants(proto.graph.node)
    graph = Graph(
        name, nodes, _specs(inputs, args), _specs(outputs, found), weights | constants
    )
    return _renamed(_stripped(graph))


def with_weights_of(graph: Graph, traced: nn.Module, other: nn.Module) -> Graph:
    """Return a traced module's graph with the weights of another of the same shape.

    Tracing takes seconds, and a graph says the same of both. What is no weight of
    `traced`, nor one transposed, is taken for a constant of the graph: the result must
    be judged, as every graph is before it ships.

    Args:
        graph: From `graph_from_module` of `traced`.
        traced: No two of its weights that the graph holds are alike.
        other: Has weights of the same names and shapes.

    Raises:
        ParityError: A weight could be one or another, or is not in `other`.
    """
    found, wanted = _as_found(traced), _as_found(other)
    shapes = [{name: w.shape for name, w in one.items()} for one in (found, wanted)]
    if shapes[0] != shapes[1]:
        raise ParityError(f"{graph.name}: expected two modules of the same shape")
    weights = {}
    for key, array in graph.weights.items():
        names = [name for name, one in found.items() if _is_equal(one, array)]
        if len(names) > 1:
            raise ParityError(
                f"{graph.name}: expected weights that differ, found those of "
                f"{' and '.join(names)} alike"
            )
        one = wanted[names[0]] if names else array
        weights[key] = np.asarray(one, order="C")
    return replace(graph, weights=weights)


def _as_found(module: nn.Module) -> dict[str, Array]:
    """Return a module's weights as a graph may hold them: as they are, or turned."""
    weights = {name: p.detach().numpy() for name, p in module.state_dict().items()}
    turned = {f"{name}, turned": w.T for name, w in weights.items() if w.ndim == 2}
    return weights | turned


def _is_equal(one: Array, other: Array) -> bool:
    # Most of the large ones differ in their first element already.
    return (
        (one.shape, one.dtype) == (other.shape, other.dtype)
        and bool(np.array_equal(one.flat[:1], other.flat[:1]))
        and bool(np.array_equal(one, other))
    )


def _split_constants(
    nodes: Sequence[onnx.NodeProto],
) -> tuple[tuple[onnx.NodeProto, ...], dict[str, Array]]:
    """Turn Constant nodes into weights, so that clones share them."""
    kept, constants = [], {}
    for node in nodes:
        value = {a.name: a for a in node.attribute}.get("value")
        if node.op_type == "Constant" and value is not None:
            constants[node.output[0]] = numpy_helper.to_array(value.t)
        else:
            kept.append(node)
    return tuple(kept), constants


def _stripped(graph: Graph) -> Graph:
    """Remove stack traces and comments, which hold paths of the exporting machine."""
    for node in graph.nodes:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    return graph


def _renamed(graph: Graph) -> Graph:
    """Give every inner tensor and weight a short name that says nothing of the source.

    Weights keep a unique prefix per graph, so that graphs can share one namespace.
    """
    ports = [spec.name for spec in (*graph.inputs, *graph.outputs)]
    names: dict[str, str] = {"": ""} | {port: port for port in ports}
    for i, key in enumerate(graph.weights):
        names[key] = f"w{i}"
    for node in graph.nodes:
        for output in node.output:
            names.setdefault(output, f"x{len(names)}")
    return replace(
        graph,
        nodes=tuple(
            clone_node(node, names, f"n{i}") for i, node in enumerate(graph.nodes)
        ),
        weights={names[key]: value for key, value in graph.weights.items()},
    )


def clone_node(
    node: onnx.NodeProto, names: Mapping[str, str], name: str
) -> onnx.NodeProto:
    """Copy a node with its inputs and outputs renamed.

    Raises:
        ParityError: It holds a subgraph, whose names would escape.
    """
    if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
        raise ParityError(f"{node.op_type}: expected a plain node, found a subgraph")
    clone = onnx.NodeProto()
    clone.CopyFrom(node)
    clone.name = name
    clone.input[:] = [names[key] for key in node.input]
    clone.output[:] = [names[key] for key in node.output]
    return clone


@final
class WeightStore:
    """An external weights file in which equal arrays are stored once."""

    def __init__(self, file: BinaryIO, location: str) -> None:
        self.location = location
        self._file = file
        self._places: dict[bytes, tuple[int, int]] = {}
        file.write(WEIGHTS_MAGIC)

    def place(self, array: Array) -> tuple[int, int]:
        """Return offset and length of an array's bytes, written on first sight."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        key = hashlib.sha256(data).digest()
        if key not in self._places:
            self._file.write(b"\0" * (-self._file.tell() % _ALIGNMENT))
            self._places[key] = (self._file.tell(), data.nbytes)
            self._file.write(data)
        return self._places[key]


def _initializer(name: str, array: Array, store: WeightStore | None) -> Any:
    is_shape = array.dtype == np.int64
    if store is None or array.nbytes < _INLINE_BYTES or is_shape:
        return numpy_helper.from_array(array, name)
    tensor = onnx.TensorProto(
        name=name,
        dims=array.shape,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        data_location=onnx.TensorProto.EXTERNAL,
    )
    offset, length = store.place(array) if store else (0, 0)
    entries = {
        "location": store.location if store else "",
        "offset": str(offset),
        "length": str(length),
    }
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def write_graph(graph: Graph, path: Path, store: WeightStore | None = None) -> None:
    """Write a graph; large weights go to `store`, or all of them into the file."""
    proto = helper.make_graph(
        graph.nodes,
        graph.name,
        [_port(spec) for spec in graph.inputs],
        [_port(spec) for spec in graph.outputs],
        [_initializer(key, value, store) for key, value in graph.weights.items()],
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="neuroflow",
    )
    path.write_bytes(model.SerializeToString(deterministic=True))


def _port(spec: TensorSpec) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(spec.name, kind, spec.shape)
