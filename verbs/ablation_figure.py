"""Ablations in one picture: variants on the left, paths and solvers against steps."""

from collections.abc import Sequence
from statistics import median
from typing import Final

from training.ablation import FULL, PUBLISHED, SERVED, STEPS
from training.resample import Interval
from verbs.ablation_table import Row, Summary, parts_rows, sampled, swept_rows
from verbs.report.svg import Axis, line, standalone, text, tick_text

WIDTH: Final = 1000.0
TOP: Final = 74.0
PITCH: Final = 32.0
STYLE: Final = """
text{font:13px system-ui,"DejaVu Sans",sans-serif;fill:#171a20}
.tick-text{fill:#4d5563;font-size:12px}.mid{text-anchor:middle}.end{text-anchor:end}
.strong{font-weight:650}.paper{fill:#ffffff}.grid{stroke:#e3e6eb}
.full{stroke:#4d5563;stroke-dasharray:4 4}.interval{stroke:#171a20;stroke-width:1.5}
.dot{fill:#171a20}.curve{fill:none;stroke-width:2}.dashed{stroke-dasharray:6 4}
.s0{stroke:#0b5fa5}.s1{stroke:#b3420a}.s2{stroke:#15795a}.s3{stroke:#8a3f9e}
.m0{fill:#0b5fa5}.m1{fill:#b3420a}.m2{fill:#15795a}.m3{fill:#8a3f9e}
@media (prefers-color-scheme:dark){
text{fill:#eceef2}.tick-text{fill:#aeb6c2}.paper{fill:#12151a}.grid{stroke:#2b3038}
.full{stroke:#aeb6c2}.interval{stroke:#eceef2}.dot{fill:#eceef2}
.s0{stroke:#6cb4f0}.s1{stroke:#f29a5f}.s2{stroke:#5cc9a0}.s3{stroke:#d49be4}
.m0{fill:#6cb4f0}.m1{fill:#f29a5f}.m2{fill:#5cc9a0}.m3{fill:#d49be4}
}
"""
_MEASURES: Final = (
    ("three", "Retrieval, 1 of 300, three trials"),
    ("encoding", "Encoding, r across images"),
)
_SERIES: Final[tuple[tuple[str, str], ...]] = (
    ("cos", "euler"),
    ("cos", "rotation"),
    ("cos2", "euler"),
    ("linear", "euler"),
)
_MARKS: Final[tuple[str, ...]] = (
    "m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0",
    "m-4 -4h8v8h-8z",
    "m0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
    "m0 -5l5 9h-10z",
)
"""A circle, a square, a diamond and a triangle: colour is not all that tells apart."""


def ablation_figure(summary: Summary) -> str:
    """Draw the whole figure as one file, legible on light and dark pages."""
    # One dot a variant: what both samplers give is in the table.
    rows = [r for r in parts_rows(summary) if r.variant == FULL or r.sampler != SERVED]
    bottom = TOP + PITCH * len(rows)

    def fewer(row: Row) -> str:
        return "" if row.seeds == summary.seeds else " *"

    body = [text(10, 24, "Variants", "strong")]
    body += [
        text(178, TOP + PITCH * (i + 0.5) + 4, _name(row) + fewer(row), "end")
        for i, row in enumerate(rows)
    ]
    for number, (measure, title) in enumerate(_MEASURES):
        left = 196.0 + 184.0 * number
        body.append(text(left, TOP - 14, title.partition(",")[0], "tick-text"))
        body += _dots(rows, measure, left, left + 160, bottom)
    if any(map(fewer, rows)):
        said = "* with fewer participants than the full model"
        body.append(text(196, bottom + 60, said, "tick-text"))
    note = "mean, 95 % over images and participants; dashed: the full model"
    body.append(text(196, bottom + 42, note, "tick-text"))
    note = "bar at the right: median 95 % interval of a difference"
    body.append(text(WIDTH - 12, bottom + 42, note, "tick-text end"))
    body.append(text(600, 24, "Paths and solvers against steps N", "strong"))
    body += _legend(600.0, 46.0)
    half = (bottom - TOP - 58) / 2
    for number, (measure, title) in enumerate(_MEASURES):
        above = TOP + 26 + number * (half + 46)
        body.append(text(600, above - 10, title, "tick-text"))
        body += _curves(swept_rows(summary), measure, above, above + half - 14)
    return standalone(WIDTH, bottom + 70, body, _words(rows), STYLE)


