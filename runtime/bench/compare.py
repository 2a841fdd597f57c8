"""What changed between two runs beyond the noise. Pure."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, Literal

import msgspec

from runtime.bench.figures import INTERCEPT, STEP, multiples, no_slope, values
from runtime.bench.result import Result, Who
from runtime.bench.statistics import Interval, median_interval
from runtime.bench.work import Work
from runtime.errors import UsageError
from runtime.estimator import Estimator

Verdict = Literal["faster", "slower", "within the noise", "too few rounds"]
Unit = Literal["ms", "x limit"]
_LONGEST: Final = 60
"""Of a setting that is shown; a library of responses is named by its hash."""
Fact = tuple[str, object, object, str]
"""What must agree, of the run before and after, and the remedy."""


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
    notes: tuple[str, ...] = ()
    """What has to be known beside the figures, a sentence each."""


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

    Multiples of the limit are compared always, where the limits are of one precision:
    machines drift, and their limits with them. Times are compared on the same machine
    only. Of other weights a model of the same sizes does the same work; that they are
    others is among the notes.

    Raises:
        UsageError: What they measured is not the same work, or they have nothing in
            common.
    """
    _check_alike(before, after)
    old, new = values(before), values(after)
    same = before.machine.identity() == after.machine.identity()
    notes = _notes(before, after)
    changes: list[Change] = []
    for stage, who in sorted(old.keys() & new.keys(), key=str):
        was_ns, now_ns = old[stage, who], new[stage, who]
        trouble = _no_step(old, who) or _no_step(new, who)
        if stage in (STEP, INTERCEPT) and trouble is not None:
            notes += [f"No step of {who}: {trouble}."] if stage == STEP else []
            continue
        name = f"{stage}, {who}"
        if same:
            a, b = ([t / 1e6 for t in side] for side in (was_ns, now_ns))
            changes.append(_change(name, "ms", a, b, stage))
        was = multiples(before, stage, who, was_ns)
        now = multiples(after, stage, who, now_ns)
        if was is not None and now is not None and _rate(before) == _rate(after):
            changes.append(_change(name, "x limit", was, now, stage))
    if not changes:
        raise UsageError(_nothing_in_common(old, new, notes))
    missing = sorted(f"{stage}, {who}" for stage, who in old.keys() ^ new.keys())
    changes.sort(key=lambda change: (change.name, change.unit))
    return Comparison(
        same_machine=same,
        changes=tuple(changes),
        missing=tuple(missing),
        notes=tuple(notes),
    )


def _check_alike(before: Result, after: Result) -> None:
    """Refuse runs whose stages did not measure the same work.

    Raises:
        UsageError: Naming what differs, in which runs, and the remedy.
    """
    model = "Measure the same preset or bundle"
    facts: list[Fact] = [
        ("evaluations", before.decode_evaluations, after.decode_evaluations, model),
        # A file of before does not say its solver.
        ("solver", before.solver or after.solver, after.solver or before.solver, model),
        ("gallery", before.gallery, after.gallery, "Measure with the same --gallery"),
    ]
    # One model may whiten more directions of noise than the other.
    facts += [
        (f"{stage} of", _amount(work), _amount(after.work[stage]), model)
        for stage, work in before.work.items()
        if stage in after.work
    ]
    if before.estimator is not None and after.estimator is not None:
        facts += [
            (what, was, now, "Measure bundles of the same estimator")
            for what, was, now in _settings(before.estimator, after.estimator)
        ]
    if not _is_one_model(before, after):
        facts = [("model", _model(before, after), _model(after, before), model)]
    for what, was, now, remedy in facts:
        if was != now:
            raise UsageError(
                f"compare: expected two runs of the same work, found {what} {was} "
                f"before and {now} after. {remedy}."
            )


