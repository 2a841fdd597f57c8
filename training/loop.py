"""The loop that both training stages share: step, log, snapshot, resume.

Knows nothing of what is learned: a `Stage` brings the module and its loss. Every
process of a run goes through the same loop; the main one alone writes.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from runtime.errors import CheckpointError, NeuroFlowError
from training.checkpoint import StageName, not_finite
from training.history import History
from training.provenance import Rate, Stopped
from training.ranks import ALONE, Ranks, is_main
from training.scaler import SKIPS_LIMIT
from training.snapshot import forget_snapshot, load_snapshot, save_snapshot
from training.state import Part, Stage, StepLosses, TrainingState

__all__ = ["Part", "Stage", "StepLosses"]

SNAPSHOT_EVERY_S = 120.0


class DivergedError(NeuroFlowError):
    """Training met a loss, a gradient or weights that are not finite.

    Attributes:
        step: Whoever goes on from here or later meets the same again: the state after
            this many steps is where it came from.
        snapshot_step: Step of the run's last snapshot; 0 for none.
        kept: Folder of the checkpoint that was made of it; None where there is none.
        is_at_once: No update came before it, so that no learning rate is at fault.
    """

    def __init__(self, message: str, step: int, *, is_at_once: bool = False) -> None:
        super().__init__(message)
        self.step = step
        self.is_at_once = is_at_once
        self.snapshot_step = 0
        self.kept: Path | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands after a step."""

    stage: StageName
    """Which of the two stages."""
    step: int
    """Optimiser steps taken, this one included."""
    steps: int
    """Steps of the whole run, which early stopping may end before."""
    loss: float
    """The step's loss, before the step."""
    terms: Mapping[str, float]
    """The parts of the loss, before their weights, and the gradient's norm."""
    seconds_left: float
    """Estimate from the mean duration of this process's steps."""


Observer = Callable[[Progress], None]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a finished stage has come to."""

    weights: Mapping[str, Tensor]
    """For inference: the best judged, else the average, else the last."""
    step: int
    """Steps after which the weights were these."""
    stopped: Stopped | None
    """How training ended, where it was judged."""
    rates: tuple[Rate, ...] = ()
    """Learning rates, where they changed on the way; else empty."""


def train(
    stage: Stage,
    out: Path,
    *,
    device: torch.device,
    resume: bool,
    on_step: Observer | None,
    clock: Clock,
    snapshot_every_s: float,
    ranks: Ranks = ALONE,
) -> Trained:
    """Take every step of a stage that its snapshot has not yet taken.

    A run that is interrupted leaves a snapshot; on the same machine the resumed run
    ends with the very bits of an uninterrupted one. A run that diverges leaves the last
    that it took before: the present state has led to what is not finite, and would
    again. Where the stage is judged on held-out images, training ends when patience
    does.

    Args:
        stage: What is trained.
        out: Folder of the snapshot and the log; made where it does not exist. Where
            several machines train, one that all of them see.
        device: Where the module lives.
        resume: Go on from the snapshot in `out`, where there is one; else it is
            removed.
        on_step: Called after each step, by the main process; what it raises stops the
            run.
        clock: Seconds, monotonic.
        snapshot_every_s: Least time between two snapshots.
        ranks: The processes that train together.

    Returns:
        The weights for inference, and how training ended.

    Raises:
        DivergedError: A loss, a gradient or the weights that are to be kept are not
            finite, or a gradient overflowed in fp16 too many times in a row.
        CheckpointError: The snapshot is damaged or belongs to another run, or to one
            that ended at another learning rate, or the processes see different ones.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = TrainingState(stage, device, ranks)
    if resume:
        _restore(stage, state, out)
    elif is_main(ranks):
        forget_snapshot(out)
    _check_same_start(out, ranks, state.step)
    with _log(stage, out, ranks, state) as history:

        def save(asked: Ranks) -> None:
            tensors = state.tensors()
            _check_weights(stage, state, asked, tensors)
            if history is not None:
                history.flush()
                save_snapshot(
                    out, stage.run, state.step, tensors, stage.config, state.rates
                )

        first_step, started = state.step, clock()
        saved, saved_step = started, first_step
        stage.module.train()
        try:
            # A run may have been interrupted between a step and its judgement.
            _judge(stage, state, ranks, history)
            while state.step < stage.steps and not state.is_stopped:
                values = take_step(stage, state, ranks)
                if history is not None:
                    history.append(state.step, values)
                _judge(stage, state, ranks, history)
                now = clock()
                is_due = ranks.agreed(int(now - saved >= snapshot_every_s))
                if is_due or state.step == stage.steps or state.is_stopped:
                    save(ranks)
                    saved, saved_step = now, state.step
                if on_step is not None and is_main(ranks):
                    each = (now - started) / (state.step - first_step)
                    left = each * (stage.steps - state.step)
                    on_step(_progress(stage, state.step, values, left))
        except KeyboardInterrupt:
            # The update itself takes milliseconds; outside it the state is whole.
            # The others may be anywhere, and whoever waits for them waits in vain.
            # Replicas hold the same weights and need not be asked; shards have to be
            # gathered.
            if state.is_settled and state.step > first_step and not ranks.is_sharded:
                # Not over the older snapshot, if they are not finite.
                with suppress(DivergedError):
                    save(ALONE)
            raise
        except DivergedError as error:
            error.snapshot_step = saved_step
            raise
    stage.module.eval()
    stopped = None if state.watch is None else state.watch.stopped(state.step)
    step = state.step if stopped is None else stopped.best_step
    rates = state.rates if len(state.rates) > 1 else ()
    return Trained(state.weights(), step, stopped, rates)


