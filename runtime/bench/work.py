"""What each stage must compute and read, from the sizes of a model, by formula.

Counts matrix products, convolutions and attention; what is left (norms, activations,
sums) is a small share of the operations. A product of ``[rows, inputs]`` with
``[inputs, outputs]`` is ``2 * rows * inputs * outputs`` floating point operations.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Final

import msgspec

BYTES_OF: Final = MappingProxyType({"f32": 4, "f16": 2, "bf16": 2, "int8": 1, "fp8": 1})
"""Of one weight by precision."""
FRONT: Final = "front"
"""The stage of mask, normalisation and whitening."""
HEADS: Final = "heads"
"""The stage that searches the gallery."""

Count = Annotated[int, msgspec.Meta(ge=1)]
OrNone = Annotated[int, msgspec.Meta(ge=0)]


class Sizes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sizes of a model that decide what it costs."""

    voxels: Count
    tokens: Count
    width: Count
    depth: Count
    """Blocks of the velocity field."""
    mlp_ratio: Count
    hidden: Count
    """Hidden width of the voxel projections."""
    channels: Count
    channel_multipliers: tuple[Count, ...]
    blocks: OrNone
    """Residual blocks per level of the encoder."""
    downsamplings: OrNone
    is_compact: bool
    """Whether voxels are decoded by way of z_c."""


class Work(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The work of one call."""

    flop: OrNone
    """Floating point operations."""
    weights: OrNone
    """Weights that it must read at least once."""

    def limit_s(
        self, *, flop_per_s: float, bytes_per_s: float, precision: str
    ) -> float:
        """Return the time below which a machine cannot do it: compute or memory."""
        read = self.weights * BYTES_OF[precision]
        return max(self.flop / flop_per_s, read / bytes_per_s)


def _product(inputs: int, outputs: int, rows: int) -> Work:
    """A linear layer on rows, or a convolution: inputs are channels times taps."""
    return Work(flop=2 * inputs * outputs * rows, weights=inputs * outputs)


def _attention(positions: int, width: int) -> Work:
    """Scores and weighted sum; neither has weights."""
    return Work(flop=4 * positions**2 * width, weights=0)


def total(parts: Iterable[Work]) -> Work:
    """Return the work of several parts, one after the other."""
    chosen = list(parts)
    return Work(
        flop=sum(part.flop for part in chosen),
        weights=sum(part.weights for part in chosen),
    )


def evaluation(sizes: Sizes) -> Work:
    """Return the work of one velocity evaluation, its time conditioning folded away."""
    m, d, hidden = sizes.tokens, sizes.width, sizes.mlp_ratio * sizes.width
    block = [
        _product(d, 3 * d, m),
        _attention(m, d),
        _product(d, d, m),
        _product(d, hidden, m),
        _product(hidden, d, m),
    ]
    return total([*block * sizes.depth, _product(d, d, m)])


def _residual(inputs: int, outputs: int, length: int) -> Iterator[Work]:
    yield _product(3 * inputs, outputs, length)
    yield _product(3 * outputs, outputs, length)
    if inputs != outputs:
        yield _product(inputs, outputs, length)


def _middle(channels: int, length: int) -> Iterator[Work]:
    yield from _residual(channels, channels, length)
    # Queries and the output: the features are their own keys and values.
    yield from [_product(channels, channels, length)] * 2
    yield _attention(length, channels)
    yield from _residual(channels, channels, length)


def _level(inputs: int, outputs: int, blocks: int, length: int) -> Iterator[Work]:
    widths = [inputs, *[outputs] * blocks]
    for a, b in pairwise(widths):
        yield from _residual(a, b, length)


def encoder(sizes: Sizes) -> Work:
    """Return the work of voxels to z_n's mode, first layer and attention folded."""
    return total(_encoder(sizes))


def _encoder(sizes: Sizes) -> Iterator[Work]:
    c, m, d = sizes.channels, sizes.tokens, sizes.width
    length = d * 2**sizes.downsamplings
    yield _product(sizes.voxels, sizes.hidden, 1)
    yield _product(sizes.hidden, length, c)
    widths = [c, *(c * k for k in sizes.channel_multipliers)]
    for i, (a, b) in enumerate(pairwise(widths)):
        yield from _level(a, b, sizes.blocks, length)
        if i < sizes.downsamplings:
            length //= 2
            yield _product(7 * b, b, length)
    yield from _middle(widths[-1], length)
    yield _product(m, m, d)


def decoder(sizes: Sizes) -> Work:
    """Return the work of z_n to voxels, attention folded."""
    return total(_decoder(sizes))


def _decoder(sizes: Sizes) -> Iterator[Work]:
    widths = [sizes.channels * k for k in sizes.channel_multipliers]
    length, inputs = sizes.width, widths[-1]
    if sizes.is_compact:
        yield from [
            _product(sizes.tokens, 1, length),
            _product(1, sizes.tokens, length),
        ]
    yield from _middle(inputs, length)
    for i in reversed(range(len(widths))):
        yield from _level(inputs, widths[i], sizes.blocks + 1, length)
        inputs = widths[i]
        if i >= len(widths) - sizes.downsamplings:
            # A transposed convolution: every input meets every tap.
            yield _product(7 * inputs, inputs, length)
            length *= 2
    yield _product(length, sizes.hidden, inputs)
    yield _product(sizes.hidden, sizes.voxels, inputs)
    yield _product(inputs, 1, sizes.voxels)


def heads(sizes: Sizes, items: int) -> Work:
    """Return the work of a latent's cosines with a gallery of some items."""
    return _product(sizes.tokens * sizes.width, items, 1)


def front(sizes: Sizes, components: int) -> Work:
    """Return the work of normalising and whitening a volume's masked voxels.

    Args:
        sizes: Of the model.
        components: Directions of noise that are whitened.
    """
    project = _product(sizes.voxels, components, 2)
    return Work(flop=project.flop, weights=project.weights + 2 * sizes.voxels)
