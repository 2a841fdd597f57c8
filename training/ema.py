"""The exponential moving average of a module's weights, in float32."""

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class WeightAverage:
    """Averaged weights by name; the weights that are exported.

    Polyak & Juditsky (1992) in the exponential form of Ho et al. (2020), without
    warm-up, as published.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {
            name: value.detach().to(torch.float32, copy=True)
            for name, value in module.state_dict().items()
        }
        """Name to averaged value, float32 whatever the module's dtype."""

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's present weights."""
        for name, value in module.state_dict().items():
            self.weights[name].lerp_(value.to(torch.float32), 1 - self.decay)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the average by `weights`, name by name."""
        for name, value in self.weights.items():
            value.copy_(weights[name])

    def apply_to_copy(self, module: AnyModule) -> AnyModule:
        """Return a copy of `module` with the averaged weights; `module` is left."""
        averaged = copy.deepcopy(module)
        averaged.load_state_dict(self.weights)
        return averaged
