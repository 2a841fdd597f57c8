"""The loop that both training stages share: step, log, snapshot, resume.

Knows nothing of what is learned: a `Stage` brings the module and its loss.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from runtime.errors import NeuroFlowError
from training.checkpoint import StageName, check_tensors
from training.ema import WeightAverage
from training.history import History
from training.snapshot import RunIdentity, load_snapshot, save_snapshot

SNAPSHOT_EVERY_S = 120.0


class DivergedError(NeuroFlowError):
    """Training met a loss or a gradient that is not finite."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands after a step."""

    stage: StageName
    """Which of the two stages."""
    step: int
    """Optimiser steps taken, this one included."""
    steps: int
    """Steps of the whole run."""
    loss: float
    """The step's loss, before the step."""
    terms: Mapping[str, float]
    """The parts of the loss, before their weights, and the gradient's norm."""
    seconds_left: float
    """Estimate from the mean duration of this process's steps."""


Observer = Callable[[Progress], None]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class StepLosses:
    """What a stage computes from one batch."""

    total: Tensor
    """The scalar that is minimised."""
    terms: Mapping[str, Tensor]
    """Scalars for the log."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What is trained, and how."""

    run: RunIdentity
    steps: int
    module: nn.Module
    loss: Callable[[int, torch.Generator], StepLosses]
    """The losses of the step with this index, counted from 0."""
    terms: tuple[str, ...]
    """Names of the terms of `loss`."""
    seed: int
    learning_rate: float
    weight_decay: float
    gradient_norm: float | None = None
    """Longer gradients are scaled down to this norm; None leaves them."""
    ema_decay: float | None = None
    """Decay of the averaged weights; None where there is no average."""


class _State:
    """What changes from step to step, at every moment equal to one snapshot."""

    def __init__(self, stage: Stage, device: torch.device) -> None:
        self.module = stage.module
        self.parameters = {
            name: p for name, p in self.module.named_parameters() if p.requires_grad
        }
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(),
            lr=stage.learning_rate,
            weight_decay=stage.weight_decay,
            fused=True,
        )
        self.average = (
            None
            if stage.ema_decay is None
            else WeightAverage(self.module, stage.ema_decay)
        )
        self.generator = torch.Generator(device).manual_seed(stage.seed % 2**63)
        self.step = 0
        self.is_settled = True
        """False while a step's update is half applied."""
        self.random_state = self.generator.get_state()
        """The generator as it was when step `step` ended."""

    def update(self) -> None:
        """Apply the gradients that the parameters hold."""
        self.is_settled = False
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.module)
        self.random_state = self.generator.get_state()
        self.step += 1
        self.is_settled = True

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a snapshot holds, by name."""
        out = {f"model.{k}": v for k, v in self.module.state_dict().items()}
        if self.average is not None:
            out |= {f"average.{k}": v for k, v in self.average.weights.items()}
        for name, parameter in self.parameters.items():
            held = self.optimiser.state[parameter]
            out |= {f"optimiser.{key}.{name}": held[key] for key in _ADAM_KEYS}
        return out | {"generator": self.random_state}

    def restore(self, path: Path, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Become the state of a snapshot.

        Raises:
            CheckpointError: The tensors are not those of this module.
        """
        for parameter in self.parameters.values():
            self.optimiser.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        own = self.tensors()
        check_tensors(path, tensors, own)
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])
        self.random_state = tensors["generator"]
        self.generator.set_state(self.random_state)
        self.step = step


_ADAM_KEYS = ("step", "exp_avg", "exp_avg_sq")


def train(
    stage: Stage,
    out: Path,
    *,
    device: torch.device,
    resume: bool,
    on_step: Observer | None,
    clock: Clock,
    snapshot_every_s: float,
) -> Mapping[str, Tensor]:
    """Take every step of a stage that its snapshot has not yet taken.

    A run that stops, by a signal or by an error, leaves a snapshot; on the same machine
    the resumed run ends with the very bits of an uninterrupted one.

    Args:
        stage: What is trained.
        out: Folder of the snapshot and the log; made where it does not exist.
        device: Where the module lives.
        resume: Go on from the snapshot in `out`, where there is one.
        on_step: Called after each step; what it raises stops the run.
        clock: Seconds, monotonic.
        snapshot_every_s: Least time between two snapshots.

    Returns:
        The weights for inference: the average where there is one.

    Raises:
        DivergedError: A loss or gradient is not finite; the last good state is kept.
        CheckpointError: The snapshot is damaged or belongs to another run.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = _State(stage, device)
    held = load_snapshot(out, stage.run) if resume else None
    if held is not None:
        snapshot, tensors = held
        state.restore(out / snapshot.tensors, snapshot.step, tensors)
    columns = ("loss", *stage.terms, "gradient_norm")
    with History(out, columns, after_step=state.step) as history:

        def save() -> None:
            history.flush()
            save_snapshot(out, stage.run, state.step, state.tensors())

        first_step, started = state.step, clock()
        saved = started
        stage.module.train()
        try:
            while state.step < stage.steps:
                values = _take_step(stage, state)
                history.append(state.step, values)
                now = clock()
                if now - saved >= snapshot_every_s or state.step == stage.steps:
                    save()
                    saved = now
                if on_step is not None:
                    each = (now - started) / (state.step - first_step)
                    left = each * (stage.steps - state.step)
                    on_step(_progress(stage, state.step, values, left))
        except (KeyboardInterrupt, DivergedError):
            # The update itself takes milliseconds; outside it the state is whole.
            if state.is_settled and state.step > first_step:
                save()
            raise
    stage.module.eval()
    return stage.module.state_dict() if state.average is None else state.average.weights


def _take_step(stage: Stage, state: _State) -> dict[str, float]:
    state.optimiser.zero_grad(set_to_none=True)
    losses = stage.loss(state.step, state.generator)
    losses.total.backward()  # type: ignore[no-untyped-call]
    parameters = list(state.parameters.values())
    if stage.gradient_norm is None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
    else:
        norm = nn.utils.clip_grad_norm_(parameters, stage.gradient_norm)
    scalars = [losses.total, *(losses.terms[name] for name in stage.terms), norm]
    # One transfer for all of them, where there is a device to wait for.
    numbers = torch.stack([scalar.detach() for scalar in scalars]).tolist()
    loss, gradient_norm = numbers[0], numbers[-1]
    for what, value in (("loss", loss), ("gradient norm", gradient_norm)):
        if not math.isfinite(value):
            raise DivergedError(
                f"{stage.run.stage} step {state.step + 1}: expected a finite {what}, "
                f"found {value}. The last good step is kept; lower the learning rate."
            )
    state.update()
    return dict(zip(("loss", *stage.terms, "gradient_norm"), numbers, strict=True))


def _progress(
    stage: Stage, step: int, values: Mapping[str, float], seconds_left: float
) -> Progress:
    terms = {name: value for name, value in values.items() if name != "loss"}
    return Progress(
        stage.run.stage, step, stage.steps, values["loss"], terms, seconds_left
    )
