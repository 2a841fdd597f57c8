"""What changed between two runs beyond the noise. Pure."""

from typing import Literal

import msgspec

from runtime.bench.figures import INTERCEPT, multiples, values
from runtime.bench.result import Result
from runtime.bench.statistics import Interval, median_interval
from runtime.errors import UsageError

Verdict = Literal["faster", "slower", "within the noise", "too few rounds"]
Unit = Literal["ms", "x limit"]


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stage of one engine in two runs."""

    name: str
    unit: Unit
    before: Interval
    after: Interval
    ratio: float | None
    """After over before; None for intercepts, which may be about zero."""
    verdict: Verdict


class Comparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two runs."""

    same_machine: bool
    """Whether absolute times could be compared."""
    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    """What only one of them measured."""


def verdict(before: Interval, after: Interval) -> Verdict:
    """Say whether two intervals are apart.

    Two 95 % intervals that do not touch are stricter than a test at 5 %: of equal
    medians about one pair in two hundred is called different.
    """
    if before.low is None or before.high is None:
        return "too few rounds"
    if after.low is None or after.high is None:
        return "too few rounds"
    if after.high < before.low:
        return "faster"
    if after.low > before.high:
        return "slower"
    return "within the noise"


def compare(before: Result, after: Result) -> Comparison:
    """Compare stage by stage and engine by engine.

    Multiples of the limit are compared always: machines drift, and their limits with
    them. Times are compared on the same machine only.

    Raises:
        UsageError: The runs measured different models or have nothing in common.
    """
    if (before.sizes, before.subject) != (after.sizes, after.subject):
        raise UsageError(
            f"compare: expected two runs of one model, found {before.subject} and "
            f"{after.subject}. Measure the same preset or bundle."
        )
    old, new = values(before), values(after)
    same = before.machine.identity() == after.machine.identity()
    changes: list[Change] = []
    for key in old.keys() & new.keys():
        stage, who = key
        name = f"{stage}, {who}"
        if same:
            a, b = ([t / 1e6 for t in side[key]] for side in (old, new))
            changes.append(_change(name, "ms", a, b, stage))
        was = multiples(before, stage, who, old[key])
        now = multiples(after, stage, who, new[key])
        if was is not None and now is not None:
            changes.append(_change(name, "x limit", was, now, stage))
    if not changes:
        raise UsageError(
            "compare: expected runs with a stage and an engine in common, found none"
        )
    missing = sorted(f"{stage}, {who}" for stage, who in old.keys() ^ new.keys())
    changes.sort(key=lambda change: (change.name, change.unit))
    return Comparison(same_machine=same, changes=tuple(changes), missing=tuple(missing))


def _change(
    name: str, unit: Unit, before: list[float], after: list[float], stage: str
) -> Change:
    was, now = median_interval(before), median_interval(after)
    is_ratio = stage != INTERCEPT and was.median > 0
    return Change(
        name=name,
        unit=unit,
        before=was,
        after=now,
        ratio=now.median / was.median if is_ratio else None,
        verdict=verdict(was, now),
    )
