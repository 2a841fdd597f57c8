"""Negative controls: what a metric gives when predictions go to the wrong images.

Permutations keep fixed points, so that a share of 1 / n right is the true chance,
whatever was predicted: they check the metric, not the decoder. The shift by a trial
leaves out what the decoder was asked, which would make it worse than chance where its
answers are good; it can fail, where responses hold something of the next trial.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from training.metrics.correlation import standard_rows
from training.metrics.intervals import image_interval
from training.metrics.pixels import (
    Pictures,
    as_judged,
    resized,
    structural_similarities,
)
from training.metrics.result import Absent, Control, Value, too_few
from training.metrics.retrieval import MIN_RIVALS, expected_top1
from training.metrics.voxels import MIN_CORRELATED

PERMUTATIONS: Final = 400
"""The 2.5th percentile then rests on 10 of them."""
MOST_IMAGES: Final = 100
"""Of the controls of pixels, which compare at 425 pixels."""

Statistic = Callable[[Int64[np.ndarray, " images"]], float]


def permuted(
    metric: str,
    statistic: Statistic,
    n_images: int,
    rng: np.random.Generator,
    *,
    chance: float | None,
    permutations: int = PERMUTATIONS,
) -> Control:
    """Return a statistic's mean and central 95 % over permutations of the images.

    Args:
        metric: Its name in the report.
        statistic: Its value where image i gets the prediction of image `order[i]`.
        n_images: How many.
        rng: Draws the orders.
        chance: What it should give; None where that is not known.
        permutations: How many.
    """
    values = [statistic(rng.permutation(n_images)) for _ in range(permutations)]
    low, high = np.percentile(values, [2.5, 97.5])
    value = Value(
        mean=float(np.mean(values)),
        low=float(low),
        high=float(high),
        chance=chance,
        n=n_images,
    )
    return Control(metric=metric, value=value)


def retrieval_control(
    cosines: Float64[np.ndarray, "images images"], size: int, rng: np.random.Generator
) -> Control:
    """Return forward top-1 with decoded latents given to images at random."""
    metric = "retrieval, forward"
    if len(cosines) < MIN_RIVALS:
        return Control(metric=metric, value=too_few(len(cosines), MIN_RIVALS))

    def statistic(order: Int64[np.ndarray, " images"]) -> float:
        return float(expected_top1(cosines[order], size).mean())

    return permuted(metric, statistic, len(cosines), rng, chance=1.0 / size)


def shift_control(
    cosines: Float64[np.ndarray, "trials images"],
    shown: Int64[np.ndarray, " trials"],
    rng: np.random.Generator,
) -> Control:
    """Return how near each next trial's image is to what a trial was decoded as.

    The share of images that are farther, that of the trial itself left out; ties are
    half. Pairs of trials of one image are left out. Next is the next of these trials:
    ends of runs, and trials of other splits between, are not known here.

    Args:
        cosines: Of what was decoded from each trial, in order of time, with images.
        shown: Image of each trial.
        rng: Draws the interval over images.
    """
    metric = "retrieval, one trial late"
    pairs = np.flatnonzero(shown[1:] != shown[:-1])
    n = cosines.shape[1]
    if not len(pairs) or n < 3:
        return Control(metric=metric, value=Absent("expected three images or more"))
    rows, nexts = cosines[pairs], shown[pairs + 1]
    own = np.take_along_axis(rows, nexts[:, None], axis=1)
    rivals = np.ones_like(rows, dtype=np.bool_)
    rivals[np.arange(len(pairs)), nexts] = False
    rivals[np.arange(len(pairs)), shown[pairs]] = False
    farther = (rows < own) + 0.5 * (rows == own)
    shares = (farther * rivals).sum(axis=1) / (n - 2)
    found = image_interval(shares, rng, images=nexts)
    value = Value(
        mean=found.mean,
        low=found.low,
        high=found.high,
        chance=0.5,
        n=len(np.unique(nexts)),
    )
    return Control(metric=metric, value=value)


def encoding_control(
    predicted: Shaped[np.ndarray, "images voxels"],
    measured: Shaped[np.ndarray, "images voxels"],
    rng: np.random.Generator,
) -> Control:
    """Return the mean correlation across images with predictions given at random."""
    metric = "encoding, r across images"
    if len(predicted) < MIN_CORRELATED:
        return Control(metric=metric, value=too_few(len(predicted), MIN_CORRELATED))
    said, found = standard_rows(predicted.T).T, standard_rows(measured.T).T

    def statistic(order: Int64[np.ndarray, " images"]) -> float:
        return float((said[order] * found).sum(axis=0).mean())

    return permuted(metric, statistic, len(said), rng, chance=0.0)


def pixel_control(
    shown: Pictures, reconstructed: Pictures, rng: np.random.Generator
) -> Control:
    """Return PixCorr with reconstructions given to images at random.

    Unrelated images correlate as well, so that this level, not zero, is chance.
    """
    if len(shown) < MIN_RIVALS:
        return Control(metric="PixCorr", value=too_few(len(shown), MIN_RIVALS))
    chosen = slice(0, MOST_IMAGES)
    a, b = (
        standard_rows(resized(images).reshape(len(images), -1))
        for images in as_judged(shown[chosen], reconstructed[chosen])
    )
    pairs = a @ b.T
    rows = np.arange(len(pairs))

    def statistic(order: Int64[np.ndarray, " images"]) -> float:
        return float(pairs[rows, order].mean())

    return permuted("PixCorr", statistic, len(pairs), rng, chance=None)


def similarity_control(
    shown: Pictures, reconstructed: Pictures, rng: np.random.Generator
) -> Control:
    """Return SSIM with every reconstruction given to the next image.

    One wrong image each instead of permutations, because SSIM of all pairs is slow; the
    brackets are the interval over images. Small images that are enlarged to 425 pixels
    hardly vary within SSIM's window, so that unrelated ones are alike as well.
    """
    a, b = shown[:MOST_IMAGES], reconstructed[:MOST_IMAGES]
    if len(a) < MIN_RIVALS:
        return Control(metric="SSIM", value=too_few(len(a), MIN_RIVALS))
    found = image_interval(structural_similarities(a, np.roll(b, 1, axis=0)), rng)
    value = Value(mean=found.mean, low=found.low, high=found.high, n=len(a))
    return Control(metric="SSIM", value=value)
