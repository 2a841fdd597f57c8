"""Held-out images, and what each stage's weights are worth on them.

Whole images are held out, so that no repeat of a learned image rates the model. Every
judgement looks at the same trials in the same batches with the same draws: two
judgements differ by the weights alone. In float32, whatever training computes in.
"""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from runtime.errors import ConfigError
from runtime.path import Path
from training.flow import TimeLaw, flow_matching_loss, sample_times
from training.latents import FrozenEncoder, latent_batch
from training.losses import Cycle, compare
from training.neurovae import NeuroVAE
from training.ranks import Ranks
from training.sit import SiT
from training.stage_config import VAETraining
from training.trials import TrialSet

Judge = Callable[[Mapping[str, Tensor]], float]
Rows = Int64[np.ndarray, " trials"]

SPLIT_SEED = 2501
"""Chooses the held-out images; no part of a configuration, so that both stages, and
trainings that differ by their seed, hold out the same ones."""
DRAW_SEED = 2502
"""Draws the times and samples of stage 2 at which every judgement looks."""
ROUNDS = 4
"""Times that stage 2 looks at each trial, each at another time of the flow."""
LEAST_IMAGES = 2
"""Of one image alone SoftCLIP, which contrasts images, says nothing."""


def hold_out(trials: TrialSet, share: float, ranks: Ranks) -> tuple[Rows, Rows]:
    """Divide trials into those to learn from and those of the held-out images.

    Trials that nobody measured are always learned from: what a model predicted is no
    judge of another.

    Args:
        trials: All trials of the training split.
        share: Of their measured images that is held out; 0 holds out none.
        ranks: The processes that train together.

    Raises:
        ConfigError: Fewer than two images would be held out, or none learned from; or
            the weights lie in shards, which cannot be judged as a whole.
    """
    everything = np.arange(len(trials), dtype=np.int64)
    if share == 0:
        return everything, everything[:0]
    if ranks.is_sharded:
        raise ConfigError(
            "validation_share: expected 0 with weights in shards, found "
            f"{share:g}. Train with replicas or in one process."
        )
    shown = trials.image[: trials.measured]
    images = np.unique(shown)
    rng = np.random.Generator(np.random.PCG64(SPLIT_SEED))
    held = rng.permutation(images)[: round(share * len(images))]
    if not LEAST_IMAGES <= len(held) < len(images):
        raise ConfigError(
            f"validation_share: expected a share of the {len(images)} images that is "
            f"at least {LEAST_IMAGES} and leaves one to learn from, found {share:g}, "
            f"which is {len(held)}"
        )
    is_held = np.zeros(len(trials), dtype=np.bool_)
    is_held[: len(shown)] = np.isin(shown, held)
    # Repeats of an image stand apart then, as they do in training.
    return everything[~is_held], rng.permutation(everything[is_held])


def neurovae_judge(
    vae: NeuroVAE, held: TrialSet, training: VAETraining, place: torch.device
) -> Judge:
    """Return how stage 1 is judged: its loss, at the posterior's mode and noiseless.

    Args:
        vae: Of the model's sizes, on `place`; copied, its weights do not count.
        held: The held-out trials.
        training: The weights of the terms and the size of a batch.
        place: Where to compute.
    """
    mirror = copy.deepcopy(vae).eval()
    cycle = Cycle(mirror)
    batches = _batches(len(held), training.batch)

    @torch.no_grad()
    def judge(weights: Mapping[str, Tensor]) -> float:
        mirror.load_state_dict(weights)
        total = 0.0
        for chosen in batches:
            voxels = torch.from_numpy(held.voxel_rows(chosen)).to(place)
            z_v = latent_batch(held, chosen, place)
            outputs = cycle(voxels, torch.zeros_like(z_v))
            found = compare(outputs, voxels, z_v, training)
            total += len(chosen) * float(found.total)
        return total / len(held)

    return judge


def flow_judge(
    field: SiT,
    vae: NeuroVAE,
    held: TrialSet,
    path: Path,
    law: TimeLaw,
    batch: int,
    place: torch.device,
) -> Judge:
    """Return how stage 2 is judged: its loss at fixed times and fixed samples of z_n.

    Args:
        field: Of the model's sizes, on `place`; copied, its weights do not count.
        vae: The frozen VAE.
        held: The held-out trials.
        path: The interpolant.
        law: Law of t, as in training.
        batch: Trials at a time.
        place: Where to compute.
    """
    mirror = copy.deepcopy(field).eval()
    encoder = FrozenEncoder(vae, held, 0.0, slice(None))
    batches = [rows for _ in range(ROUNDS) for rows in _batches(len(held), batch)]

    @torch.no_grad()
    def judge(weights: Mapping[str, Tensor]) -> float:
        mirror.load_state_dict(weights)
        generator = torch.Generator(place).manual_seed(DRAW_SEED)
        total = 0.0
        for chosen in batches:
            z_v = latent_batch(held, chosen, place)
            z_n = encoder.sample(chosen, generator)
            t = sample_times(len(chosen), law, generator)
            loss = flow_matching_loss(mirror, z_v, z_n, t, path)
            total += len(chosen) * float(loss)
        return total / (ROUNDS * len(held))

    return judge


def _batches(trials: int, batch: int) -> list[Rows]:
    """Cut trials into batches as equal as can be, none larger than in training."""
    count = -(-trials // batch)
    return list(np.array_split(np.arange(trials, dtype=np.int64), count))
