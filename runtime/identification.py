"""How well trials tell their images, and how sure a mean of that is. Pure.

Intervals come from drawing images with replacement. Fits of different folds share most
of their trials, which the drawing does not see: they are widened for it (Nadeau &
Bengio, 2003, "Inference for the generalization error", eq. 8: a variance of
``1/K + n_test/n_train`` in place of ``1/K``).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import ndtr

from runtime.arrays import Float32, Float64, Int64
from runtime.products import inner

CONFIDENCE: Final = 0.95
"""Of an interval, before it is widened."""
RESAMPLES: Final = 4000
SEED: Final = 0
"""Of the bootstrap: the same trials give the same overlay."""

Scores = Float64[np.ndarray, " trials"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over images, and where the true one lies with `CONFIDENCE`."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def identification(
    found: Float32[np.ndarray, "trials size"],
    expected: Float32[np.ndarray, "images size"],
    own: Int64[np.ndarray, " trials"],
    centre: Float32[np.ndarray, " size"],
) -> Scores:
    """Return how surely each trial is more like its own image than like another.

    By the cosine from a centre. The share of the other images that are less like the
    trial is a coarse number where they are twenty; this is what it comes to among ever
    more of them, if likenesses are normal: ``Phi((own - mean) / (sd sqrt(1 + 1/n)))``,
    of the n others' mean and deviation.

    Args:
        found: What was measured.
        expected: What was predicted of at least three images.
        own: Which of them each trial has shown.
        centre: Taken from both: without it, everything is like everything.

    Returns:
        Between 0 and 1, by chance .5; .5 where all others are alike.
    """
    trials, images = found - centre, expected - centre
    lengths = _lengths(trials)[:, None] * _lengths(images)
    # A row of nothing has no direction: cosine 0 with everything.
    cosines = inner(trials, images) / np.where(lengths > 0, lengths, 1.0)
    rows = np.arange(len(found))
    others = np.ones(cosines.shape, dtype=np.bool_)
    others[rows, own] = False
    compared = cosines[others].reshape(len(found), -1)
    spread = compared.std(axis=1, ddof=1) * np.sqrt(1 + 1 / compared.shape[1])
    ahead = cosines[rows, own] - compared.mean(axis=1)
    is_told = spread > 0
    steps = np.divide(ahead, spread, out=np.zeros_like(ahead), where=is_told)
    scores: Scores = ndtr(steps)
    return scores


def _lengths(rows: Float32[np.ndarray, "n size"]) -> Float64[np.ndarray, " n"]:
    # Summed in float64 without a copy of rows that may be 400,000 long.
    squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    lengths: Float64[np.ndarray, " n"] = np.sqrt(squares)
    return lengths


def mean_interval(
    values: Scores, image: Int64[np.ndarray, " trials"], folds: int = 0
) -> Interval:
    """Return the mean over images and its bootstrap interval (Efron, 1979).

    Args:
        values: One a trial.
        image: What each is about; an image's trials are averaged, and drawn together.
        folds: Of the cross-validation that they come from, for which the interval is
            widened; 0 where they come from none.
    """
    _, index, counts = np.unique(image, return_inverse=True, return_counts=True)
    means = np.bincount(index, weights=values) / counts
    drawn = np.random.default_rng(SEED).integers(
        0, len(means), size=(RESAMPLES, len(means))
    )
    tail = (1 - CONFIDENCE) / 2
    ends = np.quantile(means[drawn].mean(axis=1), [tail, 1 - tail])
    mean, low, high = float(means.mean()), float(ends[0]), float(ends[1])
    # Of K folds, n_test / n_train is 1 / (K - 1).
    wide = float(np.sqrt(1 + folds / (folds - 1))) if folds else 1.0
    return Interval(mean, mean - wide * (mean - low), mean + wide * (high - mean))
