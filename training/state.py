"""What a training run changes from step to step."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from training.checkpoint import check_tensors
from training.compute import AS_PUBLISHED, Compute
from training.config import ModelConfig
from training.ema import WeightAverage
from training.provenance import Rate
from training.ranks import Ranks, is_main
from training.scaler import LossScaler
from training.snapshot import RunIdentity
from training.stopping import Validation, Watch

_ADAM_KEYS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class StepLosses:
    """What a stage computes from a batch or a part of one."""

    total: Tensor
    """The scalar that is minimised."""
    terms: Mapping[str, Tensor]
    """Scalars for the log."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a batch that go through the model together."""

    share: float
    """Their share of this process' rows; the shares of a step add up to 1."""
    losses: Callable[[], StepLosses]
    """Runs the model."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What is trained, and how."""

    run: RunIdentity
    steps: int
    module: nn.Module
    """Whose weights are trained."""
    wrapped: nn.Module
    """What runs: `module`, or what `Ranks.wrap` made of a module around it."""
    parts: Callable[[int, torch.Generator], Iterable[Part]]
    """The parts of the step with this index, counted from 0.

    All random numbers of the step are drawn by this call, in one order, for the whole
    batch of all processes.
    """
    terms: tuple[str, ...]
    """Names of the terms of a part's losses."""
    seed: int
    learning_rate: float
    weight_decay: float
    gradient_norm: float | None = None
    """Longer gradients are scaled down to this norm; None leaves them."""
    ema_decay: float | None = None
    """Decay of the averaged weights; None where there is no average."""
    compute: Compute = AS_PUBLISHED
    config: ModelConfig | None = None
    """The whole configuration, which a snapshot keeps to say what differs from it."""
    validation: Validation | None = None
    """How the weights are judged on held-out images; None trains to the last step."""


class TrainingState:
    """Weights, optimiser, average, random state: at every moment one snapshot."""

    def __init__(self, stage: Stage, device: torch.device, ranks: Ranks) -> None:
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
        for parameter in self.parameters.values():
            # As the first step would make it: fp16 may skip that step.
            self.optimiser.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        self.average = (
            None
            if stage.ema_decay is None
            else WeightAverage(self.module, stage.ema_decay)
        )
        self.watch = (
            None
            if stage.validation is None
            else Watch(stage.validation, stage.steps, self._inferring())
        )
        self.scaler = LossScaler() if stage.compute.precision == "fp16" else None
        self.generator = torch.Generator(device).manual_seed(stage.seed % 2**63)
        self.step = 0
        self.rates: tuple[Rate, ...] = (
            Rate(step=0, learning_rate=stage.learning_rate),
        )
        """Learning rates, the present one last."""
        self.is_settled = True
        """False while a step's update is half applied."""
        self.random_state = self.generator.get_state()
        """The generator as it was when step `step` ended."""
        self._ranks = ranks

    def update(self) -> None:
        """Apply the gradients that the parameters hold."""
        self.is_settled = False
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.module)
        if self.scaler is not None:
            self.scaler.fitted()
        self._end_step()

    def skip(self) -> None:
        """Go on without an update: in fp16, this step's gradient overflowed."""
        if self.scaler is not None:
            self.scaler.overflowed()
        self._end_step()

    def _end_step(self) -> None:
        self.random_state = self.generator.get_state()
        self.step += 1
        self.is_settled = True

    @property
    def is_stopped(self) -> bool:
        """Whether training ends before its last step."""
        return self.watch is not None and self.watch.is_over

    def judged(self, loss: float, *, is_better: bool) -> None:
        """Note what the present weights are worth on held-out images."""
        if self.watch is None:
            return
        self.is_settled = False
        self.watch.record(self.step, loss, self._inferring(), is_better=is_better)
        self.is_settled = True

    def present_weights(self) -> dict[str, Tensor]:
        """Return the weights that inference would have now, in full."""
        return {name: self._ranks.whole(v) for name, v in self._inferring().items()}

    def weights(self) -> dict[str, Tensor]:
        """Return the weights for inference, as `tensors` returns all there is.

        The best ones where they were judged, else the present ones.
        """
        return self._gathered(
            self._inferring() if self.watch is None else self.watch.weights()
        )

    def _inferring(self) -> dict[str, Tensor]:
        if self.average is not None:
            return self.average.weights
        return dict(self.module.state_dict())

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a snapshot holds, in full and on the CPU.

        All processes must call; the main one alone is given anything.
        """
        return self._gathered(self._held())

    def _gathered(self, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # One after another: where weights are in shards, all of them are not to stand
        # whole beside each other on a device that was too small for them.
        kept: dict[str, Tensor] = {}
        for name, value in held.items():
            whole = self._ranks.whole(value)
            if is_main(self._ranks):
                kept[name] = whole.detach().cpu()
            del whole
        return kept

    def _held(self) -> dict[str, Tensor]:
        out = {f"model.{k}": v for k, v in self.module.state_dict().items()}
        if self.average is not None:
            out |= {f"average.{k}": v for k, v in self.average.weights.items()}
        for name, parameter in self.parameters.items():
            held = self.optimiser.state[parameter]
            out |= {f"optimiser.{key}.{name}": held[key] for key in _ADAM_KEYS}
        if self.watch is not None:
            out |= self.watch.tensors()
        if self.scaler is not None:
            out["scaler"] = self.scaler.state()
        return out | {"generator": self.random_state}

    def restore(
        self,
        path: Path,
        step: int,
        tensors: Mapping[str, Tensor],
        rates: tuple[Rate, ...] = (),
    ) -> None:
        """Become the state of a snapshot, with this run's own learning rate.

        Args:
            path: File of the tensors, for messages.
            step: Steps taken.
            tensors: Copied.
            rates: Learning rates until then; empty where it was always this run's.

        Raises:
            CheckpointError: The tensors are not those of this module.
        """
        own = self._held()
        check_tensors(path, tensors, own)
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(self._ranks.part_of(tensors[name], value))
        if self.scaler is not None:
            self.scaler.load(tensors["scaler"])
        self.random_state = tensors["generator"].clone()
        self.generator.set_state(self.random_state)
        self.step = step
        (present,) = self.rates
        if rates and rates[-1].learning_rate != present.learning_rate:
            rates += (msgspec.structs.replace(present, step=step),)
        self.rates = rates or self.rates
