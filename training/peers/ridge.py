"""Ridge as a peer: to latents, or to categories; its penalty by nested leaving out."""

from dataclasses import dataclass

import numpy as np

from training.evaluate import fit_category_ridge
from training.judge import fit_latent_ridge
from training.peers.contract import (
    CategoryNamer,
    Counted,
    Features,
    LatentDecoder,
    Latents,
    Lesson,
    Rows,
    uncounted,
)
from training.ridge import Ridge


@dataclass(frozen=True, slots=True)
class LatentRidge:
    """Ridge to z_v, rated by the cosine with what was shown."""

    def fit(self, lesson: Lesson, counted: Counted = uncounted) -> "FittedLatentRidge":
        """Learn; the groups of the lesson rate the penalties."""
        del counted
        trials = lesson.trials
        latents = trials.latents.astype(np.float32, copy=False)
        ridge, _ = fit_latent_ridge(
            trials.voxels,
            latents.reshape(len(latents), -1)[trials.image],
            lesson.groups,
            trials.latent_mean().ravel(),
        )
        return FittedLatentRidge(ridge, latents.shape[1:])


class FittedLatentRidge(LatentDecoder):
    """A linear map from features to z_v."""

    evaluations = 1

    def __init__(self, ridge: Ridge, shape: tuple[int, ...]) -> None:
        self.ridge, self._shape = ridge, shape
        self.parameters = _count(ridge)

    def decode(self, features: Features) -> Latents:
        """Return z_v of each trial."""
        predicted = self.ridge.predict(features).astype(np.float32)
        return predicted.reshape(len(features), *self._shape)


@dataclass(frozen=True, slots=True)
class CategoryRidge:
    """Ridge to one-hot categories, rated by the share named rightly."""

    def fit(
        self, lesson: Lesson, counted: Counted = uncounted
    ) -> "FittedCategoryRidge":
        """Learn; the groups of the lesson rate the penalties."""
        del counted
        return FittedCategoryRidge(
            fit_category_ridge(
                lesson.trials.voxels,
                lesson.shown_categories() + 1,
                lesson.groups,
                categories=int(lesson.categories.max()) + 1,
            )
        )


class FittedCategoryRidge(CategoryNamer):
    """A linear map from features to a score for each category."""

    evaluations = 1

    def __init__(self, ridge: Ridge) -> None:
        self.ridge = ridge
        self.parameters = _count(ridge)

    def name(self, features: Features) -> Rows:
        """Return the category of each trial."""
        named: Rows = self.ridge.predict(features).argmax(axis=1).astype(np.int64)
        return named


def _count(ridge: Ridge) -> int:
    # The mean of the inputs and of the targets together are one intercept each target.
    return ridge.weights.size + ridge.target_mean.size
