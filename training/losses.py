"""The losses of stage 1: reconstruction, KL, SoftCLIP and the cycle.

Pure functions of tensors. Knows nothing of optimisers, data order or files. What the
model computes (`Cycle`) stands apart from what is compared (`compare`): the former may
run in half precision and on some rows of a batch, the latter is in float32 and, where
it contrasts trials with each other, on all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import VAETraining
from training.neurovae import Latent, NeuroVAE, Posterior, Voxels
from training.perturb import KeptTokens

Scalar = Float[Tensor, ""]
_SHORTEST = 1e-12
"""The length of a row of zeros, as in `torch.nn.functional.normalize`."""


class SoftClip:
    """The symmetric contrastive loss with soft targets.

    What a prediction should resemble is the softmax of the similarities among the
    targets themselves. Equal targets therefore share their weight equally: two trials
    of one image are never each other's negatives. Scotti et al. (2023),
    "Reconstructing the mind's eye", equation 2.

    Stage 1 compares four predictions with the same targets; what depends on these alone
    is computed once.

    Args:
        targets: What each row should match; flattened and normalised here.
        temperature: Divides the cosine similarities.
    """

    def __init__(self, targets: Float[Tensor, "batch ..."], temperature: float) -> None:
        self._targets = F.normalize(targets.flatten(1), dim=-1)
        self._temperature = temperature
        alike = self._targets @ self._targets.T
        self._wanted = torch.softmax(alike / temperature, dim=-1)

    def __call__(self, predictions: Float[Tensor, "batch ..."]) -> Scalar:
        """Return the loss.

        Args:
            predictions: One prediction per row; flattened, and normalised here.
        """
        rows = predictions.flatten(1)
        # A cosine is divided by the row's length after the product: normalising the
        # rows before it would cost as much again, and keep a copy for the gradient.
        length = rows.norm(dim=-1, keepdim=True).clamp_min(_SHORTEST)
        logits = rows @ self._targets.T / (length * self._temperature)
        forth = (torch.log_softmax(logits, dim=-1) * self._wanted).sum(-1).mean()
        back = (torch.log_softmax(logits.T, dim=-1) * self._wanted).sum(-1).mean()
        return -(forth + back) / 2


def kl_divergence(posterior: Posterior) -> Scalar:
    """Return KL(posterior || N(0, 1)), summed over the latent, mean over the batch.

    Kingma & Welling (2014), appendix B.
    """
    mean, log_variance = posterior.mean, posterior.log_variance
    total = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
    return total / len(mean)


@dataclass(frozen=True, slots=True)
class VAELosses:
    """The terms of stage 1 before their weights, and their weighted total."""

    mse: Scalar
    """Squared error summed over voxels, mean over the batch."""
    kl: Scalar
    """KL divergence summed over the latent, mean over the batch."""
    clip_latent: Scalar
    """SoftCLIP between the sampled z_n and z_v."""
    clip_retrieval: Scalar
    """SoftCLIP between the retrieval projection and z_v."""
    cycle_latent: Scalar
    """SoftCLIP between the reconstruction's posterior mode and z_v."""
    cycle_retrieval: Scalar
    """SoftCLIP between the reconstruction's retrieval projection and z_v."""
    total: Scalar
    """What is minimised."""

    def terms(self) -> dict[str, Tensor]:
        """Return the unweighted terms by name, without the total."""
        names = (f.name for f in fields(self) if f.name != "total")
        return {name: getattr(self, name) for name in names}


class CycleOutputs(NamedTuple):
    """What stage 1 makes of voxels, in the dtype of these."""

    mean: Latent
    """Of the posterior."""
    log_variance: Latent
    """Of the posterior."""
    z_n: Latent
    """The posterior's sample."""
    retrieval: Latent
    """The retrieval projection."""
    reconstruction: Voxels
    """The voxels that z_n implies."""
    again: Latent
    """The mode of the reconstruction's posterior."""
    retrieval_again: Latent
    """The reconstruction's retrieval projection."""


class Cycle(nn.Module):
    """NeuroVAE once around: voxels, latent, voxels, latent."""

    def __init__(self, vae: NeuroVAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(
        self, shown: Voxels, noise: Latent, kept: KeptTokens | None = None
    ) -> CycleOutputs:
        """Go around.

        Args:
            shown: What the encoder sees.
            noise: Standard normal numbers, which choose the posterior's sample.
            kept: 1 for the tokens of the features that are read, 0 for the others; the
                reconstruction's are all read. None: all of them are.
        """
        vae, dtype = self.vae, shown.dtype
        features = vae.features(shown)
        if kept is not None:
            features = features * kept.to(features.dtype)
        computed = vae.posterior(features)
        # The exponential of a half precision number is a coarse one.
        posterior = Posterior(computed.mean.to(dtype), computed.log_variance.to(dtype))
        z_n = posterior.at(noise)
        reconstruction = vae.decode(z_n).to(dtype)
        again = vae.features(reconstruction)
        return CycleOutputs(
            posterior.mean,
            posterior.log_variance,
            z_n,
            vae.retrieval(features).to(dtype),
            reconstruction,
            vae.posterior(again).mean.to(dtype),
            vae.retrieval(again).to(dtype),
        )


def _alone(rows: Tensor) -> Tensor:
    return rows


def compare(
    outputs: CycleOutputs,
    voxels: Voxels,
    z_v: Latent,
    weights: VAETraining,
    gather: Callable[[Tensor], Tensor] = _alone,
) -> VAELosses:
    """Compute the losses of stage 1 from what the model made of a batch.

    Args:
        outputs: Of the rows of this process.
        voxels: What these rows' reconstruction is compared with.
        z_v: Visual latents of the whole batch.
        weights: The weights of the terms and SoftCLIP's temperature.
        gather: Rows of this process to those of the whole batch.
    """
    soft_clip = SoftClip(z_v, weights.temperature)

    def match(predictions: Latent) -> Scalar:
        return soft_clip(gather(predictions))

    mse = (outputs.reconstruction - voxels).square().sum() / len(voxels)
    kl = kl_divergence(Posterior(outputs.mean, outputs.log_variance))
    clip_latent, clip_retrieval = match(outputs.z_n), match(outputs.retrieval)
    cycle_latent = match(outputs.again)
    cycle_retrieval = match(outputs.retrieval_again)
    total = (
        mse
        + weights.kl_weight * kl
        + weights.clip_weight * (clip_latent + clip_retrieval)
        + weights.cycle_weight * (cycle_latent + cycle_retrieval)
    )
    return VAELosses(
        mse, kl, clip_latent, clip_retrieval, cycle_latent, cycle_retrieval, total
    )


def vae_loss(
    vae: NeuroVAE,
    voxels: Voxels,
    z_v: Latent,
    weights: VAETraining,
    generator: torch.Generator,
    *,
    shown: Voxels | None = None,
) -> VAELosses:
    """Compute the loss of stage 1 on a batch.

    Args:
        vae: The model; the gradient of the cycle runs through decoder and encoder.
        voxels: What the reconstruction is compared with.
        z_v: Visual latents of the same trials.
        weights: The weights of the terms and SoftCLIP's temperature.
        generator: Draws the posterior sample.
        shown: What the encoder sees where it is not `voxels` itself, for instance
            voxels with noise.
    """
    shown = voxels if shown is None else shown
    noise = torch.randn(
        z_v.shape, generator=generator, dtype=voxels.dtype, device=voxels.device
    )
    return compare(Cycle(vae)(shown, noise), voxels, z_v, weights)
