"""Retrieval among images: the published protocol and, beside it, the honest interval.

Forward is brain to image (papers: "image retrieval"), backward image to brain ("brain
retrieval"). One row is one image, or one trial of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped
from scipy.special import gammaln

from runtime.errors import TensorMismatchError
from training.metrics.correlation import flat_rows, unit_rows

MIN_RIVALS: Final = 2
"""Images below which nothing is found or told apart: one is always the nearest."""
SUBSETS: Final = 30
SUBSET_SIZE: Final = 300
SEED: Final = 0
"""NeuroFlow's released `eval.py` (lines 55 to 93): default_rng(0), 30 times 300."""
Z_95: Final = 1.959963984540054
"""97.5 % quantile of the standard normal."""

BLOCK_BYTES: Final = 1 << 28
"""Of queries in float64 at a time, a quarter of it of items: 1,000 latents of the
published size, with those that they are held against, would be 7 GB."""

Latents = Shaped[np.ndarray, "rows *latent"]
Cosines = Float64[np.ndarray, "queries items"]


@dataclass(frozen=True, slots=True)
class PublishedRetrieval:
    """Top-1 as the papers print it."""

    mean: float
    low: float
    high: float
    """Mean plus or minus 1.96 standard errors over the subsets. The subsets overlap, so
    that this is narrower than what other images would give."""
    subsets: int
    size: int


def similarities(
    queries: Latents,
    items: Latents,
    *,
    query_mean: Shaped[np.ndarray, "*latent"] | None = None,
    item_mean: Shaped[np.ndarray, "*latent"] | None = None,
) -> Cosines:
    """Return the cosine of every query with every item, latents flattened.

    In float64, but no more of it at a time than `BLOCK_BYTES` and a few copies.

    Args:
        queries: Decoded latents.
        items: Latents of the images to choose from.
        query_mean: Subtracted from queries; the mean latent of training images.
        item_mean: Subtracted from items. The published figures subtract neither, and
            so reward what every image has in common.

    Raises:
        TensorMismatchError: Latents of another size, or none.
    """
    a, b = queries.reshape(len(queries), -1), items.reshape(len(items), -1)
    if a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise TensorMismatchError(
            "retrieval", expected=f"latents of {b.shape[1]} numbers", found=str(a.shape)
        )
    at_once = max(1, BLOCK_BYTES // (8 * a.shape[1]))
    found = np.empty((len(a), len(b)))
    for rows in _blocks(len(a), at_once):
        left = _directions(a[rows], query_mean)
        for columns in _blocks(len(b), max(1, at_once // 4)):
            found[rows, columns] = left @ _directions(b[columns], item_mean).T
    return found


def _blocks(n: int, at_once: int) -> Iterator[slice]:
    return (slice(first, first + at_once) for first in range(0, n, at_once))


def _directions(
    rows: Shaped[np.ndarray, "rows numbers"],
    mean: Shaped[np.ndarray, "*latent"] | None,
) -> Float64[np.ndarray, "rows numbers"]:
    wide = flat_rows(rows)
    return unit_rows(wide if mean is None else wide - mean.reshape(1, -1))


def top1(cosines: Float64[np.ndarray, "n n"]) -> Bool[np.ndarray, " n"]:
    """Say for each query whether the nearest item is its own, the diagonal."""
    return np.asarray(cosines.argmax(axis=1) == np.arange(len(cosines)))


def published(
    cosines: Float64[np.ndarray, "images images"],
    *,
    seed: int = SEED,
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
) -> PublishedRetrieval:
    """Return top-1 over random subsets of the images, as the papers print it.

    NeuroFlow's released `eval.py` (lines 55 to 93): `default_rng(0)` chooses 300 images
    without replacement, 30 times; each of them is a query among the 300; the interval
    is the mean plus or minus 1.96 standard deviations over the square root of 30.

    Args:
        cosines: Square; the diagonal is right. Its transpose gives the other direction.
        seed: Of the subsets.
        subsets: How many.
        size: Images in each.

    Raises:
        TensorMismatchError: Not square, or fewer images than a subset takes.
    """
    n = len(cosines)
    if cosines.shape != (n, n) or n < size:
        raise TensorMismatchError(
            "retrieval",
            expected=f"cosines of at least {size} images with themselves",
            found=str(cosines.shape),
        )
    rng = np.random.default_rng(seed)
    shares = np.empty(subsets)
    for k in range(subsets):
        chosen = rng.choice(n, size=size, replace=False)
        shares[k] = top1(cosines[np.ix_(chosen, chosen)]).mean()
    mean, error = float(shares.mean()), float(shares.std() / np.sqrt(subsets))
    return PublishedRetrieval(
        mean, mean - Z_95 * error, mean + Z_95 * error, subsets, size
    )


def expected_top1(
    cosines: Float64[np.ndarray, "images images"], size: int
) -> Float64[np.ndarray, " images"]:
    """Return each image's chance to be right among `size` random candidates.

    What the published protocol estimates by 30 draws, without the draws: with k of the
    n - 1 other images at least as near as the right one, the chance that none of them
    is among the size - 1 other candidates is C(n-1-k, size-1) / C(n-1, size-1). These
    values are resampled over images for the interval (`intervals.image_interval`);
    the candidates stay what they are.

    Args:
        cosines: Square; the diagonal is right.
        size: Candidates, the right one included.

    Raises:
        TensorMismatchError: Not square, or more candidates than there are images.
    """
    n = len(cosines)
    if cosines.shape != (n, n) or not 1 <= size <= n:
        raise TensorMismatchError(
            "retrieval",
            expected=f"cosines of at least {size} images with themselves",
            found=str(cosines.shape),
        )
    # A tie counts against: constant answers must not be right by their order. The
    # right one is as near as itself, and is no rival.
    nearer = (cosines >= np.diag(cosines)[:, None]).sum(axis=1) - 1
    free = n - 1 - nearer
    possible = free >= size - 1
    log_share = _log_choose(np.where(possible, free, size), size - 1) - _log_choose(
        np.full(n, n - 1), size - 1
    )
    return np.where(possible, np.minimum(np.exp(log_share), 1.0), 0.0)


def _log_choose(
    n: Int64[np.ndarray, " queries"], k: int
) -> Float64[np.ndarray, " queries"]:
    chosen = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
    return np.asarray(chosen, dtype=np.float64)


def repetitions(shown: Int64[np.ndarray, " trials"]) -> list[Int64[np.ndarray, " n"]]:
    """Return, for each repetition, one trial of every image, in order of the images.

    Single trials are judged repetition by repetition, so that both directions choose
    among as many candidates as there are images. There are as many repetitions as the
    image shown most often has trials. In those that an image has no trial of, one of
    its earlier trials stands for it as a rival of the others: `Design.counted` says
    which these are.

    Args:
        shown: Image of each trial, in order of time.
    """
    images = np.unique(shown)
    if not len(images):
        return []
    trials = [np.flatnonzero(shown == image) for image in images]
    most = max(len(of_image) for of_image in trials)
    return [
        np.array([of_image[k % len(of_image)] for of_image in trials], dtype=np.int64)
        for k in range(most)
    ]
