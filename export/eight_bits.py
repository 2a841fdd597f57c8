"""The velocity graph with its linear layers in 8 bits, smoothed as in SmoothQuant.

Each product with a weight becomes quantise, dequantise and product, which engines fuse
into one product of 8-bit numbers: weights with a scale per output channel, activations
with one scale, both of integers or both of floating point (E4M3FN). A channel whose
activations are large would take the scale for itself, so part of its size is moved into
the weight first (Xiao et al., 2023, "SmoothQuant", equation 4). Of floating point the
error grows with a number's own size, so activations are rounded without their mean,
whose product is added in float32. Everything else stays in float32.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final, NamedTuple, final

import ml_dtypes
import numpy as np
import onnx
import torch
from jaxtyping import Float, Float32
from onnx import helper
from torch import Tensor, nn

from export.graphs import Array, Graph
from runtime.errors import ParityError
from runtime.float8 import LARGEST
from runtime.manifest import EightBits
from training.sit import SiT

ALPHA: Final = 0.5
"""Share of a channel's size that moves into the weight. Over twenty Euler steps of the
small models 0.65 and 0.8 gave the same cosine or a lower one (0.9963 after 0.9979)."""


@final
class _Kind(NamedTuple):
    """What 8 bits hold."""

    dtype: np.dtype
    largest: float
    """What an activation as large as any that was seen becomes, of either sign."""
    largest_weight: float
    is_centred: bool
    """Whether activations are rounded without their mean."""

    def nearest(self, scaled: Array) -> Array:
        """Round to the nearest number that there is, ties to even."""
        is_whole = self.dtype.kind == "i"
        return (np.rint(scaled) if is_whole else scaled).astype(self.dtype)


_KINDS: Final[Mapping[EightBits, _Kind]] = {
    # Weights of seven bits. Processors without integer dot products add two products in
    # 16 bits, which 255 x 63 x 2 fits and 255 x 127 x 2 does not: with eight bits
    # OpenVINO saturates there (a cosine of 0.9945 instead of 0.9995 on AVX2), with
    # seven it computes what ONNX Runtime does.
    "int8": _Kind(np.dtype(np.int8), 127, 63, is_centred=False),
    # Twice what was seen still fits, for one of the format's fifteen powers of two.
    "fp8": _Kind(np.dtype(ml_dtypes.float8_e4m3fn), LARGEST / 2, LARGEST, True),
}
Sizes = Float32[np.ndarray, " inputs"]


@final
class Seen(NamedTuple):
    """What the inputs of a layer were, each channel by itself."""

    low: Sizes
    high: Sizes
    mean: Sizes

    def sizes(self, centre: Sizes) -> Sizes:
        """Return how far each channel went from a centre."""
        return np.asarray(np.maximum(self.high - centre, centre - self.low))


@final
class Ranges:
    """What each input channel of each linear layer was, as seen so far."""

    def __init__(self, field: SiT) -> None:
        self._field = field
        layers = [*field.blocks, field.final_layer.linear]
        self._seen: dict[nn.Linear, tuple[Tensor, Tensor, Tensor, int]] = {}
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
            rows = inputs[0].flatten(0, -2)
            low, high, total = rows.amin(0), rows.amax(0), rows.double().sum(0)
            count = len(rows)
            if linear in self._seen:
                before = self._seen[linear]
                low, high = (
                    torch.minimum(low, before[0]),
                    torch.maximum(high, before[1]),
                )
                total, count = total + before[2], count + before[3]
            self._seen[linear] = low, high, total, count

    def of(self, weight: Float32[np.ndarray, "inputs outputs"]) -> Seen:
        """Return what the inputs of the layer were that has this weight.

        Raises:
            ParityError: No layer that was watched has it.
        """
        for linear, (low, high, total, count) in self._seen.items():
            if np.array_equal(linear.weight.detach().numpy().T, weight):
                mean = (total / count).float()
                return Seen(low.numpy(), high.numpy(), mean.numpy())
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
    graph: Graph,
    ranges: Callable[[Float32[np.ndarray, "inputs outputs"]], Seen],
    precision: EightBits,
) -> Graph:
    """Return a graph whose products with weights are of 8-bit numbers.

    Args:
        graph: The velocity graph in float32.
        ranges: What the inputs of a layer were, by its weight.
        precision: Which numbers.

    Raises:
        ParityError: A weight that was not calibrated, or nothing to quantise.
    """
    nodes: list[onnx.NodeProto] = []
    weights = dict(graph.weights)
    kind = _KINDS[precision]
    zero = f"{precision}.zero"
    count = 0
    for node in graph.nodes:
        weight = graph.weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None:
            nodes.append(node)
            continue
        name = node.input[1]
        seen = ranges(weight)
        centre = seen.mean if kind.is_centred else np.zeros_like(seen.mean)
        sizes = seen.sizes(centre)
        smooth = smoothing(sizes, weight)
        step = float((sizes / smooth).max()) / kind.largest or 1.0
        rows = weight * smooth[:, None]
        steps = np.maximum(np.abs(rows).max(axis=0), np.finfo(np.float32).tiny)
        steps = (steps / kind.largest_weight).astype(np.float32)
        del weights[name]
        weights |= {
            f"{name}.q": kind.nearest(rows / steps),
            f"{name}.steps": steps,
            f"{name}.zeros": np.zeros(len(steps), kind.dtype),
            f"{name}.smooth": (1 / smooth).astype(np.float32),
            f"{name}.step": np.array(step, np.float32),
            zero: np.zeros((), kind.dtype),
        }
        product = _product(node, name, zero, f"q{count}")
        if kind.is_centred:
            weights[f"{name}.centre"] = centre
            # What the rows would have given for it, added up in float64.
            moved = centre.astype(np.float64) @ weight.astype(np.float64)
            weights[f"{name}.moved"] = moved.astype(np.float32)
            product = _centred(product, name, f"q{count}")
        nodes += product
        count += 1
    if not count:
        raise ParityError(
            f"{graph.name}: expected products with weights, to quantise, found none"
        )
    return replace(graph, nodes=tuple(nodes), weights=weights, precision=precision)


def _product(
    node: onnx.NodeProto, weight: str, zero: str, prefix: str
) -> tuple[onnx.NodeProto, ...]:
    """Return the nodes of one product of 8-bit numbers."""
    smoothed, quantised, activation, matrix = (
        f"{prefix}.{part}" for part in ("smoothed", "quantised", "activation", "matrix")
    )
    scale = [f"{weight}.step", zero]
    return (
        _node("Mul", [node.input[0], f"{weight}.smooth"], smoothed),
        _node("QuantizeLinear", [smoothed, *scale], quantised),
        _node("DequantizeLinear", [quantised, *scale], activation),
        _node(
            "DequantizeLinear",
            [f"{weight}.q", f"{weight}.steps", f"{weight}.zeros"],
            matrix,
            axis=1,
        ),
        _node("MatMul", [activation, matrix], node.output[0]),
    )


def _centred(
    product: Sequence[onnx.NodeProto], weight: str, prefix: str
) -> tuple[onnx.NodeProto, ...]:
    """Return a product's nodes with the mean taken away before, and added after."""
    first, *middle, last = product
    deviation, part = f"{prefix}.deviation", f"{prefix}.part"
    return (
        _node("Sub", [first.input[0], f"{weight}.centre"], deviation),
        _node(first.op_type, [deviation, first.input[1]], first.output[0]),
        *middle,
        _node(last.op_type, list(last.input), part),
        _node("Add", [part, f"{weight}.moved"], last.output[0]),
    )


def _node(op: str, inputs: list[str], output: str, **how: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=f"{op}.{output}", **how)
