"""Exact rewrites of the folded autoencoder by which convolutions keep channels last.

A group norm as the standard writes it asks for the other layout, so that an engine
turns every tensor before and after it. Here a norm is sums over positions, a map of the
channels and a scaling, which suit any layout; convolutions are two-dimensional ones of
height 1, and tensors ``[1, channels, 1, length]``. Each part equals the one it replaces
in real arithmetic; tests hold them against it in float64. Knows nothing of ONNX.
"""

import copy
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from export.fold import FoldedAttention

Row = Float[Tensor, "1 channels 1 length"]


def channels_last(module: nn.Module, first: str, last: str) -> nn.Module:
    """Return a copy that computes on tensors of height 1, from one part to another.

    Args:
        module: Of `export.fold`, in evaluation mode; left as it is.
        first: Name of the part that is given ``[1, channels, length]``.
        last: Name of the part that gives it.
    """
    module = copy.deepcopy(module)
    _flatten(module)
    _set(module, first, nn.Sequential(_Raise(), module.get_submodule(first)))
    _set(module, last, nn.Sequential(module.get_submodule(last), _Lower()))
    return module.eval()


def _set(module: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, key = name.rpartition(".")
    # By name: the declared class of an attribute is the one replaced.
    module.get_submodule(parent).add_module(key, part)


def _flatten(module: nn.Module) -> None:
    """Replace the parts of a module by their equals, in place."""
    for key, part in module.named_children():
        if isinstance(part, FoldedAttention):
            module.add_module(key, FlatAttention(part))
        elif isinstance(part, nn.GroupNorm):
            module.add_module(key, FlatNorm(part))
        elif isinstance(part, nn.Conv1d):
            module.add_module(key, flat_convolution(part))
        elif isinstance(part, nn.ConvTranspose1d):
            module.add_module(key, Interleaved(part))
        else:
            _flatten(part)


@final
class _Raise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(2)


@final
class _Lower(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(2)


def flat_convolution(layer: nn.Conv1d) -> nn.Conv2d:
    """Return a convolution as a two-dimensional one of height 1."""
    weight, padding = layer.weight.detach(), int(layer.padding[0])
    return _convolution(weight, layer.bias, stride=layer.stride[0], padding=padding)


def _convolution(
    weight: Float[Tensor, "outputs inputs taps"],
    bias: Float[Tensor, " outputs"] | None,
    stride: int = 1,
    padding: int = 0,
) -> nn.Conv2d:
    outputs, inputs, taps = weight.shape
    # Without memory: else weights are drawn that nobody needs.
    flat = nn.Conv2d(
        inputs,
        outputs,
        (1, taps),
        stride=(1, stride),
        padding=(0, padding),
        bias=bias is not None,
        device="meta",
    )
    flat.weight = nn.Parameter(weight[:, :, None].clone())
    if bias is not None:
        flat.bias = nn.Parameter(bias.detach().clone())
    return flat


@final
class FlatNorm(nn.Module):
    """A group norm whose groups are averaged by a map of channels to channels."""

    average: Tensor
    gain: Tensor
    shift: Tensor

    def __init__(self, norm: nn.GroupNorm) -> None:
        """Take over a norm that has a gain and a shift for each channel."""
        super().__init__()
        size, gain = norm.num_channels // norm.num_groups, norm.weight.detach()
        block = torch.full((size, size), 1 / size, dtype=torch.float64)
        average = torch.kron(torch.eye(norm.num_groups, dtype=torch.float64), block)
        self.eps = norm.eps
        self.register_buffer("average", average[:, :, None, None].to(gain.dtype))
        self.register_buffer("gain", gain.reshape(1, -1, 1, 1).clone())
        self.register_buffer("shift", norm.bias.detach().reshape(1, -1, 1, 1).clone())

    def forward(self, x: Row) -> Row:
        """Map ``[1, channels, 1, length]`` to the same shape."""
        mean = self._average(x.mean(3, keepdim=True))
        # Of what is left of the mean: the mean square less the mean's square is a pass
        # less, and nothing but rounding where the mean is far beyond the spread. At ten
        # times it OpenVINO in bfloat16 takes the root of a number below zero.
        apart = x - mean
        length = torch.linalg.vector_norm(apart, dim=3, keepdim=True)
        scale = self.gain * torch.rsqrt(
            self._average(length * length / x.shape[3]) + self.eps
        )
        # Zero, but for rounding: thousands of float32 are added one after the other.
        mean = mean + self._average(apart.mean(3, keepdim=True))
        # Not apart * scale: an engine in half precision rounded it where it was kept.
        return x * scale + (self.shift - mean * scale)

    def _average(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.average)


@final
class Interleaved(nn.Module):
    """A transposed convolution as an ordinary one that gives all phases at once.

    Output ``stride * j + r`` sums over the inputs near j, by every stride-th tap: phase
    r is an ordinary convolution. With channels last, the phases of a position lie one
    after the other as the output has them.
    """

    def __init__(self, layer: nn.ConvTranspose1d) -> None:
        """Take over a layer whose output is `stride` times as long as its input."""
        super().__init__()
        self.stride, start = layer.stride[0], int(layer.padding[0])
        weight, bias = layer.weight.detach(), layer.bias
        inputs, outputs, taps = weight.shape
        # Places of the inputs that reach an output, from its own.
        first, last = -((taps - 1 - start) // self.stride), start + self.stride - 1
        last //= self.stride
        phases = weight.new_zeros(self.stride, outputs, inputs, last - first + 1)
        for phase in range(self.stride):
            for place in range(first, last + 1):
                tap = phase + start - self.stride * place
                if 0 <= tap < taps:
                    phases[phase, :, :, place - first] = weight[:, :, tap].T
        self.pads = (-first, last)
        self.convolution = _convolution(
            phases.flatten(0, 1), None if bias is None else bias.repeat(self.stride)
        )

    def forward(self, x: Row) -> Row:
        """Map ``[1, channels, 1, length]`` to `stride` times the length."""
        phases = self.convolution(F.pad(x, self.pads)).permute(0, 2, 3, 1)
        length, width = phases.shape[2] * self.stride, phases.shape[3] // self.stride
        doubled: Tensor = phases.reshape(1, 1, length, width).permute(0, 3, 1, 2)
        return doubled


@final
class FlatAttention(nn.Module):
    """`FoldedAttention` on ``[1, channels, 1, length]``."""

    def __init__(self, attention: FoldedAttention) -> None:
        super().__init__()
        self.norm = FlatNorm(attention.norm)
        self.q = flat_convolution(attention.q)
        self.proj_out = flat_convolution(attention.proj_out)

    def forward(self, x: Row) -> Row:
        """Map ``[1, channels, 1, length]`` to the same shape."""
        h = self.norm(x)
        queries, keys = self.q(h).permute(0, 2, 3, 1), h.permute(0, 2, 1, 3)
        summed = torch.softmax(queries @ keys, dim=-1) @ keys.mT
        projected: Tensor = self.proj_out(summed.permute(0, 3, 1, 2))
        return x + projected
