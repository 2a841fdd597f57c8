"""Ablations in one table: every variant's figures, paired with the full model's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from jaxtyping import Float64, Int64

from runtime.errors import ConfigError
from training.ablation import FULL, PUBLISHED, SERVED, VARIANTS, Sampler, Variant
from training.ablation_judge import Judged, Judgement
from training.metrics.intervals import image_interval, paired_interval
from training.metrics.published import ABLATIONS
from training.metrics.published_tables import ablation_table, head
from training.resample import Interval


class VariantResult(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """One variant of one participant, as it is kept between runs."""

    seed: int
    variant: str
    path: str
    config_sha256: str
    table_sha256: str
    machine: str
    cpu_s: float
    judgement: Judgement


class Figures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shares of hits and r across images, each with its interval."""

    single: Interval
    three: Interval
    encoding: Interval
    raw: Interval
    synthetic: Interval


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One variant with one sampler, over participants."""

    variant: str
    label: str
    path: str
    sampler: Sampler | None
    evaluations: int
    """Of the velocity, to decode once."""
    seeds: list[int]
    figures: Figures
    difference: Figures | None
    """To the full model, pair by pair; None for the row that all are held against."""
    round_trip: float | None
    by_seed: dict[int, dict[str, float]]
    """The means of `figures`, of each participant alone."""


class Summary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `docs/ablations.json` holds."""

    seeds: list[int]
    machine: str
    table_sha256: str
    config_sha256: str
    """Of the full model."""
    trials: int
    """Held-out trials of each participant."""
    images: int
    chance: float
    rows: list[Row]


Values = Float64[np.ndarray, " values"]
Groups = Int64[np.ndarray, " values"]
_MEASURES: Final[Mapping[str, Callable[[Judgement, Judged], Sequence[float]]]] = {
    "single": lambda _whole, one: one.single,
    "three": lambda _whole, one: one.three,
    "encoding": lambda _whole, one: one.encoding,
    "raw": lambda whole, _one: whole.raw,
    "synthetic": lambda _whole, one: one.synthetic,
}


def summary_of(results: Sequence[VariantResult]) -> Summary:
    """Gather the variants of all participants.

    A variant is compared over the participants that have it and the full model.

    Args:
        results: Any number of them, in any order.

    Raises:
        ConfigError: No full model is among them, or they are of different tables.
    """
    tables = sorted({result.table_sha256 for result in results})
    full = {r.seed: r for r in results if r.variant == FULL}
    if not full:
        raise ConfigError(
            f"ablations: expected results of the variant {FULL}, which all others are "
            "held against, found none. Run it first."
        )
    if len(tables) > 1:
        raise ConfigError(
            f"ablations: expected participants of one table, found {', '.join(tables)}"
        )
    first = full[min(full)]
    rows = []
    for name, variant in VARIANTS.items():
        own = {r.seed: r for r in results if r.variant == name and r.seed in full}
        if own:
            base = {seed: full[seed] for seed in own}
            rows += _rows(variant, own, base)
    return Summary(
        seeds=sorted(full),
        machine=first.machine,
        table_sha256=tables[0],
        config_sha256=first.config_sha256,
        trials=len(first.judgement.image),
        images=len(first.judgement.images),
        chance=1 / first.judgement.gallery,
        rows=rows,
    )


def _rows(
    variant: Variant, own: dict[int, VariantResult], full: dict[int, VariantResult]
) -> list[Row]:
    rows = []
    seeds = sorted(own)
    path = own[seeds[0]].path
    for sampler in variant.samplers(path):
        # A part is taken away, all else equal: so is the sampler. Where the sampler is
        # what changes, and where there is none, the published one is the measure.
        is_reference = variant.name == FULL and sampler == PUBLISHED
        like = PUBLISHED if variant.is_swept or sampler is None else sampler
        pairs = [(_of(own[s], sampler), _of(full[s], like), s) for s in seeds]
        trips = [one.round_trip for (_, one), _, _ in pairs]
        known = [trip for trip in trips if trip is not None]
        rows.append(
            Row(
                variant=variant.name,
                label=variant.label,
                path=path,
                sampler=sampler,
                evaluations=0 if sampler is None else sampler.evaluations,
                seeds=seeds,
                figures=Figures(**{m: _interval(pairs, m) for m in _MEASURES}),
                difference=None
                if is_reference
                else Figures(**{m: _paired(pairs, m) for m in _MEASURES}),
                round_trip=float(np.mean(known)) if known else None,
                by_seed={s: _means(half) for half, _, s in pairs},
            )
        )
    return rows


_Half = tuple[Judgement, Judged]
_Pair = tuple[_Half, _Half, int]


def _of(result: VariantResult, sampler: Sampler | None) -> _Half:
    for one in result.judgement.judged:
        if one.sampler == sampler:
            return result.judgement, one
    raise ConfigError(
        f"ablations: {result.variant} of seed {result.seed}: expected a result of "
        f"{sampler}, found none. Remove it and run it again."
    )


