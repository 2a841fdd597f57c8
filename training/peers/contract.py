"""What every peer is given, and what it gives back.

A peer is a recipe with its settings. `fit` turns it into a decoder of visual latents,
whose answer is the nearest picture of the gallery, or into one that names categories.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from runtime.errors import TensorMismatchError
from runtime.patch_dct import PatchDct
from training.trials import TrialSet

Features = Float32[np.ndarray, "trials voxels"]
Latents = Float32[np.ndarray, "trials tokens width"]
Rows = Int64[np.ndarray, " rows"]
Counted = Callable[[int, int], None]
"""Told after each training step: steps done and steps in all."""


def uncounted(_done: int, _total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """The pictures behind the latents, for peers that draw."""

    pixels: UInt8[np.ndarray, "images height width 3"]
    backbone: PatchDct
    """Makes a latent of a picture."""


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """All that a peer may learn from.

    Raises:
        TensorMismatchError: Lengths that do not fit each other.
    """

    trials: TrialSet
    """Features and pictures of training trials. Its latents hold pictures of other
    trials too: only rows that `trials.image` names may be looked at."""
    categories: Rows
    """Category of each row of latents, from 0."""
    groups: Rows
    """One a trial: what is left out together when a setting is chosen inside the
    training trials, so that repeats of a picture, or a run, are never on both sides."""
    pictures: Pictures | None = None
    """None where nothing but a category is known of what was shown."""

    def __post_init__(self) -> None:
        """Check the lengths."""
        for name, found, wanted in (
            ("categories", self.categories, len(self.trials.latents)),
            ("groups", self.groups, len(self.trials)),
        ):
            if len(found) != wanted:
                raise TensorMismatchError(
                    f"lesson.{name}", expected=f"{wanted}", found=f"{len(found)}"
                )

    def shown_categories(self) -> Rows:
        """Return the category of each trial."""
        shown: Rows = self.categories[self.trials.image]
        return shown


class FittedPeer(ABC):
    """A peer that has learned."""

    parameters: int
    """Numbers that were fitted, those that only training uses included."""
    evaluations: int
    """Forward passes of a network (encoder, velocity field, decoder) for one answer;
    a linear map counts as one."""


class LatentDecoder(FittedPeer):
    """Answers with a visual latent."""

    @abstractmethod
    def decode(self, features: Features) -> Latents:
        """Return z_v of each trial."""


class CategoryNamer(FittedPeer):
    """Answers with a category that it has seen, and knows nothing of pictures."""

    @abstractmethod
    def name(self, features: Features) -> Rows:
        """Return the category of each trial."""


class Peer(Protocol):
    """A recipe."""

    def fit(self, lesson: Lesson, counted: Counted = uncounted) -> FittedPeer:
        """Learn.

        Args:
            lesson: What to learn from.
            counted: Told after each training step.
        """
        ...
