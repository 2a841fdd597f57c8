"""From raw samples to figures: medians of rounds, slopes, multiples of the limit."""

import statistics
from collections.abc import Sequence

from runtime.bench.result import Limits, Result, Series, Steps, Who
from runtime.bench.statistics import Interval, line, median_interval
from runtime.bench.work import FRONT, HEADS
from runtime.rows import are_in_8_bits

STEP = "step"
"""Stage name of one velocity evaluation, which is the slope of T(N)."""
INTERCEPT = "intercept"


def round_medians(series: Series) -> list[float]:
    """Return each round's median in nanoseconds."""
    return [float(statistics.median(samples)) for samples in series.rounds_ns]


def round_slopes(steps: Steps) -> tuple[list[float], list[float]]:
    """Return each round's slope and intercept in nanoseconds."""
    lines = [line(steps.evaluations, [float(t) for t in r]) for r in steps.rounds_ns]
    return [b for b, _ in lines], [a for _, a in lines]


def no_slope(slopes: Sequence[float]) -> str | None:
    """Say why slopes are no figure, where they are none.

    Nothing takes less time the more of it is done: where T(N) does not grow in every
    round, what disturbed the run was larger than the step.
    """
    flat = sum(not value > 0 for value in slopes)
    if not flat:
        return None
    return f"T(N) does not grow in {flat} of {len(slopes)} rounds: too much noise"


def values(result: Result) -> dict[tuple[str, Who], list[float]]:
    """Return every stage of every engine with its rounds in nanoseconds."""
    found = {(s.stage, s.who): round_medians(s) for s in result.series}
    for steps in result.steps:
        slopes, intercepts = round_slopes(steps)
        found[STEP, steps.who] = slopes
        found[INTERCEPT, steps.who] = intercepts
    return found


def limits_for(result: Result, threads: int) -> Limits | None:
    """Return the limits that were measured with this many threads."""
    return next((x for x in result.limits if x.threads == threads), None)


def limits_ns(result: Result, stage: str, who: Who) -> list[float] | None:
    """Return for each round the time that the machine's limits leave for a stage.

    Returns:
        Nanoseconds; None where the work or the limits are not known, as on a GPU: they
        are measured on the processor.
    """
    work, limits = result.work.get(stage), limits_for(result, who.threads)
    if work is None or limits is None or who.is_on_gpu:
        return None
    precision = limits.precision
    if stage in (FRONT, HEADS):
        # This project's own, in float32 whatever the engine computes in; but a gallery.
        is_rounded = are_in_8_bits(who.peer, who.precision, work.weights)
        precision = "int8" if stage == HEADS and is_rounded else "f32"
    return [
        1e9
        * work.limit_s(
            flop_per_s=reached.flop.per_s,
            bytes_per_s=reached.memory.per_s,
            precision=precision,
        )
        for reached in limits.rounds
    ]


def multiples(
    result: Result, stage: str, who: Who, times_ns: Sequence[float]
) -> list[float] | None:
    """Return each round's time as a multiple of the same round's limit."""
    limits = limits_ns(result, stage, who)
    if limits is None or len(limits) != len(times_ns):
        return None
    return [t / limit for t, limit in zip(times_ns, limits, strict=True)]


def multiple(
    result: Result, stage: str, who: Who, times_ns: Sequence[float]
) -> Interval | None:
    """Return the median multiple of the limit with its interval."""
    found = multiples(result, stage, who, times_ns)
    return None if found is None else median_interval(found)
