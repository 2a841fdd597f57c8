"""Early stopping: which weights were best on held-out images, and when it is enough.

What a run has seen of it is tensors, a part of its snapshot: a resumed run stops where
the uninterrupted one would have. Computes no loss itself.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.provenance import Stopped


@dataclass(frozen=True, slots=True)
class Validation:
    """How a stage is judged, and how patiently."""

    judge: Callable[[Mapping[str, Tensor]], float]
    """Computes the loss of weights on the held-out images; always the same for the
    same weights."""
    every: int
    """Steps between two judgements, an epoch; the last step is judged in any case."""
    patience: int
    """Judgements in a row that may be no better."""
    images: int
    """Held out, with all their trials."""
    trials: int
    """Held out."""


class Watch:
    """The best weights so far, and how long ago they were."""

    def __init__(
        self, validation: Validation, steps: int, weights: Mapping[str, Tensor]
    ) -> None:
        """Begin with nothing judged.

        Args:
            validation: How and how often.
            steps: Of the whole run.
            weights: Those for inference, by name; copied.
        """
        self.validation, self._steps = validation, steps
        self._best = {name: value.detach().clone() for name, value in weights.items()}
        # Best loss, its step, the step judged last, judgements since the best.
        self._marks = torch.tensor([math.inf, 0.0, 0.0, 0.0], dtype=torch.float64)

    @property
    def best_loss(self) -> float:
        """Lowest loss on the held-out images; infinite before the first judgement."""
        return float(self._marks[0])

    @property
    def judged_step(self) -> int:
        """The step that was judged last, or 0."""
        return int(self._marks[2])

    @property
    def is_over(self) -> bool:
        """Whether patience is at its end."""
        return int(self._marks[3]) >= self.validation.patience

    def is_due(self, step: int) -> bool:
        """Say whether the weights after this many steps are to be judged, once."""
        ends = step > 0 and (step % self.validation.every == 0 or step == self._steps)
        return ends and step > self.judged_step

    @torch.no_grad()
    def record(
        self, step: int, loss: float, weights: Mapping[str, Tensor], *, is_better: bool
    ) -> None:
        """Note a judgement.

        Args:
            step: Steps taken.
            loss: On the held-out images.
            weights: What was judged; copied where they are the best.
            is_better: What all processes agreed on.
        """
        if is_better:
            for name, value in weights.items():
                self._best[name].copy_(value)
            self._marks[0], self._marks[1] = loss, step
        self._marks[2] = step
        self._marks[3] = 0 if is_better else self._marks[3] + 1

    def weights(self) -> dict[str, Tensor]:
        """Return the best weights; those of the start before the first judgement."""
        return dict(self._best)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a snapshot holds; to go on, these tensors are written into."""
        return {f"best.{name}": value for name, value in self._best.items()} | {
            "stopping": self._marks
        }

    def stopped(self, step: int) -> Stopped:
        """Return what the checkpoint says of training that ended after `step` steps."""
        return Stopped(
            reason="patience" if self.is_over else "last step",
            step=step,
            best_step=int(self._marks[1]),
            loss=self.best_loss,
            images=self.validation.images,
            trials=self.validation.trials,
        )
