"""The operators of exported graphs in numpy, as the ONNX standard defines them.

Whatever is a floating number is float64. A cast between floating types therefore does
nothing: this is what a graph means, not how a precision rounds it. Quantising is what
the graph says: it rounds to integers, or to numbers of 8-bit floating point. Source of
each definition: https://onnx.ai/onnx/operators/
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from scipy.special import erf, expit

from runtime.arrays import Shaped
from runtime.errors import BackendError
from runtime.float8 import rounded

Array = Shaped[np.ndarray, "..."]
Attributes = Mapping[str, Any]
Operator = Callable[[tuple[Array | None, ...], Attributes], tuple[Array, ...]]


def _needed(array: Array | None) -> Array:
    if array is None:
        raise BackendError("reference: expected an argument, found it omitted")
    return array


def _axes(inputs: tuple[Array | None, ...]) -> tuple[int, ...]:
    return tuple(int(axis) for axis in _needed(inputs[1]).reshape(-1))


def _unsqueeze(inputs: tuple[Array | None, ...], _: Attributes) -> tuple[Array, ...]:
    return (np.expand_dims(_needed(inputs[0]), _axes(inputs)),)


def _squeeze(inputs: tuple[Array | None, ...], _: Attributes) -> tuple[Array, ...]:
    axes = _axes(inputs) if len(inputs) > 1 and inputs[1] is not None else None
    return (np.squeeze(_needed(inputs[0]), axes),)


def _reshape(inputs: tuple[Array | None, ...], a: Attributes) -> tuple[Array, ...]:
    x, shape = _needed(inputs[0]), [int(n) for n in _needed(inputs[1])]
    if not a.get("allowzero", 0):
        shape = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    return (x.reshape(shape),)


def _transpose(inputs: tuple[Array | None, ...], a: Attributes) -> tuple[Array, ...]:
    return (np.transpose(_needed(inputs[0]), a.get("perm")),)


def _split(inputs: tuple[Array | None, ...], a: Attributes) -> tuple[Array, ...]:
    x, axis = _needed(inputs[0]), a.get("axis", 0)
    if len(inputs) > 1 and inputs[1] is not None:
        sizes = [int(n) for n in inputs[1]]
    else:
        # All alike, but the last, which takes what is left.
        count = a["num_outputs"]
        size = -(-x.shape[axis] // count)
        sizes = [size] * (count - 1) + [x.shape[axis] - size * (count - 1)]
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


def _slice(inputs: tuple[Array | None, ...], _: Attributes) -> tuple[Array, ...]:
    x, starts, ends = (_needed(one) for one in inputs[:3])
    given = dict(enumerate(inputs))
    axes, steps = given.get(3), given.get(4)
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    where = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, last, stride = int(start), int(end), int(step)
        # Backwards, "before the first" has no number that Python does not wrap.
        before_first = stride < 0 and last < -x.shape[axis]
        where[axis] = slice(first, None if before_first else last, stride)
    return (x[tuple(where)],)


def _gather(inputs: tuple[Array | None, ...], a: Attributes) -> tuple[Array, ...]:
    return (np.take(_needed(inputs[0]), _needed(inputs[1]), a.get("axis", 0)),)


def _concat(inputs: tuple[Array | None, ...], a: Attributes) -> tuple[Array, ...]:
    return (np.concatenate([_needed(one) for one in inputs], a["axis"]),)


def _softmax(inputs: tuple[Array | None, ...], a: Attributes) -> tuple[Array, ...]:
    x, axis = _needed(inputs[0]), a.get("axis", -1)
    weights: Array = np.exp(x - x.max(axis, keepdims=True))
    return (weights / weights.sum(axis, keepdims=True),)


def _gelu(inputs: tuple[Array | None, ...], a: Attributes) -> tuple[Array, ...]:
    x = _needed(inputs[0])
    if a.get("approximate", "none") == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return (0.5 * x * (1 + np.tanh(inner)),)
    return (0.5 * x * (1 + erf(x / math.sqrt(2))),)


def _reduced(function: Callable[..., Array]) -> Operator:
    """Make an operator that leaves one number of the axes that its input names."""

    def operator(inputs: tuple[Array | None, ...], a: Attributes) -> tuple[Array, ...]:
        x = _needed(inputs[0])
        has_axes = len(inputs) > 1 and inputs[1] is not None and inputs[1].size > 0
        if not has_axes and a.get("noop_with_empty_axes", 0):
            raise BackendError("reference: expected axes to reduce, found none")
        axes = _axes(inputs) if has_axes else tuple(range(x.ndim))
        return (function(x, axes, bool(a.get("keepdims", 1))),)

    return operator


def _mean(x: Array, axes: tuple[int, ...], keeps: bool) -> Array:
    return np.asarray(x.mean(axes, keepdims=keeps))


def _length(x: Array, axes: tuple[int, ...], keeps: bool) -> Array:
    return np.asarray(np.sqrt(np.square(x).sum(axes, keepdims=keeps)))


def _standardised(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred: Array = x - x.mean(axes, keepdims=True)
    y: Array = centred / np.sqrt(np.square(centred).mean(axes, keepdims=True) + epsilon)
    return y


def _layer_norm(inputs: tuple[Array | None, ...], a: Attributes) -> tuple[Array, ...]:
    x, scale = _needed(inputs[0]), _needed(inputs[1])
    axes = tuple(range(a.get("axis", -1) % x.ndim, x.ndim))
    y = _standardised(x, axes, a.get("epsilon", 1e-5)) * scale
    has_bias = len(inputs) > 2 and inputs[2] is not None
    return (y + inputs[2] if has_bias else y,)


def _rms_norm(inputs: tuple[Array | None, ...], a: Attributes) -> tuple[Array, ...]:
    x, scale = _needed(inputs[0]), _needed(inputs[1])
    axes = tuple(range(a.get("axis", -1) % x.ndim, x.ndim))
    mean = np.square(x).mean(axes, keepdims=True)
    return (x / np.sqrt(mean + a.get("epsilon", 1e-5)) * scale,)


def _instance_norm(
    inputs: tuple[Array | None, ...], a: Attributes
) -> tuple[Array, ...]:
    x, scale, bias = (_needed(one) for one in inputs)
    axes = tuple(range(2, x.ndim))
    per_channel = (-1, *(1,) * len(axes))
    y = _standardised(x, axes, a.get("epsilon", 1e-5))
    return (y * scale.reshape(per_channel) + bias.reshape(per_channel),)


def _geometry(
    a: Attributes, kernel: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int]]]:
    """Return strides, dilations and the padding before and after each dimension."""
    if a.get("auto_pad", "NOTSET") != "NOTSET":
        raise BackendError(
            f"reference: expected explicit padding, found {a['auto_pad']}"
        )
    n = len(kernel)
    pads = tuple(a.get("pads", (0,) * (2 * n)))
    ones = (1,) * n
    strides, dilations = a.get("strides", ones), a.get("dilations", ones)
    return tuple(strides), tuple(dilations), list(zip(pads[:n], pads[n:], strict=True))


def _correlate(
    x: Array, weight: Array, strides: tuple[int, ...], dilations: tuple[int, ...]
) -> Array:
    """Slide `weight` (out, in, *kernel) over a padded `x` (batch, in, *space)."""
    n = weight.ndim - 2
    window = tuple(
        d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)
    )
    space = tuple(range(2, 2 + n))
    windows = np.lib.stride_tricks.sliding_window_view(x, window, axis=space)
    steps = [slice(None, None, s) for s in strides]
    holes = [slice(None, None, d) for d in dilations]
    windows = windows[(slice(None), slice(None), *steps, *holes)]
    inner = tuple(range(2 + n, 2 + 2 * n))
    y: Array = np.tensordot(windows, weight, axes=((1, *inner), tuple(range(1, 2 + n))))
    moved: Array = np.moveaxis(y, -1, 1)
    return moved


def _with_bias(y: Array, inputs: tuple[Array | None, ...]) -> Array:
    if len(inputs) < 3 or inputs[2] is None:
        return y
    shifted: Array = y + inputs[2].reshape((-1, *(1,) * (y.ndim - 2)))
    return shifted


def _conv(inputs: tuple[Array | None, ...], a: Attributes) -> tuple[Array, ...]:
    x, weight = _needed(inputs[0]), _needed(inputs[1])
    strides, dilations, pads = _geometry(a, weight.shape[2:])
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    groups = a.get("group", 1)
    parts = [
        _correlate(one, own, strides, dilations)
        for one, own in zip(
            np.split(padded, groups, 1), np.split(weight, groups, 0), strict=True
        )
    ]
    return (_with_bias(np.concatenate(parts, 1), inputs),)


def _conv_transpose(
    inputs: tuple[Array | None, ...], a: Attributes
) -> tuple[Array, ...]:
    """Spread the input by the stride, then slide the mirrored kernel over it."""
    x, weight = _needed(inputs[0]), _needed(inputs[1])
    kernel = weight.shape[2:]
    strides, dilations, pads = _geometry(a, kernel)
    if "output_shape" in a:
        raise BackendError("reference: expected explicit padding, found output_shape")
    more = a.get("output_padding", (0,) * len(kernel))
    spread = np.zeros(
        (*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], strides,
                                                         strict=True)))
    )  # fmt: skip
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = x
    # Padding of the output takes away from it; wide enough, and cut where negative.
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    wide = [(r, r + extra) for r, extra in zip(reach, more, strict=True)]
    padded = np.pad(spread, [(0, 0), (0, 0), *wide])
    mirrored = weight[
        (slice(None), slice(None), *(slice(None, None, -1),) * len(kernel))
    ]
    groups = a.get("group", 1)
    parts = [
        _correlate(one, np.swapaxes(own, 0, 1), (1,) * len(kernel), dilations)
        for one, own in zip(
            np.split(padded, groups, 1), np.split(mirrored, groups, 0), strict=True
        )
    ]
    y = np.concatenate(parts, 1)
    cut = [slice(b, y.shape[2 + i] - e) for i, (b, e) in enumerate(pads)]
    return (_with_bias(y[(slice(None), slice(None), *cut)], inputs),)


_KINDS: Final = MappingProxyType(
    {1: "f", 10: "f", 11: "f", 16: "f", 6: "i", 7: "i", 9: "b"}
)
"""What each element type of ONNX is here."""
_WIDE: Final = MappingProxyType({"f": np.float64, "i": np.int64, "b": np.bool_})


def _cast(inputs: tuple[Array | None, ...], a: Attributes) -> tuple[Array, ...]:
    kind = _KINDS.get(a["to"])
    if kind is None:
        raise BackendError(
            "reference: expected a cast to floats, int32, int64 or bool, found "
            f"element type {a['to']}"
        )
    found: Array = _needed(inputs[0]).astype(_WIDE[kind])
    return (found,)


def _along(parameter: Array, x: Array, axis: int) -> Array:
    """Lay one number for each slice of an axis beside `x`; a single one fits anyway."""
    if parameter.size == 1:
        return parameter.reshape(())
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    return parameter.reshape(shape)


def _quantisation(
    inputs: tuple[Array | None, ...], a: Attributes
) -> tuple[Array, Array, Array]:
    """Return the values, the step and the zero of one tensor or of each slice."""
    x, step = _needed(inputs[0]), _needed(inputs[1])
    if a.get("block_size", 0):
        raise BackendError("reference: expected a step for each slice, found blocks")
    zero = inputs[2] if len(inputs) > 2 else None
    if zero is None:
        zero = np.zeros(step.shape, np.uint8 if x.dtype.kind == "f" else x.dtype)
    axis = a.get("axis", 1)
    return x, _along(step, x, axis), _along(zero, x, axis)


def _quantise(inputs: tuple[Array | None, ...], a: Attributes) -> tuple[Array, ...]:
    x, step, zero = _quantisation(inputs, a)
    if zero.dtype == np.float64:
        # Of the types that a zero may have only float8e4m3fn is read as numbers.
        return (rounded(x / step, is_saturated=bool(a.get("saturate", 1))),)
    if zero.dtype not in (np.int8, np.uint8):
        raise BackendError(f"reference: expected 8-bit integers, found {zero.dtype}")
    range_ = np.iinfo(zero.dtype)
    # Ties to even, as the standard says, and beyond the range its end.
    levels = np.rint(x / step) + zero
    found: Array = np.clip(levels, range_.min, range_.max).astype(zero.dtype)
    return (found,)


def _dequantise(inputs: tuple[Array | None, ...], a: Attributes) -> tuple[Array, ...]:
    x, step, zero = _quantisation(inputs, a)
    found: Array = (x.astype(np.float64) - zero) * step
    return (found,)


def _plain(function: Callable[..., Array]) -> Operator:
    """Make an operator of a function of arrays alone."""

    def operator(inputs: tuple[Array | None, ...], _: Attributes) -> tuple[Array, ...]:
        return (np.asarray(function(*(_needed(one) for one in inputs))),)

    return operator


OPERATORS: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "Add": _plain(np.add),
        "Cast": _cast,
        "Concat": _concat,
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "DequantizeLinear": _dequantise,
        "Div": _plain(np.divide),
        "Erf": _plain(erf),
        "Gather": _gather,
        "Gelu": _gelu,
        "Identity": _plain(lambda x: x),
        "InstanceNormalization": _instance_norm,
        "LayerNormalization": _layer_norm,
        "MatMul": _plain(np.matmul),
        "Mul": _plain(np.multiply),
        "QuantizeLinear": _quantise,
        "RMSNormalization": _rms_norm,
        "Reciprocal": _plain(np.reciprocal),
        "ReduceL2": _reduced(_length),
        "ReduceMean": _reduced(_mean),
        "Reshape": _reshape,
        "Sigmoid": _plain(expit),
        "Slice": _slice,
        "Softmax": _softmax,
        "Split": _split,
        "Sqrt": _plain(np.sqrt),
        "Squeeze": _squeeze,
        "Sub": _plain(np.subtract),
        "Tanh": _plain(np.tanh),
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
    }
)
