"""Ablations: the model without one of its parts, on other paths, with other solvers.

What each variant changes; `training.ablation_judge` says what a trained one is worth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec.structs import replace

from runtime.solver import SOLVERS
from training.config import ModelConfig

STEPS: Final = (1, 2, 4, 8, 20)
"""Equal steps of the time grid that solvers are compared at."""

Change = Callable[[ModelConfig], ModelConfig]


class Sampler(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A solver with its number of steps, the same both ways."""

    solver: str
    steps: int

    @property
    def evaluations(self) -> int:
        """Velocity evaluations of one direction."""
        return self.steps * SOLVERS[self.solver].evaluations


PUBLISHED: Final = Sampler("euler", 20)
"""As the released code samples."""
SERVED: Final = Sampler("rotation", 2)
"""As this project serves."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the ablation."""

    name: str
    label: str
    change: Change
    """From the full model's configuration to this one's."""
    has_flow: bool = True
    is_swept: bool = False
    """Whether every solver that fits is judged at every number of `STEPS`."""

    def samplers(self, path: str) -> tuple[Sampler | None, ...]:
        """Return the samplers that this variant is judged with; None stands for none.

        Args:
            path: Of the variant's flow; a solver that does not fit it is left out.
        """
        if not self.has_flow:
            return (None,)
        wanted = [PUBLISHED, SERVED]
        if self.is_swept:
            wanted = [Sampler(s, n) for s in ("euler", "rotation") for n in STEPS]
        return tuple(
            sampler
            for sampler in wanted
            if SOLVERS[sampler.solver].only_path in (None, path)
        )


def _same(config: ModelConfig) -> ModelConfig:
    return config


def _weights(**changes: float) -> Change:
    def change(config: ModelConfig) -> ModelConfig:
        training = replace(config.vae_training, **changes)
        return replace(config, vae_training=training)

    return change


def _path(name: str) -> Change:
    def change(config: ModelConfig) -> ModelConfig:
        return replace(config, flow_training=replace(config.flow_training, path=name))

    return change


def _without_compact(config: ModelConfig) -> ModelConfig:
    return replace(config, vae=replace(config.vae, decoded_from="z_n"))


FULL: Final = "full"
VARIANTS = MappingProxyType(
    {
        variant.name: variant
        for variant in (
            Variant(FULL, "full model", _same, is_swept=True),
            # z_n is trained to lie where z_v lies; without the flow each is taken for
            # the other, both ways.
            Variant("no-xfm", "no flow: z_n for z_v", _same, has_flow=False),
            Variant(
                "no-clip-no-cycle",
                "no SoftCLIP, no cycle",
                _weights(clip_weight=0.0, cycle_weight=0.0),
            ),
            Variant("no-kl", "no KL", _weights(kl_weight=0.0)),
            Variant("no-zc", "no z_c: voxels from z_n", _without_compact),
            Variant("cos2", "path cos2", _path("cos2"), is_swept=True),
            Variant("linear", "path linear", _path("linear"), is_swept=True),
            Variant("no-cycle", "no cycle", _weights(cycle_weight=0.0)),
            Variant("no-clip", "no SoftCLIP, with cycle", _weights(clip_weight=0.0)),
        )
    }
)
"""The variants by name; the full model first, what costs least to lose last."""


def first_stage(config: ModelConfig, base: ModelConfig) -> ModelConfig:
    """Return what a variant's NeuroVAE is trained with.

    The base's flow stands in it: variants that change the flow alone then have equal
    first stages, and one NeuroVAE serves them.
    """
    return replace(config, flow=base.flow, flow_training=base.flow_training)
