"""The two training stages: NeuroVAE, then the flow on its frozen latents."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runtime.errors import CheckpointError, ConfigError
from runtime.path import path_from_name
from training.checkpoint import Checkpoint, load_neurovae
from training.compute import AS_PUBLISHED, Compute
from training.config import ModelConfig
from training.ending import train_and_keep
from training.first_layer import start_from_ridge
from training.flow import flow_matching_loss, sample_times
from training.latents import FrozenEncoder, latent_batch
from training.loop import (
    SNAPSHOT_EVERY_S,
    Clock,
    DivergedError,
    Observer,
    Progress,
)
from training.losses import Cycle, CycleOutputs, compare
from training.neurovae import Latent, NeuroVAE
from training.parts import cut, cut_contrast, made_ready
from training.perturb import augment, kept_tokens
from training.ranks import ALONE, Ranks, own_rows
from training.sit import SiT, Times
from training.snapshot import RunIdentity
from training.state import Part, Stage, StepLosses
from training.stopping import Validation
from training.trials import BatchOrder, TrialSet
from training.validation import Judge, Rows, flow_judge, hold_out, neurovae_judge

__all__ = ["DivergedError", "Observer", "Progress", "fit_flow", "fit_neurovae"]

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
        `out`, which `training.checkpoint.load_neurovae` opens: the last weights, or
        the best on held-out images where ``config.validation_share`` holds some out.

    Raises:
        TensorMismatchError: The trials do not fit the model.
        ConfigError: Fewer trials than one batch, a batch that the processes cannot
            share evenly; held-out images that are too few.
        BackendError: The module could not be compiled.
        DivergedError: A loss or gradient is not finite.
        CheckpointError: The snapshot is damaged or belongs to another run.
    """
    own = own_rows(ranks, config.vae_training.batch)
    trials.check_fits(config)
    training, place = config.vae_training, torch.device(device)
    learned = trials.centred() if config.centre_latents else trials
    rows, held = hold_out(trials, config.validation_share, ranks)
    order = BatchOrder(len(rows), training.batch, training.seed)
    with _seeded(training.seed):
        vae = NeuroVAE(config.vae)
    if training.first_layer == "ridge":
        start_from_ridge(vae, learned.subset(rows) if len(held) else learned)
    vae = vae.to(place)
    judge = None
    if len(held):
        judge = neurovae_judge(vae, learned.subset(held), training, place)
    cycle = made_ready(Cycle(vae), (), compute, ranks)

    def parts(step: int, generator: torch.Generator) -> list[Part]:
        chosen = rows[order.at(step)]
        voxels = torch.from_numpy(learned.voxel_rows(chosen)).to(place)
        z_v = latent_batch(learned, chosen, place)
        shown = augment(voxels, training, generator)
        noise = torch.randn(z_v.shape, generator=generator, device=place)
        kept = kept_tokens(z_v, training.token_dropout, generator)
        seen = () if kept is None else (kept[own],)

        def run(*rows: Tensor) -> CycleOutputs:
            with compute.autocast(place):
                outputs: CycleOutputs = cycle(*rows)
            return outputs

        def judged(outputs: tuple[Tensor, ...]) -> StepLosses:
            found = compare(
                CycleOutputs(*outputs), voxels[own], z_v, training, ranks.gather
            )
            return StepLosses(found.total, found.terms())

        rows_of = (shown[own], noise[own], *seen)
        return cut_contrast(compute.micro_batch, run, judged, *rows_of)

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
        config=config,
        validation=_validation(judge, order, training.patience, trials, held),
    )
    train_and_keep(
        stage,
        out,
        config,
        trials.synthetic,
        device=place,
        resume=resume,
        on_step=on_step,
        clock=clock,
        snapshot_every_s=snapshot_every_s,
        ranks=ranks,
    )
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
        `out`, which `training.checkpoint.load_flow` opens: the averaged weights, the
        last or the best as in stage 1.

    Raises:
        TensorMismatchError: The trials do not fit the model.
        ConfigError: Fewer trials than one batch, a batch that the processes cannot
            share evenly, `out` is the VAE's folder; held-out images that are too few.
        BackendError: The module could not be compiled.
        DivergedError: A loss or gradient is not finite.
        CheckpointError: The VAE's checkpoint or the snapshot is damaged or belongs to
            another model or run, or the VAE has learned from the held-out images.
    """
    own = own_rows(ranks, config.flow_training.batch)
    trials.check_fits(config)
    training, place = config.flow_training, torch.device(device)
    learned = trials.centred() if config.centre_latents else trials
    rows, held = hold_out(trials, config.validation_share, ranks)
    order = BatchOrder(len(rows), training.batch, training.seed)
    vae, manifest = load_neurovae(vae_checkpoint)
    _check_vae(vae_checkpoint, manifest, config)
    if out.resolve() == vae_checkpoint.resolve():
        raise ConfigError(
            f"{out}: expected another folder than the VAE's checkpoint, found the same"
        )
    encoder = FrozenEncoder(vae.to(place), trials, training.voxel_noise, own)
    path = path_from_name(training.path)
    with _seeded(training.seed):
        field = SiT(config.flow).to(place)
    judge = None
    if len(held):
        batch = compute.micro_batch or training.batch
        law, rated = training.time_sampling, learned.subset(held)
        judge = flow_judge(field, vae, rated, path, law, batch, place)
    wrapped = made_ready(field, field.pieces(), compute, ranks)

    def velocity(z: Latent, t: Times) -> Latent:
        with compute.autocast(place):
            computed: Latent = wrapped(z, t)
        return computed.to(z.dtype)

    def losses(z_v: Latent, z_n: Latent, t: Times, seen: Latent) -> StepLosses:
        return StepLosses(
            flow_matching_loss(velocity, z_v, z_n, t, path, seen=seen), {}
        )

    def parts(step: int, generator: torch.Generator) -> list[Part]:
        chosen = rows[order.at(step)]
        z_v = latent_batch(learned, chosen, place)
        z_n = encoder.sample(chosen, generator)
        t = sample_times(len(chosen), training.time_sampling, generator)
        kept = kept_tokens(z_v, training.token_dropout, generator)
        seen = z_n if kept is None else z_n * kept[own]
        return cut(compute.micro_batch, losses, z_v[own], z_n, t[own], seen)

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
        config=config,
        validation=_validation(judge, order, training.patience, trials, held),
    )
    train_and_keep(
        stage,
        out,
        config,
        trials.synthetic,
        device=place,
        resume=resume,
        on_step=on_step,
        clock=clock,
        snapshot_every_s=snapshot_every_s,
        ranks=ranks,
    )
    return out


def _check_vae(folder: Path, manifest: Checkpoint, config: ModelConfig) -> None:
    if manifest.config.vae != config.vae:
        raise CheckpointError(
            f"{folder}: expected the VAE of this configuration, "
            "found another one's sizes"
        )
    share, of_vae = config.validation_share, manifest.config.validation_share
    if share > 0 and share != of_vae:
        raise CheckpointError(
            f"{folder}: validation_share: expected {share:g} as here, because held-out "
            f"images that stage 1 has learned from judge nothing, found {of_vae:g}"
        )


def _validation(
    judge: Judge | None,
    order: BatchOrder,
    patience: int,
    trials: TrialSet,
    held: Rows,
) -> Validation | None:
    """Return how a stage is judged, once an epoch; None where nothing is held out."""
    if judge is None:
        return None
    images = len(np.unique(trials.image[held]))
    return Validation(judge, order.steps_per_epoch, patience, images, len(held))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # Initialisers draw from torch's global generator; lend it the seed and put the
    # caller's state back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        yield
