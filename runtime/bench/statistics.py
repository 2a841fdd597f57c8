"""Medians with intervals that assume no distribution, ratios and slopes over rounds.

What is compared is measured in turns, a round each: load and clock frequency drift, and
what two neighbours of one round share cancels in their ratio. Rounds are the samples.
"""

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from runtime.errors import UsageError

CONFIDENCE: Final = 0.95
"""Of every interval."""


class Interval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A median and where the true one lies, with a confidence of 95 %."""

    median: float
    low: float | None
    """None with fewer than six values, which cannot carry the confidence."""
    high: float | None


class Slope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``T(N) = intercept + slope * N``, in the unit of the times."""

    slope: Interval
    """Cost of one more evaluation."""
    intercept: Interval
    """What is paid once, however many evaluations follow."""


def interval_ranks(count: int) -> tuple[int, int] | None:
    """Return which order statistics, from 0, hold the median with the confidence.

    Of independent values each lies below the median with probability 1/2, whatever
    their distribution, so that the number below is binomial (David & Nagaraja, "Order
    statistics", 3rd edition, section 7.1). The narrowest symmetric pair is returned;
    None where even the extremes do not reach the confidence.
    """
    inside = 2**count
    best = None
    for k in range((count + 1) // 2):
        # Both tails lose the case of exactly k values on one side.
        inside -= 2 * math.comb(count, k)
        if inside < CONFIDENCE * 2**count:
            break
        best = (k, count - 1 - k)
    return best


def median_interval(values: Sequence[float]) -> Interval:
    """Return the median with its interval.

    Raises:
        UsageError: There is no value, or one is not finite.
    """
    if not len(values) or not np.isfinite(values).all():
        raise UsageError(f"values: expected finite numbers, found {list(values)}")
    ordered = sorted(float(value) for value in values)
    ranks = interval_ranks(len(ordered))
    low, high = (None, None) if ranks is None else (ordered[k] for k in ranks)
    return Interval(median=float(np.median(ordered)), low=low, high=high)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Return the median over rounds of the quotient inside each round.

    Raises:
        UsageError: Different numbers of rounds, or a divisor that is not positive.
    """
    if len(ours) != len(theirs) or not all(value > 0 for value in theirs):
        raise UsageError(
            f"ratio: expected {len(ours)} positive divisors, found {list(theirs)}"
        )
    return median_interval([a / b for a, b in zip(ours, theirs, strict=True)])


def check_counts(counts: Sequence[int]) -> None:
    """Refuse numbers of evaluations that determine no slope.

    Raises:
        UsageError: Fewer than two, one below 1, or not increasing.
    """
    steps = list(counts)
    if len(steps) < 2 or steps[0] < 1 or steps != sorted(set(steps)):
        raise UsageError(
            "evaluations: expected at least two increasing numbers from 1, "
            f"found {' '.join(map(str, steps)) or 'none'}"
        )


def line(counts: Sequence[int], times: Sequence[float]) -> tuple[float, float]:
    """Return slope and intercept of the least squares line through one round.

    Raises:
        UsageError: The numbers determine no slope, or a time is missing.
    """
    check_counts(counts)
    if len(counts) != len(times):
        raise UsageError(f"times: expected {len(counts)}, found {len(times)}")
    n, t = np.asarray(counts, np.float64), np.asarray(times, np.float64)
    centred = n - n.mean()
    slope = float(centred @ t / (centred @ centred))
    return slope, float(t.mean() - slope * n.mean())


def slope(counts: Sequence[int], rounds: Sequence[Sequence[float]]) -> Slope:
    """Fit ``T(N) = a + b N`` to each round and return the medians over rounds.

    Never T(20) / 20 alone: it would spread what is paid once over the evaluations.

    Args:
        counts: Numbers of evaluations N, increasing.
        rounds: For each round one time for each N.

    Raises:
        UsageError: The numbers determine no slope, a time is missing, or no round.
    """
    lines = [line(counts, times) for times in rounds]
    return Slope(
        slope=median_interval([b for b, _ in lines]),
        intercept=median_interval([a for _, a in lines]),
    )