def _check_weights(
    stage: Stage, state: TrainingState, ranks: Ranks, tensors: Mapping[str, Tensor]
) -> None:
    """Refuse a state whose weights are not finite: the last update has no next loss.

    Args:
        stage: What is trained.
        state: Named by its step.
        ranks: Who is told, and refuses the same; `ALONE` where nobody can be.
        tensors: Of the main process, which alone has all of them.

    Raises:
        DivergedError: They are not; nothing was written.
    """
    kinds = ("model.", "average.", "best.")
    name = not_finite({k: v for k, v in tensors.items() if k.startswith(kinds)})
    if ranks.agreed(int(name is not None)):
        raise DivergedError(
            f"{stage.run.stage} step {state.step}: expected finite weights, found NaN "
            f"or infinity in {name or 'those of the main process'}",
            # The state before the update is where it came from.
            state.step - 1,
        )


def _restore(stage: Stage, state: TrainingState, out: Path) -> None:
    """Become the folder's snapshot, where there is one.

    A function of its own: at its end the file, which its tensors are a map of, is let
    go, and with it memory of the size of the whole state.

    Raises:
        CheckpointError: The snapshot is damaged or belongs to another run, or the run
            has ended at another learning rate: no step would be taken at this one, and
            the checkpoint would say so all the same.
    """
    held = load_snapshot(out, stage.run, stage.config, stage.steps)
    if held is None:
        return
    snapshot, tensors = held
    state.restore(out / snapshot.tensors, snapshot.step, tensors, snapshot.rates)
    is_over = state.step == stage.steps or state.is_stopped
    ended = snapshot.rates[-1].learning_rate if snapshot.rates else stage.learning_rate
    if is_over and ended != stage.learning_rate:
        raise CheckpointError(
            f"{out}: {stage.run.stage}_training.learning_rate: expected {ended:g}, at "
            f"which this run ended after step {state.step}, found "
            f"{stage.learning_rate:g}. It is finished; another --out trains anew"
        )


def _judge(
    stage: Stage, state: TrainingState, ranks: Ranks, history: History | None
) -> None:
    """Judge the weights on held-out images, where it is time to and not done yet.

    Raises:
        DivergedError: Their loss there is not finite.
    """
    watch = state.watch
    if watch is None or not watch.is_due(state.step):
        return
    loss = watch.validation.judge(state.present_weights())
    # Replicas compute the same but for rounding: the main process decides for all.
    if ranks.agreed(int(not math.isfinite(loss))):
        raise DivergedError(
            f"{stage.run.stage} step {state.step}: expected a finite loss on held-out "
            f"images, found {loss}",
            state.step,
        )
    is_better = bool(ranks.agreed(int(loss < watch.best_loss)))
    # The row first: one that the state does not know of is dropped on resumption.
    if history is not None:
        history.judged(state.step, loss, is_best=is_better)
    state.judged(loss, is_better=is_better)


