"""How each of the two stages is trained: losses, optimiser, noise, when to stop.

Every number is a field; 0 or the default is what was published, unless a preset says
otherwise (`training.config`).
"""

from typing import Annotated, Literal

import msgspec

Positive = Annotated[int, msgspec.Meta(ge=1)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class VAETraining(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Stage 1: losses, weights and optimiser of NeuroVAE."""

    epochs: Positive = 30
    """Passes over the training trials; the released script has 30, the paper 50."""
    batch: Positive = 64
    """Trials per step; the incomplete last batch of an epoch is dropped."""
    learning_rate: NotNegative = 1e-4
    """Constant learning rate of AdamW."""
    weight_decay: NotNegative = 0.05
    """Decoupled weight decay of AdamW."""
    kl_weight: NotNegative = 1e-3
    """Weight of the KL term, summed over the latent."""
    clip_weight: NotNegative = 1000.0
    """Weight of SoftCLIP between the encodings of fMRI and z_v."""
    cycle_weight: NotNegative = 1000.0
    """Weight of SoftCLIP between the encodings of the reconstruction and z_v."""
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 0.125
    """Temperature of SoftCLIP."""
    voxel_noise: NotNegative = 0.0
    """Standard deviation of Gaussian noise added to the input voxels; 0 as published.

    With few trials this is the regulariser: noise on the input of a linear layer is
    ridge regression (Bishop, 1995).
    """
    voxel_dropout: Fraction = 0.0
    """Upper end of the uniformly drawn share of input voxels set to zero."""
    token_dropout: Fraction = 0.0
    """Upper end of the uniformly drawn share of the encoder's tokens set to zero before
    the posterior and the retrieval projection read them; 0 as published.

    See `training.perturb.kept_tokens`.
    """
    first_layer: Literal["random", "ridge"] = "random"
    """Start of the encoder's first linear layer; random as published.

    ``ridge`` starts it at the directions of voxel space that ridge regression to z_v
    uses (`training.first_layer`): with a thousand trials, training alone hardly finds
    them.
    """
    patience: Positive = 5
    """Epochs in a row that may be no better on held-out images before training ends;
    without `ModelConfig.validation_share` it ends with the last epoch."""
    seed: int = 1024
    """Seed of initialisation, order, noise and posterior samples."""


class FlowTraining(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Stage 2: optimiser and sampling of the velocity field."""

    path: Literal["cos", "cos2", "linear"] = "cos"
    """Interpolant between z_v and z_n."""
    steps: Positive = 50_001
    """Optimiser steps."""
    batch: Positive = 24
    """Trials per step."""
    learning_rate: NotNegative = 1e-4
    """Constant learning rate of AdamW."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of AdamW."""
    gradient_norm: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    ema_decay: Fraction = 0.9999
    """Decay of the averaged weights, which are the ones that are exported."""
    time_sampling: Literal["uniform", "lognormal", "arcsine"] = "uniform"
    """Law of t: uniform as published, ``(2 / pi) atan(exp(normal))``, or
    ``sin(pi u / 2)^2`` of a uniform u, which draws most near both ends, where solvers
    of few steps evaluate the field."""
    voxel_noise: NotNegative = 0.0
    """Standard deviation of noise on the voxels before the frozen encoder."""
    token_dropout: Fraction = 0.0
    """Upper end of the uniformly drawn share of z_n's tokens that the field does not
    see: its point on the path has zeros there, its target the whole z_n."""
    patience: Positive = 20
    """As in `VAETraining`: epochs, which are few steps where trials are few."""
    seed: int = 0
    """Seed of initialisation, order, t and posterior samples."""
