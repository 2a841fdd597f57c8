"""The loss scale of fp16: gradients too small for it are lifted, overflow is skipped.

Micikevicius et al. (2018), "Mixed precision training", section 3.2. The decision rests
on the gradient's norm, which is the same on every process, so that all of them skip or
none; no other state has to be shared.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

START = 2.0**16
GROW_AFTER = 2000
"""Steps in a row without overflow after which the scale is doubled."""
SKIPS_LIMIT = 20
"""Skips in a row that are a divergence: the scale has then fallen a millionfold."""


class LossScaler:
    """The scale of the loss, halved on overflow and doubled after long calm."""

    def __init__(self) -> None:
        self.scale = START
        self.calm = 0
        """Steps since the last overflow or change."""
        self.skips = 0
        """Overflows in a row."""

    def unscale(self, gradients: Iterable[Tensor]) -> None:
        """Divide gradients by the scale, in place."""
        # The scale is a power of two: its inverse is exact.
        torch._foreach_mul_(list(gradients), 1.0 / self.scale)

    def overflowed(self) -> None:
        """Note a step whose gradient was not finite."""
        self.scale /= 2
        self.calm = 0
        self.skips += 1

    def fitted(self) -> None:
        """Note a step whose gradient was finite."""
        self.skips = 0
        self.calm += 1
        if self.calm == GROW_AFTER:
            self.scale *= 2
            self.calm = 0

    @property
    def is_lost(self) -> bool:
        """Whether there were so many skips that no scale will do."""
        return self.skips >= SKIPS_LIMIT

    def state(self) -> Tensor:
        """Return what a snapshot holds."""
        values = [self.scale, self.calm, self.skips]
        return torch.tensor(values, dtype=torch.float64)

    def load(self, state: Tensor) -> None:
        """Become what `state` returned."""
        scale, calm, skips = state.tolist()
        self.scale, self.calm, self.skips = scale, int(calm), int(skips)