def _check_same_start(out: Path, ranks: Ranks, step: int) -> None:
    # Nobody goes on, and nobody replaces the snapshot, before all have read it.
    steps = ranks.each(step)
    if len(set(steps)) > 1:
        raise CheckpointError(
            f"{out}: expected the same snapshot in every process, found steps "
            f"{', '.join(map(str, steps))}. Use a folder that all machines share."
        )


def _log(
    stage: Stage, out: Path, ranks: Ranks, state: TrainingState
) -> AbstractContextManager[History | None]:
    if not is_main(ranks):
        return nullcontext()
    columns = ("loss", *stage.terms, "gradient_norm")
    judged = None if state.watch is None else state.watch.judged_step
    return History(out, columns, state.step, judged)


def take_step(stage: Stage, state: TrainingState, ranks: Ranks) -> dict[str, float]:
    """Take one step and return its loss, terms and gradient norm.

    Args:
        stage: What is trained.
        state: Moved by one step.
        ranks: The processes that train together.

    Raises:
        DivergedError: A loss or gradient is not finite; `state` is as it was.
    """
    state.optimiser.zero_grad(set_to_none=True)
    scale = 1.0 if state.scaler is None else state.scaler.scale
    losses = _add_gradients(stage, state, ranks, scale)
    parameters = list(state.parameters.values())
    gradients = [p.grad for p in parameters if p.grad is not None]
    if state.scaler is not None:
        state.scaler.unscale(gradients)
    if stage.gradient_norm is None:
        norm = nn.utils.get_total_norm(gradients)
    else:
        norm = nn.utils.clip_grad_norm_(parameters, stage.gradient_norm)
    # One transfer for all of them, where there is a device to wait for.
    scalars = torch.stack([*losses, ranks.whole(norm).detach()])
    numbers = ranks.mean(scalars).tolist()
    values = dict(zip(("loss", *stage.terms, "gradient_norm"), numbers, strict=True))
    _check_finite(stage, state, "loss", values["loss"])
    if state.scaler is not None and not math.isfinite(values["gradient_norm"]):
        state.skip()
        if state.scaler.is_lost:
            raise DivergedError(
                f"{stage.run.stage} step {state.step}: expected a gradient within "
                f"fp16, found {SKIPS_LIMIT} overflows in a row, which bf16 has not",
                # The weights are those of before the first.
                state.step - SKIPS_LIMIT,
                is_at_once=state.step == SKIPS_LIMIT,
            )
        return values
    _check_finite(stage, state, "gradient norm", values["gradient_norm"])
    state.update()
    return values


def _add_gradients(
    stage: Stage, state: TrainingState, ranks: Ranks, scale: float
) -> list[Tensor]:
    """Run a step's parts and return its losses: the total, then the terms."""
    parts = list(stage.parts(state.step, state.generator))
    sums: list[Tensor] = []
    for i, part in enumerate(parts):
        context = ranks.accumulating(stage.wrapped, is_last=i == len(parts) - 1)
        with context, stage.compute.compiling():
            losses = part.losses()
            scaled = losses.total * (part.share * scale)
            scaled.backward()  # type: ignore[no-untyped-call]
        scalars = [losses.total, *(losses.terms[name] for name in stage.terms)]
        shares = [part.share * scalar.detach() for scalar in scalars]
        sums = [a + b for a, b in zip(sums, shares, strict=True)] if sums else shares
    return sums


def _check_finite(stage: Stage, state: TrainingState, what: str, value: float) -> None:
    if not math.isfinite(value):
        raise DivergedError(
            f"{stage.run.stage} step {state.step + 1}: expected a finite {what}, "
            f"found {value}",
            state.step,
            is_at_once=state.step == 0,
        )


def _progress(
    stage: Stage, step: int, values: Mapping[str, float], seconds_left: float
) -> Progress:
    terms = {name: value for name, value in values.items() if name != "loss"}
    return Progress(
        stage.run.stage, step, stage.steps, values["loss"], terms, seconds_left
    )
