"""The arithmetic behind the report: intervals, percentiles, bins, order of trials.

Pure: numbers in, numbers out; nothing here draws or formats.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.metrics.intervals import is_enough_for as is_enough_for
from training.metrics.intervals import percentile as percentile
from verbs.report.data import Report, ReportTrial

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal, for two-sided 95 % intervals."""


def wilson_interval(k: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson 1927, p. 209)."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = k / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def number(summary: Mapping[str, object], *path: str) -> float | None:
    """Return the finite number at `path` in `summary`; None for anything else."""
    value: object = summary
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Bin:
    """The answers whose confidence lies in [low, high)."""

    low: float
    high: float
    n: int
    n_right: int
    mean_confidence: float


def is_answer(trial: ReportTrial) -> bool:
    """Say whether a trial has an answer together with a usable confidence."""
    return (
        trial.decision == "ANSWER"
        and trial.confidence is not None
        and math.isfinite(trial.confidence)
    )


def reliability_bins(trials: Sequence[ReportTrial], n_bins: int = 10) -> list[Bin]:
    """Sort answers into equal bins of confidence; empty bins are left out."""
    bins: dict[int, list[ReportTrial]] = {}
    for trial in filter(is_answer, trials):
        at = int((trial.confidence or 0.0) * n_bins)
        bins.setdefault(min(max(at, 0), n_bins - 1), []).append(trial)
    return [
        Bin(
            low=at / n_bins,
            high=(at + 1) / n_bins,
            n=len(inside),
            n_right=sum(trial.is_correct for trial in inside),
            mean_confidence=math.fsum(t.confidence or 0.0 for t in inside)
            / len(inside),
        )
        for at, inside in sorted(bins.items())
    ]


def signed_confidence(trial: ReportTrial) -> float:
    """Rank a trial: sure and right is 1, sure and wrong is -1, no answer is 0."""
    if not is_answer(trial):
        return 0.0
    confidence = trial.confidence or 0.0
    return confidence if trial.is_correct else -confidence


def best_median_worst(
    trials: Sequence[ReportTrial], n_each: int
) -> tuple[tuple[ReportTrial, ...], tuple[ReportTrial, ...], tuple[ReportTrial, ...]]:
    """Take `n_each` trials from the top, the middle and the end of the ranking.

    The order is by `signed_confidence`, ties in the given order. Needs at least
    ``3 * n_each`` trials, so that no trial is in two groups.
    """
    ranked = ranked_trials(trials)
    middle = (len(ranked) - n_each) // 2
    return (
        ranked[:n_each],
        ranked[middle : middle + n_each],
        ranked[len(ranked) - n_each :],
    )


def ranked_trials(trials: Sequence[ReportTrial]) -> tuple[ReportTrial, ...]:
    """Sort trials from sure and right to sure and wrong."""
    return tuple(sorted(trials, key=signed_confidence, reverse=True))


def answered_label(trial: ReportTrial) -> str | None:
    """Return the label that a trial answered; None where it answered nothing."""
    return trial.label if trial.decision == "ANSWER" else None


def confusion(
    trials: Sequence[ReportTrial],
) -> tuple[list[str], list[str | None], dict[tuple[str, str | None], int]]:
    """Count answers by what was seen.

    Returns:
        Labels seen, labels answered (None last: no answer), and the count of each
        pair that occurs.
    """
    counts: dict[tuple[str, str | None], int] = {}
    for trial in trials:
        pair = (trial.seen_label, answered_label(trial))
        counts[pair] = counts.get(pair, 0) + 1
    seen = sorted({seen for seen, _ in counts})
    labels = {label for _, label in counts if label is not None}
    answered: list[str | None] = [*sorted(labels | set(seen))]
    if any(label is None for _, label in counts):
        answered.append(None)
    return seen, answered, counts


def latencies_ms(report: Report, *, is_live: bool) -> list[float]:
    """Return the finite positive latencies of live, or of fast, volumes."""
    return [
        timing.latency_ms
        for timing in report.timings
        if timing.is_live == is_live
        and math.isfinite(timing.latency_ms)
        and timing.latency_ms > 0
    ]
