"""The smallest graph that computes something: ``y = x @ WEIGHT``."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from runtime.manifest import GraphSpec, TensorSpec

SPEC = GraphSpec(
    name="affine",
    file="graphs/affine.onnx",
    opset=20,
    precision="f32",
    inputs=(TensorSpec(name="x", shape=(1, 3)),),
    outputs=(TensorSpec(name="y", shape=(1, 2)),),
)
WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2)
X = np.array([[1, -2, 3]], np.float32)


def affine(*, node=None, weight=None, width=2, **model_arguments) -> onnx.ModelProto:
    """The graph, or one that differs from it in something."""
    graph = helper.make_graph(
        [node or helper.make_node("MatMul", ["x", "w"], ["y"])],
        "affine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, width])],
        [weight or numpy_helper.from_array(WEIGHT, "w")],
    )
    arguments = {"opset_imports": [helper.make_opsetid("", 20)]} | model_arguments
    return helper.make_model(graph, ir_version=10, **arguments)


def write_affine(folder: Path) -> Path:
    """Write the graph; return its file."""
    path = folder / "affine.onnx"
    path.write_bytes(affine().SerializeToString())
    return path