def _values(halves: Sequence[_Half], measure: str) -> Values:
    rows = [np.asarray(_MEASURES[measure](*half), np.float64) for half in halves]
    return np.concatenate(rows)


def _means(half: _Half) -> dict[str, float]:
    return {m: float(np.mean(of(*half))) for m, of in _MEASURES.items()}


def _groups(pairs: Sequence[_Pair], measure: str) -> tuple[Groups, Groups]:
    """Return what each value is about, and whose it is."""
    images, people = [], []
    for (whole, _), _, seed in pairs:
        shown = whole.image if measure == "single" else whole.images
        images.append(np.asarray(shown, np.int64))
        people.append(np.full(len(shown), seed, np.int64))
    return np.concatenate(images), np.concatenate(people)


def _interval(pairs: Sequence[_Pair], measure: str) -> Interval:
    images, people = _groups(pairs, measure)
    ours = _values([own for own, _, _ in pairs], measure)
    rng = np.random.default_rng(0)
    return image_interval(ours, rng, images=images, participants=people)


def _paired(pairs: Sequence[_Pair], measure: str) -> Interval:
    images, people = _groups(pairs, measure)
    ours = _values([own for own, _, _ in pairs], measure)
    full = _values([base for _, base, _ in pairs], measure)
    rng = np.random.default_rng(0)
    return paired_interval(ours, full, rng, images=images, participants=people)


_COLUMNS: Final = {
    "single": "one trial",
    "three": "three trials",
    "encoding": "encoding r",
    "raw": "raw",
    "synthetic": "self-consistency",
}


def sampled(row: Row) -> str:
    """Name a row's sampler in words."""
    if row.sampler is None:
        return "none"
    return f"{row.sampler.solver}, {row.sampler.steps}"


def parts_rows(summary: Summary) -> list[Row]:
    """Return the rows of the variants, as published and as served."""
    return [row for row in summary.rows if row.sampler in (None, PUBLISHED, SERVED)]


def swept_rows(summary: Summary) -> list[Row]:
    """Return the rows of paths, solvers and steps."""
    return [row for row in summary.rows if VARIANTS[row.variant].is_swept]


def markdown(summary: Summary) -> str:
    """Write the tables: parts, their differences, samplers, and what was published."""
    people = ", ".join(map(str, summary.seeds))
    several = "s" if len(summary.seeds) > 1 else ""
    lines = [
        f"{len(summary.seeds)} participant{several}, seed{several} {people}, "
        f"{summary.trials} held-out "
        f"trials of {summary.images} images each, {summary.machine}. "
        f"Chance {summary.chance:.4f}.",
        "",
        *head(["variant", "sampler", *_COLUMNS.values(), "round trip", "evaluations"]),
    ]
    for row in parts_rows(summary):
        f = row.figures
        cells = " | ".join(f"{getattr(f, name).mean:.3f}" for name in _COLUMNS)
        lines.append(
            f"| {row.label}{_missing(row, summary)} | {sampled(row)} | {cells} | "
            f"{_plain(row.round_trip)} | {row.evaluations} |"
        )
    lines += ["", *head(["minus the full model", *_COLUMNS.values()])]
    for row in parts_rows(summary):
        if row.difference is not None:
            cells = " | ".join(_signed(getattr(row.difference, n)) for n in _COLUMNS)
            lines.append(
                f"| {row.label}, {sampled(row)}{_missing(row, summary)} | {cells} |"
            )
    lines += ["", *_sampler_table(summary), "", *ablation_table(ABLATIONS)]
    return "\n".join(lines) + "\n"


def _sampler_table(summary: Summary) -> list[str]:
    columns = ["path", "solver, steps", "evaluations", "one trial", "three trials"]
    columns += ["minus full, euler, 20", "encoding r", "minus full, euler, 20"]
    lines = head([*columns, "round trip"])
    for row in swept_rows(summary):
        f, d = row.figures, row.difference
        lines.append(
            f"| {row.path} | {sampled(row)} | {row.evaluations} | "
            f"{f.single.mean:.3f} | {f.three.mean:.3f} | "
            f"{_signed(d.three) if d else '-'} | {f.encoding.mean:.3f} | "
            f"{_signed(d.encoding) if d else '-'} | {_plain(row.round_trip)} |"
        )
    for path in dict.fromkeys(row.path for row in swept_rows(summary)):
        if not any(r.path == path and "rotation" in sampled(r) for r in summary.rows):
            lines.append(f"| {path} | rotation | not applicable | | | | | | |")
    return lines


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _signed(interval: Interval) -> str:
    if interval.low == interval.high == 0:
        return "0"  # the same answers, as from the same NeuroVAE
    return f"{interval.mean:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def _missing(row: Row, summary: Summary) -> str:
    if row.seeds == summary.seeds:
        return ""
    return f" (seeds {', '.join(map(str, row.seeds))})"
