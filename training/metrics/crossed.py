"""Intervals where several participants saw the same images. Pure.

An image that is hard is then hard for everybody, and drawing images within each
participant (`intervals.image_interval`) would count it as often as there are people.
"""

import numpy as np
from jaxtyping import Float, Float64, Int64

from runtime.errors import TensorMismatchError
from training.resample import RESAMPLES, Interval

_BLOCK = 100
"""Draws at a time: 100 times 10,000 images are 8 MB."""

Groups = Int64[np.ndarray, " values"]
Table = Float64[np.ndarray, "participants images"]


def crossed_interval(
    values: Float[np.ndarray, " values"],
    rng: np.random.Generator,
    *,
    images: Groups,
    participants: Groups,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the mean with its 95 % interval over other people and other images.

    See `crossed_draws`. For two methods give the differences, value by value.

    Args:
        values: One a trial or image.
        rng: Draws everything.
        images: What each value is about; the same number is the same image for
            everybody.
        participants: Whose each value is.
        resamples: How many draws.

    Raises:
        TensorMismatchError: No value, or other lengths.
    """
    draws = crossed_draws(
        values, rng, images=images, participants=participants, resamples=resamples
    )
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))


def crossed_draws(
    values: Float[np.ndarray, " values"],
    rng: np.random.Generator,
    *,
    images: Groups,
    participants: Groups,
    resamples: int = RESAMPLES,
) -> Float64[np.ndarray, " draws"]:
    """Return means over values when participants and images are drawn apart.

    The pigeonhole bootstrap (Owen, 2007): participants with replacement, images with
    replacement, and a value counts as often as its participant times its image. Where
    all of I participants saw all of J images, the draws' variance is that of the
    participants' means / I, that of the images' means / J, and what neither explains
    / (I J). Noise is in all three, so that it counts three times: the interval errs on
    the wide side. No resampling of crossed factors is exact (McCullagh, 2000), and few
    participants say little of others however they are drawn.

    Args:
        values: One a trial or image.
        rng: Draws everything.
        images: As in `crossed_interval`.
        participants: As in `crossed_interval`.
        resamples: How many draws. Where people saw few of the images in common, a draw
            can hold no value; it is left out.

    Raises:
        TensorMismatchError: No value, or other lengths.
    """
    n = len(values)
    for name, groups in (("images", images), ("participants", participants)):
        if not n or len(groups) != n:
            raise TensorMismatchError(
                name, expected=f"one a value, {n}, at least 1", found=f"{len(groups)}"
            )
    sums, counts = _table(values, participants, images)
    means = np.concatenate(
        [
            _means(sums, counts, rng, min(_BLOCK, resamples - first))
            for first in range(0, resamples, _BLOCK)
        ]
    )
    known: Float64[np.ndarray, " draws"] = means[np.isfinite(means)]
    return known


def _table(
    values: Float[np.ndarray, " values"], participants: Groups, images: Groups
) -> tuple[Table, Table]:
    """Return the sum and the number of the values of each participant and image."""
    people, person = np.unique(participants, return_inverse=True)
    shown, image = np.unique(images, return_inverse=True)
    shape = (len(people), len(shown))
    cell, size = person * shape[1] + image, shape[0] * shape[1]
    sums = np.bincount(cell, weights=values, minlength=size).reshape(shape)
    counts = np.bincount(cell, minlength=size).reshape(shape)
    return sums, counts.astype(np.float64)


def _means(
    sums: Table, counts: Table, rng: np.random.Generator, draws: int
) -> Float64[np.ndarray, " draws"]:
    n_people, n_images = sums.shape
    people = rng.multinomial(n_people, np.full(n_people, 1 / n_people), size=draws)
    images = rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=draws)
    total = ((people @ sums) * images).sum(axis=1)
    number = ((people @ counts) * images).sum(axis=1)
    found = np.full(draws, np.nan)
    np.divide(total, number, out=found, where=number > 0)
    return found
