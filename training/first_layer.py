"""A data-dependent start of the encoder's first layer: the directions ridge uses.

The layer maps thousands of voxels to a few hundred units. Which directions of voxel
space carry the picture is a linear question that ridge regression answers in closed
form; gradient descent from a random start takes many epochs to find them, and with a
thousand trials it finds noise first. Data-dependent initialisation: Kraehenbuehl et al.
(2016); a ridge layer in front of the network is MindEye's (Scotti et al., 2023), here
as a start that training goes on from, not as a layer of its own.
"""

import numpy as np
import torch
from jaxtyping import Float64

from runtime.errors import ConfigError
from training.neurovae import NeuroVAE
from training.ridge import fit_ridge
from training.trials import TrialSet

PENALTY_PER_TRIAL = 2.5
"""Ridge penalty over the number of trials: what cross-validation chooses on simulated
participants (1,000 to 10,000 for 1,200 trials); only the directions depend on it."""

TARGETS_LIMIT_BYTES = 2**33
"""Closed form means all targets at once; one NSD subject's would be 86 GiB."""


def ridge_directions(
    trials: TrialSet, count: int
) -> Float64[np.ndarray, "count voxels"]:
    """Return the directions of voxel space that explain z_v best, strongest first.

    The left singular vectors of the ridge weights, each scaled by its singular value;
    all of them by one factor, so that projections have unit standard deviation in the
    mean.

    Args:
        trials: Training trials.
        count: How many; fewer come back where ridge has fewer.

    Raises:
        ConfigError: The targets are too large to be solved for at once.
    """
    size = 8 * len(trials) * int(np.prod(trials.latents.shape[1:]))
    if size > TARGETS_LIMIT_BYTES:
        raise ConfigError(
            "vae_training.first_layer: expected random, because the targets of ridge "
            f"would be {size / 2**30:.0f} GiB in memory, found ridge"
        )
    targets = trials.z_v(np.arange(len(trials))).reshape(len(trials), -1)
    ridge = fit_ridge(trials.voxels, targets, PENALTY_PER_TRIAL * len(trials))
    left, singular, _ = np.linalg.svd(ridge.weights, full_matrices=False)
    directions = (left * singular)[:, :count].T
    projected = (trials.voxels - ridge.input_mean) @ directions.T
    scaled: Float64[np.ndarray, "count voxels"] = directions / max(
        float(projected.std(axis=0).mean()), 1e-12
    )
    return scaled


def start_from_ridge(vae: NeuroVAE, trials: TrialSet) -> None:
    """Put each direction into two units, with both signs, and the bias to zero.

    GELU(x) - GELU(-x) = x: a pair passes its projection on unharmed. Units without a
    direction keep their random start.
    """
    layer = vae.encoder.subj_proj.fc1
    directions = ridge_directions(trials, layer.out_features // 2)
    pairs = torch.from_numpy(np.concatenate([directions, -directions])).float()
    with torch.no_grad():
        layer.weight[: len(pairs)] = pairs.to(layer.weight)
        layer.bias.zero_()
