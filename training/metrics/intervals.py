"""Intervals over images and participants, and percentiles that enough values support.

The bootstrap is that of `training.resample`: participants stand where runs stand there,
images where blocks do. All trials of an image are drawn together.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float, Float64, Int64

from runtime.errors import TensorMismatchError
from training.resample import RESAMPLES, Interval, block_interval

MIN_TAIL_COUNT: Final = 10
"""Values that must lie beyond a percentile before it is stated: n >= 10 / (1 - p)."""

MIN_IMAGES: Final = 2
"""Different images below which nothing is drawn: every draw of one image is that image,
and the interval would have no width. Two give one, wide and rough; and where all images
are alike, both right, it has none either, however many they are."""

Groups = Int64[np.ndarray, " values"]


def is_enough_for(n: int, p: float) -> bool:
    """Say whether `n` values support the `p` quantile, n >= 10 / (1 - p)."""
    return n * (1.0 - p) >= MIN_TAIL_COUNT - 1e-6  # 1 - 0.9 is below 0.1 in binary


def percentile(values: Sequence[float], p: float) -> float | None:
    """Return the `p` quantile of `values`, or None where they are too few for it."""
    if not is_enough_for(len(values), p):
        return None
    return float(np.quantile(np.asarray(values, dtype=np.float64), p))


def spread(
    values: Float[np.ndarray, " values"],
) -> tuple[float | None, float | None, float | None]:
    """Return the 10th, 50th and 90th percentile, each None where values are too few."""
    known = [float(value) for value in values]
    low = percentile([-value for value in known], 0.9)
    return None if low is None else -low, percentile(known, 0.5), percentile(known, 0.9)


def image_interval(
    values: Float[np.ndarray, " values"],
    rng: np.random.Generator,
    *,
    images: Groups | None = None,
    participants: Groups | None = None,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the mean with its 95 % interval over images and participants.

    Participants are drawn with replacement, then as many images within each as it has
    (hierarchical bootstrap). With one participant only images are drawn, and the
    interval says nothing of other people. Where participants saw the same images, take
    `crossed.crossed_interval`.

    Args:
        values: One a trial or image.
        rng: Draws everything.
        images: What each value is about; None: each value is an image of its own.
        participants: Whose each value is; None: one participant.
        resamples: How many draws.

    Raises:
        TensorMismatchError: No value, or other lengths.
    """
    people, blocks = _design(len(values), images, participants)
    return block_interval(values[None], people, blocks, rng, resamples)


def paired_interval(
    ours: Float[np.ndarray, " values"],
    others: Float[np.ndarray, " values"],
    rng: np.random.Generator,
    *,
    images: Groups | None = None,
    participants: Groups | None = None,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the mean of `ours` minus `others`, value by value, with its interval.

    What makes an image hard for both cancels, so that this interval is the one that
    says whether two methods differ; two intervals that overlap do not.

    Args:
        ours: One a trial or image.
        others: Of the same trials, in the same order.
        rng: Draws everything.
        images: As in `image_interval`.
        participants: As in `image_interval`.
        resamples: How many draws.

    Raises:
        TensorMismatchError: No value, or other lengths.
    """
    if ours.shape != others.shape:
        raise TensorMismatchError(
            "paired values", expected=f"{ours.shape}", found=f"{others.shape}"
        )
    return image_interval(
        ours - others,
        rng,
        images=images,
        participants=participants,
        resamples=resamples,
    )


def image_draws(
    n_images: int, rng: np.random.Generator, resamples: int
) -> Float64[np.ndarray, "draws images"]:
    """Return how often each image is in each bootstrap draw.

    For statistics that are no mean over images, such as a correlation across them.
    """
    return rng.multinomial(
        n_images, np.full(n_images, 1.0 / n_images), size=resamples
    ).astype(np.float64)


def _design(
    n: int, images: Groups | None, participants: Groups | None
) -> tuple[Groups, Groups]:
    shown = np.arange(n, dtype=np.int64) if images is None else images
    people = np.zeros(n, dtype=np.int64) if participants is None else participants
    for name, groups in (("images", shown), ("participants", people)):
        if len(groups) != n:
            raise TensorMismatchError(
                name, expected=f"one a value, {n}", found=f"{len(groups)}"
            )
    # An image that two people saw is two blocks: each belongs to its participant.
    pairs = np.stack([people, shown], axis=1)
    if not n:
        return people, shown
    blocks = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
    return people, blocks.astype(np.int64)