def _settings(before: Estimator, after: Estimator) -> Iterator[tuple[str, str, str]]:
    """Yield what decides the work of a volume: kind of input, smoothing, motion."""
    settings: list[dict[str, Any]] = [
        msgspec.to_builtins(one) for one in (before, after)
    ]
    kinds = [one.pop("type") for one in settings]
    yield ("input and estimator", *kinds)
    for name in dict.fromkeys([*settings[0], *settings[1]]):
        was, now = (_shown(one.get(name)) for one in settings)
        yield f"estimator.{name}", was, now


def _shown(setting: object) -> str:
    if setting is None:
        return "none"
    if isinstance(setting, dict):
        return f"({', '.join(f'{name} {value}' for name, value in setting.items())})"
    data = msgspec.json.encode(setting)
    if len(data) > _LONGEST:
        return f"sha256 {hashlib.sha256(data).hexdigest()[:12]}"
    return data.decode()


def _amount(work: Work) -> str:
    return f"{work.flop:,} operations and {work.weights:,} weights"


def _is_one_model(before: Result, after: Result) -> bool:
    if before.sizes is not None or after.sizes is not None:
        return before.sizes == after.sizes
    # Then nothing but its hash, or in older files its name, tells a model.
    if before.bundle_sha256 is None or after.bundle_sha256 is None:
        return before.subject == after.subject
    return before.bundle_sha256 == after.bundle_sha256


def _model(one: Result, other: Result) -> str:
    """Name a run's model so that it differs from the other's."""
    if one.subject != other.subject:
        return one.subject
    if one.sizes is None or other.sizes is None:
        unknown = "of unknown sizes" if one.sizes is None else "of known sizes"
        return f"{one.subject} {_short(one.bundle_sha256)} {unknown}"
    mine, theirs = (msgspec.structs.asdict(x.sizes) for x in (one, other) if x.sizes)
    found = (f"{name} {size}" for name, size in mine.items() if size != theirs[name])
    return f"{one.subject} of {', '.join(found)}"


def _notes(before: Result, after: Result) -> list[str]:
    notes = []
    shas = [one.bundle_sha256 for one in (before, after)]
    if shas[0] != shas[1] or before.subject != after.subject:
        told = [f"{one.subject} {_short(one.bundle_sha256)}" for one in (before, after)]
        perhaps = "Perhaps other" if None in shas else "Other"
        if None in shas or shas[0] != shas[1]:
            notes.append(f"{perhaps} weights of the same sizes: {' and '.join(told)}.")
    if _rate(before) != _rate(after):
        rates = ["/".join(sorted(_rate(one))) or "none" for one in (before, after)]
        notes.append(
            f"The limits are of {rates[0]} before and {rates[1]} after: multiples of "
            "them are not compared."
        )
    fitted = [{one.evaluations for one in run.steps} for run in (before, after)]
    if all(fitted) and fitted[0] != fitted[1]:
        lengths = [
            " and ".join(" ".join(map(str, n)) for n in sorted(side)) for side in fitted
        ]
        notes.append(
            f"The steps are fitted to N = {lengths[0]} before and {lengths[1]} after."
        )
    return notes


def _short(sha256: str | None) -> str:
    return "(sha256 not told)" if sha256 is None else f"(sha256 {sha256[:12]})"


def _rate(result: Result) -> set[str]:
    """Return the precisions whose limits a run measured."""
    return {one.precision for one in result.limits}


def _no_step(found: dict[tuple[str, Who], list[float]], who: Who) -> str | None:
    slopes = found.get((STEP, who))
    return None if slopes is None else no_slope(slopes)


def _nothing_in_common(
    old: Collection[tuple[str, Who]],
    new: Collection[tuple[str, Who]],
    notes: Sequence[str],
) -> str:
    what = "compare: expected runs with a stage and an engine in common, found "
    if set(old) & set(new):
        return f"{what}no figure of both. {' '.join(notes)}".rstrip()
    kinds = ["; ".join(sorted({str(who) for _, who in side})) for side in (old, new)]
    return (
        f"{what}{kinds[0] or 'none'} before and {kinds[1] or 'none'} after. "
        "Measure the same engines, precisions and threads."
    )


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
