"""The velocity graph with its linear layers in 8 bits, smoothed as in SmoothQuant.

Each product with a weight becomes quantise, dequantise and product, which engines fuse
into one product of integers: int8 weights with a scale per output channel, int8
activations with one scale. A channel whose activations are large would take the scale
for itself, so part of its size is moved into the weight first (Xiao et al., 2023,
"SmoothQuant", equation 4). Everything else stays in float32.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final, final

import numpy as np
import onnx
import torch
from jaxtyping import Float, Float32
from onnx import helper
from torch import Tensor, nn

from export.graphs import Graph
from runtime.errors import ParityError
from training.sit import SiT

ALPHA: Final = 0.5
"""Share of a channel's size that moves into the weight. Over twenty Euler steps of the
small models 0.65 and 0.8 gave the same cosine or a lower one (0.9963 after 0.9979)."""
_LEVELS: Final = 127
"""Of an activation, symmetric: -127 to 127."""
_WEIGHT_LEVELS: Final = 63
"""Of a weight: seven bits. Processors without integer dot products add two products in
16 bits, which 255 x 63 x 2 fits and 255 x 127 x 2 does not: with eight bits OpenVINO
saturates there (a cosine of 0.9945 instead of 0.9995 on AVX2), with seven it computes
what ONNX Runtime does."""

Sizes = Float32[np.ndarray, " inputs"]


@final
class Ranges:
    """The largest size of each input channel of each linear layer, as seen so far."""

    def __init__(self, field: SiT) -> None:
        self._field = field
        layers = [*field.blocks, field.final_layer.linear]
        self._seen: dict[nn.Linear, Tensor] = {}
        self._linears = [
            module
            for layer in layers
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear) and "adaLN_modulation" not in name
        ]

    @torch.no_grad()
    def watch(
        self, z: Float[np.ndarray, "k tokens width"], times: Sequence[float]
    ) -> None:
        """Look at the activations of latents, each at its time."""
        with ExitStack() as hooks:
            for linear in self._linears:
                handle = linear.register_forward_pre_hook(self._note)
                hooks.callback(handle.remove)
            self._field(
                torch.from_numpy(z).float(), torch.tensor(times, dtype=torch.float32)
            )

    def _note(self, linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(linear, nn.Linear):
            size = inputs[0].abs().flatten(0, -2).amax(dim=0)
            seen = self._seen.get(linear)
            self._seen[linear] = size if seen is None else torch.maximum(seen, size)

    def of(self, weight: Float32[np.ndarray, "inputs outputs"]) -> Sizes:
        """Return the sizes of the inputs of the layer that has this weight.

        Raises:
            ParityError: No layer that was watched has it.
        """
        for linear, size in self._seen.items():
            if np.array_equal(linear.weight.detach().numpy().T, weight):
                return np.asarray(size.numpy())
        raise ParityError(
            f"weight {list(weight.shape)}: expected a linear layer that was "
            "calibrated, found none with it"
        )


def smoothing(sizes: Sizes, weight: Float32[np.ndarray, "inputs outputs"]) -> Sizes:
    """Return what to divide each input channel by, and to multiply its weights by.

    A channel that is always zero, or has no weight, is left as it is.
    """
    strongest = np.abs(weight).max(axis=1)
    is_used = (sizes > 0) & (strongest > 0)
    a, w = np.where(is_used, sizes, 1), np.where(is_used, strongest, 1)
    return np.asarray(a**ALPHA / w ** (1 - ALPHA), dtype=np.float32)


def quantised(
    graph: Graph, ranges: Callable[[Float32[np.ndarray, "inputs outputs"]], Sizes]
) -> Graph:
    """Return a graph whose products with weights are of 8-bit integers.

    Args:
        graph: The velocity graph in float32.
        ranges: Largest sizes of the inputs of a layer, by its weight.

    Raises:
        ParityError: A weight that was not calibrated, or nothing to quantise.
    """
    nodes: list[onnx.NodeProto] = []
    weights = dict(graph.weights)
    count = 0
    for node in graph.nodes:
        weight = graph.weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None:
            nodes.append(node)
            continue
        name = node.input[1]
        smooth = smoothing(ranges(weight), weight)
        step = float((ranges(weight) / smooth).max()) / _LEVELS or 1.0
        rows = weight * smooth[:, None]
        steps = np.maximum(np.abs(rows).max(axis=0), np.finfo(np.float32).tiny)
        steps = (steps / _WEIGHT_LEVELS).astype(np.float32)
        del weights[name]
        weights |= {
            f"{name}.q": np.rint(rows / steps).astype(np.int8),
            f"{name}.steps": steps,
            f"{name}.zeros": np.zeros(len(steps), np.int8),
            f"{name}.smooth": (1 / smooth).astype(np.float32),
            f"{name}.step": np.array(step, np.float32),
            "int8.zero": np.array(0, np.int8),
        }
        nodes += _product(node, name, f"q{count}")
        count += 1
    if not count:
        raise ParityError(
            f"{graph.name}: expected products with weights, to quantise, found none"
        )
    return replace(graph, nodes=tuple(nodes), weights=weights, precision="int8")


def _product(
    node: onnx.NodeProto, weight: str, prefix: str
) -> Iterable[onnx.NodeProto]:
    """Return the nodes of one product of integers."""

    def make(op: str, inputs: list[str], output: str, **how: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [output], name=f"{op}.{output}", **how)

    smoothed, integers, activation, matrix = (
        f"{prefix}.{part}" for part in ("smoothed", "integers", "activation", "matrix")
    )
    scale = [f"{weight}.step", "int8.zero"]
    return (
        make("Mul", [node.input[0], f"{weight}.smooth"], smoothed),
        make("QuantizeLinear", [smoothed, *scale], integers),
        make("DequantizeLinear", [integers, *scale], activation),
        make(
            "DequantizeLinear",
            [f"{weight}.q", f"{weight}.steps", f"{weight}.zeros"],
            matrix,
            axis=1,
        ),
        make("MatMul", [activation, matrix], node.output[0]),
    )