def _name(row: Row) -> str:
    if row.variant == FULL:
        return f"full, {sampled(row)}"
    return row.label


def _value(row: Row, measure: str) -> Interval:
    found: Interval = getattr(row.figures, measure)
    return found


def _limits(values: Sequence[Interval]) -> tuple[float, float]:
    low = min([0.0, *(value.low for value in values)])
    return 1.05 * low, 1.05 * max([0.01, *(value.high for value in values)])


def _dots(
    rows: Sequence[Row], measure: str, left: float, right: float, bottom: float
) -> list[str]:
    values = [_value(row, measure) for row in rows]
    axis = Axis(*_limits(values), left, right)
    body = []
    for tick in axis.ticks[:: 2 if len(axis.ticks) > 4 else 1]:
        body.append(line(axis(tick), TOP - 4, axis(tick), bottom, "grid"))
        body.append(text(axis(tick), bottom + 18, tick_text(tick), "tick-text mid"))
    for row, value in zip(rows, values, strict=True):
        if row.variant == FULL and row.sampler == PUBLISHED:
            x = axis(value.mean)
            body.append(line(x, TOP - 4, x, bottom, "full"))
    for i, value in enumerate(values):
        y = TOP + PITCH * (i + 0.5)
        body.append(line(axis(value.low), y, axis(value.high), y, "interval"))
        x = axis(value.mean)
        body.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')
    return body


def _legend(left: float, y: float) -> list[str]:
    body = []
    for i, (path, solver) in enumerate(_SERIES):
        x, row_y = left + 190 * (i % 2), y + 18 * (i // 2)
        body.append(_curve([(x, row_y - 4), (x + 30, row_y - 4)], i))
        body.append(_mark(x + 15, row_y - 4, i))
        body.append(text(x + 38, row_y, f"path {path}, {solver}", "tick-text"))
    return body


def _curves(rows: Sequence[Row], measure: str, top: float, bottom: float) -> list[str]:
    across = Axis(STEPS[0], STEPS[-1], 646.0, WIDTH - 30, is_log=True)
    means = [_value(row, measure).mean for row in rows]
    room = 0.08 * (max(means) - min(means)) or 0.01
    up = Axis(min(means) - room, max(means) + room, bottom, top)
    body = []
    for tick in up.ticks:
        body.append(line(634, up(tick), WIDTH - 18, up(tick), "grid"))
        body.append(text(628, up(tick) + 4, tick_text(tick), "tick-text end"))
    body += [text(across(n), bottom + 18, n, "tick-text mid") for n in STEPS]
    for i, (path, solver) in enumerate(_SERIES):
        points = [
            (across(row.sampler.steps), up(_value(row, measure).mean))
            for row in rows
            if row.path == path and row.sampler and row.sampler.solver == solver
        ]
        if points:
            body.append(_curve(points, i))
            body += [_mark(x, y, i) for x, y in points]
    # As long as what chance alone may part two of these points by.
    half = up.start - up(up.low + _median_width(rows, measure))
    middle = (top + bottom) / 2
    body.append(
        line(WIDTH - 7, middle - half / 2, WIDTH - 7, middle + half / 2, "interval")
    )
    return body


def _median_width(rows: Sequence[Row], measure: str) -> float:
    known = [row.difference for row in rows if row.difference is not None]
    found = [getattr(difference, measure) for difference in known]
    return median(interval.high - interval.low for interval in found) if found else 0.0


def _curve(points: Sequence[tuple[float, float]], i: int) -> str:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    kind = " dashed" if _SERIES[i][1] == "rotation" else ""
    return f'<path class="curve s{i}{kind}" d="M{path}"/>'


def _mark(x: float, y: float, i: int) -> str:
    return f'<path class="m{i}" d="M{x:.1f} {y:.1f}{_MARKS[i]}"/>'


def _words(rows: Sequence[Row]) -> str:
    said = (
        f"{_name(row)}: retrieval {row.figures.three.mean:.2f}, "
        f"encoding r {row.figures.encoding.mean:.2f}"
        for row in rows
    )
    return "; ".join(said)
