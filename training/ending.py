"""The end of a stage: the main process writes the checkpoint, the others wait."""

from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from training.checkpoint import save_checkpoint
from training.config import ModelConfig
from training.loop import Clock, DivergedError, Observer, Trained, train
from training.provenance import Stopped, Synthetic
from training.ranks import Ranks, is_main
from training.snapshot import Snapshot, load_snapshot
from training.state import Stage

LAST_GOOD: Final = "last_good"
"""Folder, in that of a run which diverged, of a checkpoint of before it did."""


def train_and_keep(
    stage: Stage,
    out: Path,
    config: ModelConfig,
    synthetic: Synthetic | None,
    *,
    device: torch.device,
    resume: bool,
    on_step: Observer | None,
    clock: Clock,
    snapshot_every_s: float,
    ranks: Ranks,
) -> None:
    """Train a stage and write its checkpoint; return when it is there.

    Args:
        stage: What is trained.
        out: Folder of the checkpoint, the snapshot and the log.
        config: The model.
        synthetic: The trials among those it learns from that nobody measured.
        device: As all that follow, of `training.loop.train`.
        resume: Go on from the snapshot.
        on_step: Called after each step.
        clock: Seconds, monotonic.
        snapshot_every_s: Least time between two snapshots.
        ranks: The processes that train together.

    Raises:
        DivergedError: A loss or gradient is not finite. It says what to do; the last
            snapshot is a checkpoint in `LAST_GOOD`, if it is of before.
        CheckpointError: The snapshot is damaged or belongs to another run.
    """
    try:
        trained = train(
            stage,
            out,
            device=device,
            resume=resume,
            on_step=on_step,
            clock=clock,
            snapshot_every_s=snapshot_every_s,
            ranks=ranks,
        )
    except DivergedError as error:
        said = _keep_snapshot(error, stage, out, config, synthetic, ranks)
        advised = DivergedError(f"{error}. {said}", error.step)
        advised.snapshot_step, advised.kept = error.snapshot_step, error.kept
        raise advised from error
    _keep(out, trained, config, stage, ranks, synthetic)


def _keep_snapshot(
    error: DivergedError,
    stage: Stage,
    out: Path,
    config: ModelConfig,
    synthetic: Synthetic | None,
    ranks: Ranks,
) -> str:
    """Make the last snapshot a checkpoint, if it is of before; say what to do."""
    place, step = out / LAST_GOOD, error.snapshot_step
    if error.is_at_once:
        return (
            "Nothing was learned before it, so that no learning rate is at fault: look "
            "for far too large numbers in the trials and in the configuration "
            "(--dry-run prints it)"
        )
    if step == 0:
        return (
            "No earlier step is kept: begin anew with a lower learning rate (--config)"
        )
    if step >= error.step:
        return (
            f"The last snapshot, of step {step}, leads there again: begin anew "
            "(--no-resume) with a lower learning rate (--config)"
        )
    held = (
        load_snapshot(out, stage.run, config, stage.steps) if is_main(ranks) else None
    )
    if held is not None:
        trained = _trained(stage, *held)
        # What the weights were made with, whatever the run was to go on with.
        _keep(place, trained, held[0].config or config, stage, ranks, synthetic)
        error.kept = place
    else:
        ranks.each(step)
    return (
        "With a lower learning rate (--config) the same command goes on from step "
        f"{step}, whose weights are a checkpoint in {place}"
    )


def _trained(stage: Stage, snapshot: Snapshot, tensors: dict[str, Tensor]) -> Trained:
    """Return a snapshot as what training had come to by then."""
    stopped = None
    # Best loss, its step, and more: see `training.stopping.Watch`.
    loss, best_step = tensors["stopping"][:2].tolist() if stage.validation else (0, 0)
    if stage.validation is not None and best_step:
        stopped = Stopped(
            reason="diverged",
            step=snapshot.step,
            best_step=int(best_step),
            loss=loss,
            images=stage.validation.images,
            trials=stage.validation.trials,
        )
    kinds = ("best.", "average.", "model.") if stopped else ("average.", "model.")
    kind = next(k for k in kinds if any(name.startswith(k) for name in tensors))
    weights = {
        name.removeprefix(kind): value
        for name, value in tensors.items()
        if name.startswith(kind)
    }
    step = snapshot.step if stopped is None else stopped.best_step
    rates = snapshot.rates if len(snapshot.rates) > 1 else ()
    return Trained(weights, step, stopped, rates)


def _keep(
    out: Path,
    trained: Trained,
    config: ModelConfig,
    stage: Stage,
    ranks: Ranks,
    synthetic: Synthetic | None,
) -> None:
    if is_main(ranks):
        save_checkpoint(
            out,
            trained.weights,
            config,
            stage=stage.run.stage,
            seed=stage.seed,
            step=trained.step,
            vae_fingerprint=stage.run.vae or None,
            compute=stage.compute,
            stopped=trained.stopped,
            synthetic=synthetic,
            rates=trained.rates,
        )
    ranks.each(trained.step)
