"""The losses of stage 1: reconstruction, KL, SoftCLIP and the cycle.

Pure functions of tensors. Knows nothing of optimisers, data order or files.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from training.config import VAETraining
from training.neurovae import Latent, NeuroVAE, Posterior, Voxels

Scalar = Float[Tensor, ""]


def soft_clip(
    predictions: Float[Tensor, "batch ..."],
    targets: Float[Tensor, "batch ..."],
    temperature: float,
) -> Scalar:
    """Return the symmetric contrastive loss with soft targets.

    What a prediction should resemble is the softmax of the similarities among the
    targets themselves. Equal targets therefore share their weight equally: two trials
    of one image are never each other's negatives. Scotti et al. (2023),
    "Reconstructing the mind's eye", equation 2.

    Args:
        predictions: One prediction per row; flattened and normalised here.
        targets: What each row should match; flattened and normalised here.
        temperature: Divides the cosine similarities.
    """
    p = F.normalize(predictions.flatten(1), dim=-1)
    q = F.normalize(targets.flatten(1), dim=-1)
    wanted = torch.softmax(q @ q.T / temperature, dim=-1)
    logits = p @ q.T / temperature
    rows = (torch.log_softmax(logits, dim=-1) * wanted).sum(-1).mean()
    columns = (torch.log_softmax(logits.T, dim=-1) * wanted).sum(-1).mean()
    return -(rows + columns) / 2


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
    features = vae.features(voxels if shown is None else shown)
    posterior = vae.posterior(features)
    z_n = posterior.sample(generator)
    reconstruction = vae.decode(z_n)
    again = vae.features(reconstruction)

    def match(predictions: Latent) -> Scalar:
        return soft_clip(predictions, z_v, weights.temperature)

    mse = (reconstruction - voxels).square().sum() / len(voxels)
    kl = kl_divergence(posterior)
    clip_latent, clip_retrieval = match(z_n), match(vae.retrieval(features))
    cycle_latent = match(vae.posterior(again).mean)
    cycle_retrieval = match(vae.retrieval(again))
    total = (
        mse
        + weights.kl_weight * kl
        + weights.clip_weight * (clip_latent + clip_retrieval)
        + weights.cycle_weight * (cycle_latent + cycle_retrieval)
    )
    return VAELosses(
        mse, kl, clip_latent, clip_retrieval, cycle_latent, cycle_retrieval, total
    )
