"""A residual MLP to z_v in the manner of MindEye, without its diffusion prior.

Scotti et al. (2023), "Reconstructing the mind's eye": voxels through one wide layer and
residual blocks to the latent; a contrastive loss on mixed trials (BiMixCo) for the
first third of the epochs and SoftCLIP after it, the squared error throughout, one cycle
of the learning rate. Sizes and weights are for a thousand trials instead of MindEye's
24,000; `MlpSettings` says on whom they were chosen.
"""

from dataclasses import dataclass, field
from typing import Annotated

import msgspec
import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from training.losses import Scalar, SoftClip
from training.peers.contract import (
    Counted,
    Features,
    LatentDecoder,
    Latents,
    Lesson,
    uncounted,
)
from training.trials import BatchOrder, TrialSet

Positive = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]

MIXED_SHARE = 0.5
"""Of a batch's trials are mixed, each with another; as published."""
MIXING = 0.15
"""Both parameters of the beta law of a trial's weight in its mixture; as published."""


class MlpSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Sizes and training; a dozen were tried, on simulated participant 5 alone."""

    hidden: Positive = 512
    """Width of the layers."""
    blocks: Positive = 2
    """Residual blocks."""
    input_dropout: Share = 0.5
    """After the first layer, as published."""
    dropout: Share = 0.15
    """In the residual blocks, as published."""
    epochs: Positive = 15
    """More of them fit the noise of a thousand trials."""
    batch: Positive = 64
    """Trials of a step; fewer where there are fewer."""
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 1e-3
    """The highest of the cycle."""
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 1e-2
    """Of AdamW on matrices; norms and offsets have none, as published."""
    mse_weight: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """Of the squared error in units of the latents' variance, beside the contrast."""
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 0.125
    """Of both contrastive losses."""
    mixing_third: Share = 1 / 3
    """Share of the epochs that use BiMixCo."""
    seed: int = 0
    """Of initialisation, order, mixtures and dropout."""


@dataclass(frozen=True, slots=True)
class Mlp:
    """The recipe."""

    settings: MlpSettings = field(default_factory=MlpSettings)

    def fit(self, lesson: Lesson, counted: Counted = uncounted) -> "FittedMlp":
        """Train on latents without their mean.

        Raises:
            ConfigError: Fewer trials than one batch.
        """
        trials, chosen = lesson.trials.centred(), self.settings
        generator = torch.Generator().manual_seed(chosen.seed)
        # Initialisers and dropout draw from torch's global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(chosen.seed)
            network = _network(trials, chosen)
            _train(network, trials, chosen, generator, counted)
        return FittedMlp(network.eval(), trials.latent_mean())


class FittedMlp(LatentDecoder):
    """One pass through the network."""

    evaluations = 1

    def __init__(
        self, network: nn.Module, mean: Float32[np.ndarray, "tokens width"]
    ) -> None:
        self._network, self._mean = network, mean
        self.parameters = sum(tensor.numel() for tensor in network.parameters())

    @torch.no_grad()
    def decode(self, features: Features) -> Latents:
        """Return z_v of each trial."""
        said = self._network(torch.from_numpy(features)).numpy()
        latents: Latents = said.reshape(len(features), *self._mean.shape) + self._mean
        return latents


class _Residual(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.body = _layer(width, width, dropout)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.body(x)
        return added


def _layer(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, outputs),
        nn.LayerNorm(outputs),
        nn.GELU(),
        nn.Dropout(dropout),
    )


def _network(trials: TrialSet, chosen: MlpSettings) -> nn.Sequential:
    return nn.Sequential(
        _layer(trials.voxels.shape[1], chosen.hidden, chosen.input_dropout),
        *(_Residual(chosen.hidden, chosen.dropout) for _ in range(chosen.blocks)),
        nn.Linear(chosen.hidden, trials.latents[0].size),
    )


def _train(
    network: nn.Sequential,
    trials: TrialSet,
    chosen: MlpSettings,
    generator: torch.Generator,
    counted: Counted,
) -> None:
    order = BatchOrder(len(trials), min(chosen.batch, len(trials)), chosen.seed)
    steps = chosen.epochs * order.steps_per_epoch
    optimiser = torch.optim.AdamW(_groups(network, chosen.weight_decay))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=chosen.learning_rate, total_steps=steps
    )
    variance = float(np.var(trials.z_v(np.arange(len(trials)))))
    network.train()
    for step in range(steps):
        rows = order.at(step)
        x = torch.from_numpy(trials.voxel_rows(rows))
        y = torch.from_numpy(trials.z_v(rows)).flatten(1)
        is_mixed = step < chosen.mixing_third * steps
        if is_mixed:
            mixture = draw_mixture(len(rows), generator)
            x = mixture.of(x)
            said = network(x)
            contrast = bimixco(
                said,
                y,
                torch.from_numpy(trials.image[rows]),
                mixture,
                chosen.temperature,
            )
            wanted = mixture.of(y)
        else:
            said = network(x)
            contrast, wanted = SoftClip(y, chosen.temperature)(said), y
        # Codes of a few categories may all be equal in a batch, never in a lesson.
        error = F.mse_loss(said, wanted) / max(variance, 1e-12)
        optimiser.zero_grad(set_to_none=True)
        loss = contrast + chosen.mse_weight * error
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        counted(step + 1, steps)


def _groups(network: nn.Module, decay: float) -> list[dict[str, object]]:
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Each trial of a batch mixed with a partner."""

    partner: Int64[Tensor, " batch"]
    share: Float[Tensor, " batch"]
    """Weight of the trial itself; 1 leaves it alone."""

    def of(self, rows: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Return the rows mixed."""
        share = self.share[:, None]
        return share * rows + (1 - share) * rows[self.partner]


def draw_mixture(batch: int, generator: torch.Generator) -> Mixture:
    """Draw partners and weights; half of the trials stay alone."""
    partner = torch.randperm(batch, generator=generator)
    # A beta law from the seed that the generator is at, as torch's own takes none.
    entropy = int(torch.randint(2**62, (), generator=generator))
    drawn = np.random.default_rng(entropy).beta(MIXING, MIXING, batch)
    mixed = torch.rand(batch, generator=generator) < MIXED_SHARE
    share = torch.where(mixed, torch.from_numpy(drawn).float(), torch.ones(batch))
    return Mixture(partner, share)


def bimixco(
    predictions: Float[Tensor, "batch values"],
    targets: Float[Tensor, "batch values"],
    image: Int64[Tensor, " batch"],
    mixture: Mixture,
    temperature: float,
) -> Scalar:
    """Return the contrastive loss of mixed trials, both ways.

    A mixture should resemble what was shown in both its trials, by their weights; Kim
    et al. (2020), "MixCo", in the form of Scotti et al. (2023), equation 1. Trials of
    one picture share a weight, so that they are never each other's negatives.

    Args:
        predictions: Of mixed features.
        targets: z_v of the trials before mixing.
        image: What was shown in each.
        mixture: How the features were mixed.
        temperature: Divides the cosine similarities.
    """
    p, q = F.normalize(predictions, dim=-1), F.normalize(targets, dim=-1)
    same = (image[:, None] == image[None]).to(p.dtype)
    own = same / same.sum(dim=-1, keepdim=True)
    share = mixture.share[:, None]
    wanted = share * own + (1 - share) * own[mixture.partner]
    logits = p @ q.T / temperature
    rows = (torch.log_softmax(logits, dim=-1) * wanted).sum(-1).mean()
    columns = (torch.log_softmax(logits.T, dim=-1) * wanted.T).sum(-1).mean()
    return -(rows + columns) / 2
