"""The two training stages: NeuroVAE, then the flow on its frozen latents."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from runtime.errors import CheckpointError, ConfigError
from runtime.path import path_from_name
from training.checkpoint import load_neurovae
from training.compute import AS_PUBLISHED, Compute
from training.config import ModelConfig, VAETraining
from training.ending import keep
from training.first_layer import start_from_ridge
from training.flow import flow_matching_loss, sample_times
from training.loop import (
    SNAPSHOT_EVERY_S,
    Clock,
    DivergedError,
    Observer,
    Progress,
    train,
)
from training.losses import Cycle, compare
from training.neurovae import Latent, NeuroVAE, Posterior, Voxels
from training.parts import cut, made_ready, refuse_parts
from training.ranks import ALONE, Ranks, own_rows
from training.sit import SiT, Times
from training.snapshot import RunIdentity
from training.state import Part, Stage, StepLosses
from training.trials import BatchOrder, TrialSet

__all__ = ["DivergedError", "Observer", "Progress", "fit_flow", "fit_neurovae"]

POSTERIORS_LIMIT_BYTES = 2**30
"""Posteriors of all trials are kept where they are smaller than this.

The simulated participant's are 30 MB; those of one NSD subject would be 92 GB.
"""

_VAE_TERMS = (
    "mse",
    "kl",
    "clip_latent",
    "clip_retrieval",
    "cycle_latent",
    "cycle_retrieval",
)


def fit_neurovae(
    config: ModelConfig,
    trials: TrialSet,
    out: Path,
    *,
    resume: bool = True,
    on_step: Observer | None = None,
    device: str = "cpu",
    clock: Clock = time.monotonic,
    snapshot_every_s: float = SNAPSHOT_EVERY_S,
    compute: Compute = AS_PUBLISHED,
    ranks: Ranks = ALONE,
) -> Path:
    """Train NeuroVAE as ``config.vae_training`` says.

    Args:
        config: The model; its seed decides every random draw.
        trials: The training trials.
        out: Folder of the checkpoint, its snapshot and its log.
        resume: Go on from the snapshot in `out`, where there is one.
        on_step: Called after each step; what it raises stops the run.
        device: A torch device.
        clock: Seconds, monotonic.
        snapshot_every_s: Least time between two snapshots.
        compute: Precision, parts of a batch, memory and compilation.
        ranks: The processes that train together; a batch is that of all of them.

    Returns:
        `out`, which `training.checkpoint.load_neurovae` opens.

    Raises:
        TensorMismatchError: The trials do not fit the model.
        ConfigError: Fewer trials than one batch, a batch that the processes cannot
            share evenly, or one in parts.
        BackendError: The module could not be compiled.
        DivergedError: A loss or gradient is not finite.
        CheckpointError: The snapshot is damaged or belongs to another run.
    """
    refuse_parts(compute)
    own = own_rows(ranks, config.vae_training.batch)
    trials.check_fits(config)
    training, place = config.vae_training, torch.device(device)
    learned = trials.centred() if config.centre_latents else trials
    order = BatchOrder(len(trials), training.batch, training.seed)
    with _seeded(training.seed):
        vae = NeuroVAE(config.vae)
    if training.first_layer == "ridge":
        start_from_ridge(vae, learned)
    cycle = made_ready(Cycle(vae.to(place)), (), compute, ranks)

    def parts(step: int, generator: torch.Generator) -> list[Part]:
        chosen = order.at(step)
        voxels = torch.from_numpy(learned.voxel_rows(chosen)).to(place)
        z_v = latent_batch(learned, chosen, place)
        shown = augment(voxels, training, generator)
        noise = torch.randn(z_v.shape, generator=generator, device=place)

        def losses() -> StepLosses:
            with compute.autocast(place):
                outputs = cycle(shown[own], noise[own])
            found = compare(outputs, voxels[own], z_v, training, ranks.gather)
            return StepLosses(found.total, found.terms())

        return [Part(1.0, losses)]

    stage = Stage(
        run=RunIdentity(
            stage="vae",
            config=config.fingerprint(),
            trials=trials.digest(),
            compute=compute.identity,
        ),
        steps=training.epochs * order.steps_per_epoch,
        module=vae,
        wrapped=cycle,
        parts=parts,
        terms=_VAE_TERMS,
        seed=training.seed,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        compute=compute,
    )
    weights = train(
        stage,
        out,
        device=place,
        resume=resume,
        on_step=on_step,
        clock=clock,
        snapshot_every_s=snapshot_every_s,
        ranks=ranks,
    )
    keep(out, weights, config, stage, ranks)
    return out


def fit_flow(
    config: ModelConfig,
    trials: TrialSet,
    vae_checkpoint: Path,
    out: Path,
    *,
    resume: bool = True,
    on_step: Observer | None = None,
    device: str = "cpu",
    clock: Clock = time.monotonic,
    snapshot_every_s: float = SNAPSHOT_EVERY_S,
    compute: Compute = AS_PUBLISHED,
    ranks: Ranks = ALONE,
) -> Path:
    """Train the velocity field as ``config.flow_training`` says.

    z_n is a sample of the frozen VAE's posterior, drawn anew at every step.

    Args:
        config: The model; its seed decides every random draw.
        trials: The training trials.
        vae_checkpoint: What `fit_neurovae` returned, of the same model.
        out: Folder of the checkpoint, its snapshot and its log; not that of the VAE.
        resume: Go on from the snapshot in `out`, where there is one.
        on_step: Called after each step; what it raises stops the run.
        device: A torch device.
        clock: Seconds, monotonic.
        snapshot_every_s: Least time between two snapshots.
        compute: Precision, parts of a batch, memory and compilation.
        ranks: The processes that train together; a batch is that of all of them.

    Returns:
        `out`, which `training.checkpoint.load_flow` opens: the averaged weights.

    Raises:
        TensorMismatchError: The trials do not fit the model.
        ConfigError: Fewer trials than one batch, a batch that the processes cannot
            share evenly, or `out` is the VAE's folder.
        BackendError: The module could not be compiled.
        DivergedError: A loss or gradient is not finite.
        CheckpointError: The VAE's checkpoint or the snapshot is damaged or belongs to
            another model or run.
    """
    own = own_rows(ranks, config.flow_training.batch)
    trials.check_fits(config)
    training, place = config.flow_training, torch.device(device)
    learned = trials.centred() if config.centre_latents else trials
    order = BatchOrder(len(trials), training.batch, training.seed)
    vae, manifest = load_neurovae(vae_checkpoint)
    if manifest.config.vae != config.vae:
        raise CheckpointError(
            f"{vae_checkpoint}: expected the VAE of this configuration, "
            "found another one's sizes"
        )
    if out.resolve() == vae_checkpoint.resolve():
        raise ConfigError(
            f"{out}: expected another folder than the VAE's checkpoint, found the same"
        )
    encoder = _FrozenEncoder(vae.to(place), trials, training.voxel_noise, own)
    path = path_from_name(training.path)
    with _seeded(training.seed):
        field = SiT(config.flow).to(place)
    wrapped = made_ready(field, field.pieces(), compute, ranks)

    def velocity(z: Latent, t: Times) -> Latent:
        with compute.autocast(place):
            computed: Latent = wrapped(z, t)
        return computed.to(z.dtype)

    def losses(z_v: Latent, z_n: Latent, t: Times) -> StepLosses:
        return StepLosses(flow_matching_loss(velocity, z_v, z_n, t, path), {})

    def parts(step: int, generator: torch.Generator) -> list[Part]:
        chosen = order.at(step)
        z_v = latent_batch(learned, chosen, place)
        z_n = encoder.sample(chosen, generator)
        t = sample_times(len(chosen), training.time_sampling, generator)
        return cut(compute.micro_batch, losses, z_v[own], z_n, t[own])

    stage = Stage(
        run=RunIdentity(
            stage="flow",
            config=config.fingerprint(),
            trials=trials.digest(),
            vae=manifest.fingerprint,
            compute=compute.identity,
        ),
        steps=training.steps,
        module=field,
        wrapped=wrapped,
        parts=parts,
        terms=(),
        seed=training.seed,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        gradient_norm=training.gradient_norm,
        ema_decay=training.ema_decay,
        compute=compute,
    )
    weights = train(
        stage,
        out,
        device=place,
        resume=resume,
        on_step=on_step,
        clock=clock,
        snapshot_every_s=snapshot_every_s,
        ranks=ranks,
    )
    keep(out, weights, config, stage, ranks)
    return out


def latent_batch(
    trials: TrialSet, chosen: Int64[np.ndarray, " batch"], place: torch.device
) -> Latent:
    """Return z_v of a batch in float32, centred, on a device.

    Cast there: half as much is sent, and torch is the faster at it; the numbers are
    those of `TrialSet.z_v`.
    """
    z_v = torch.from_numpy(trials.stored_z_v(chosen)).to(place).float()
    if trials.centre is not None:
        # In place, in the batch's own copy: a batch of NSD is 0.1 GB.
        z_v -= torch.from_numpy(trials.centre).to(place)
    return z_v


def augment(
    voxels: Voxels, training: VAETraining, generator: torch.Generator
) -> Voxels:
    """Return the voxels as stage 1 shows them to the encoder.

    Args:
        voxels: Normalised voxels; left as they are.
        training: How much noise is added, and the largest share of voxels set to zero;
            each trial's own share is drawn uniformly below it.
        generator: Draws both, on the device of `voxels`.
    """
    shown, device = voxels, voxels.device
    if training.voxel_noise > 0:
        noise = torch.randn(voxels.shape, generator=generator, device=device)
        shown = shown + training.voxel_noise * noise
    if training.voxel_dropout > 0:
        share = torch.rand(len(voxels), 1, generator=generator, device=device)
        kept = torch.rand(voxels.shape, generator=generator, device=device)
        shown = shown * (kept >= training.voxel_dropout * share)
    return shown


class _FrozenEncoder:
    """Samples z_n of trials; posteriors that are constant are computed once.

    Random numbers are drawn for a whole batch, z_n for its rows `own` alone.
    """

    def __init__(
        self, vae: NeuroVAE, trials: TrialSet, voxel_noise: float, own: slice
    ) -> None:
        self._own = own
        self._vae = vae.requires_grad_(False)
        self._trials = trials
        self._noise = voxel_noise
        self._device = next(vae.parameters()).device
        size = 2 * 4 * len(trials) * vae.config.tokens * vae.config.width
        self._kept: Posterior | None = None
        if voxel_noise == 0 and size <= POSTERIORS_LIMIT_BYTES:
            self._kept = self._all()

    @torch.no_grad()
    def _all(self) -> Posterior:
        blocks = [
            self._posterior(self._voxels(np.arange(i, min(i + 256, len(self._trials)))))
            for i in range(0, len(self._trials), 256)
        ]
        return Posterior(
            torch.cat([block.mean for block in blocks]),
            torch.cat([block.log_variance for block in blocks]),
        )

    def _voxels(self, chosen: Int64[np.ndarray, " batch"]) -> Voxels:
        return torch.from_numpy(self._trials.voxel_rows(chosen)).to(self._device)

    def _posterior(self, voxels: Voxels) -> Posterior:
        return self._vae.posterior(self._vae.features(voxels))

    @torch.no_grad()
    def sample(
        self, chosen: Int64[np.ndarray, " batch"], generator: torch.Generator
    ) -> Latent:
        if self._kept is not None:
            rows = torch.from_numpy(chosen[self._own]).to(self._device)
            mean, log_variance = self._kept.mean[rows], self._kept.log_variance[rows]
            return Posterior(mean, log_variance).at(self._draw(len(chosen), generator))
        voxels = self._voxels(chosen)
        if self._noise > 0:
            noise = torch.randn(voxels.shape, generator=generator, device=self._device)
            voxels = voxels + self._noise * noise
        own = self._posterior(voxels[self._own])
        return own.at(self._draw(len(chosen), generator))

    def _draw(self, batch: int, generator: torch.Generator) -> Latent:
        shape = (batch, self._vae.config.tokens, self._vae.config.width)
        noise = torch.randn(shape, generator=generator, device=self._device)
        return noise[self._own]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # Initialisers draw from torch's global generator; lend it the seed and put the
    # caller's state back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        yield
