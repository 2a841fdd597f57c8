"""Intervals by resampling what could have come out otherwise: runs, blocks and seeds.

Neighbouring volumes of a block share their noise, so that single volumes are never
resampled. Pure: the random generator is an argument.
"""

from dataclasses import dataclass

import msgspec
import numpy as np
from jaxtyping import Float, Float64, Int64

from runtime.errors import TensorMismatchError

RESAMPLES = 4000
"""Draws; the 2.5th percentile then rests on 100 of them."""


class Interval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mean with the central 95 % of its resampled values."""

    mean: float
    low: float
    high: float


def blocks_of(
    labels: Int64[np.ndarray, " volumes"], runs: Int64[np.ndarray, " volumes"]
) -> Int64[np.ndarray, " volumes"]:
    """Number the stretches of equal label within a run, from 0, in order of time."""
    if len(labels) == 0:
        return np.zeros(0, dtype=np.int64)
    starts = (np.diff(labels) != 0) | (np.diff(runs) != 0)
    numbers: Int64[np.ndarray, " volumes"] = np.concatenate(
        [[0], np.cumsum(starts)]
    ).astype(np.int64)
    return numbers


def permute_blocks(
    labels: Int64[np.ndarray, " volumes"],
    runs: Int64[np.ndarray, " volumes"],
    rng: np.random.Generator,
) -> Int64[np.ndarray, " volumes"]:
    """Exchange the categories of whole blocks within each run; rest (0) stays rest.

    What keeps an accuracy above chance after this is not what was shown.
    """
    blocks, shuffled = blocks_of(labels, runs), labels.copy()
    for run in np.unique(runs):
        shown = np.unique(blocks[(runs == run) & (labels > 0)])
        categories = np.array([labels[blocks == block][0] for block in shown])
        for block, category in zip(shown, rng.permutation(categories), strict=True):
            shuffled[blocks == block] = category
    return shuffled


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Sums over the volumes of each block: all that a resample needs."""

    sums: Float64[np.ndarray, "seeds blocks"]
    counts: Float64[np.ndarray, " blocks"]
    of_run: Int64[np.ndarray, "runs most"]
    """The blocks of each run, then zeros."""
    sizes: Int64[np.ndarray, " runs"]
    """How many blocks each run has."""


def block_interval(
    values: Float[np.ndarray, "seeds volumes"],
    runs: Int64[np.ndarray, " volumes"],
    blocks: Int64[np.ndarray, " volumes"],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the mean over volumes with its hierarchical bootstrap interval.

    Runs are drawn with replacement, then as many blocks within each as it has, then
    seeds (Efron & Tibshirani, 1993, chapter 8; percentile interval). Drawing at both
    levels counts the blocks' scatter twice, so that the interval errs on the wide side.

    Args:
        values: One row per seed: hits (0 or 1), or paired differences of hits.
        runs: Run of each volume.
        blocks: Block of each volume, unique over runs, as `blocks_of` numbers them.
        rng: Draws everything.
        resamples: How many draws.

    Raises:
        TensorMismatchError: Another number of volumes, or none at all.
    """
    volumes = values.shape[1]
    if not volumes or volumes != len(runs) or volumes != len(blocks):
        raise TensorMismatchError(
            "values",
            expected=f"{len(runs)} volumes, at least one, each with run and block",
            found=f"{volumes} and {len(blocks)} blocks",
        )
    parts = _sum_blocks(values, runs, blocks)
    low, high = np.percentile(_draw(parts, rng, resamples), [2.5, 97.5])
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))


def _sum_blocks(
    values: Float[np.ndarray, "seeds volumes"],
    runs: Int64[np.ndarray, " volumes"],
    blocks: Int64[np.ndarray, " volumes"],
) -> _Blocks:
    names, first, index = np.unique(blocks, return_index=True, return_inverse=True)
    sums = [np.bincount(index, weights=row, minlength=len(names)) for row in values]
    known = [np.flatnonzero(runs[first] == run) for run in np.unique(runs)]
    sizes = np.array([len(of_run) for of_run in known], dtype=np.int64)
    table = np.zeros((len(known), int(sizes.max())), dtype=np.int64)
    for row, of_run in zip(table, known, strict=True):
        row[: len(of_run)] = of_run
    return _Blocks(np.stack(sums), np.bincount(index).astype(np.float64), table, sizes)


def _draw(
    parts: _Blocks, rng: np.random.Generator, resamples: int
) -> Float64[np.ndarray, " resamples"]:
    n_runs, most = parts.of_run.shape
    drawn = rng.integers(n_runs, size=(resamples, n_runs, 1))
    sizes = parts.sizes[drawn]
    place = (rng.random((resamples, n_runs, most)) * sizes).astype(np.int64)
    chosen = parts.of_run[drawn, place]
    # A run with fewer blocks than the longest one fills only its own places.
    kept = np.arange(most) < sizes
    n_seeds = len(parts.sums)
    seeds = rng.integers(n_seeds, size=(resamples, n_seeds))
    counted = (kept * parts.counts[chosen]).sum(axis=(1, 2))
    total = np.zeros(resamples)
    for seed in seeds.T:
        total += (kept * parts.sums[seed[:, None, None], chosen]).sum(axis=(1, 2))
    means: Float64[np.ndarray, " resamples"] = total / n_seeds / counted
    return means


def auc(higher: Float[np.ndarray, " n"], lower: Float[np.ndarray, " m"]) -> float:
    """Return how often a value of the first kind exceeds one of the second.

    The area under the receiver operating characteristic; ties count half (Hanley &
    McNeil, 1982).
    """
    ordered = np.sort(lower)
    below = np.searchsorted(ordered, higher, side="left")
    upto = np.searchsorted(ordered, higher, side="right")
    return float((below + upto).mean() / 2 / len(lower))
