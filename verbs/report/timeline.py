"""The charts of time: when each volume was answered, and how the latencies spread."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from verbs.report.data import Report, VolumeTiming
from verbs.report.figures import latencies_ms, number, percentile
from verbs.report.svg import (
    Axis,
    dots,
    drawing,
    line,
    log_limits,
    rect,
    text,
    tick_text,
)
from verbs.report.text import TOO_FEW, bare_ms, count, milliseconds

LOG_FROM_RATIO = 20.0
"""A range of latencies wider than this is drawn on a logarithmic axis."""
SHOWN_PERCENTILES = (0.5, 0.9, 0.99)
EMPTY = '<p class="empty">No volume was timed.</p>'


@dataclass(frozen=True, slots=True)
class _Limits:
    low: float
    high: float
    is_log: bool

    def axis(self, start: float, end: float) -> Axis:
        return Axis(self.low, self.high, start, end, self.is_log)


def _limits(report: Report, deadline_ms: float | None) -> _Limits:
    values = [*latencies_ms(report, is_live=True), *latencies_ms(report, is_live=False)]
    if deadline_ms is not None:
        values.append(deadline_ms)
    low, high = min(values), max(values)
    if high / low > LOG_FROM_RATIO:
        return _Limits(*log_limits((low, high * 1.05)), is_log=True)
    return _Limits(0.0, high * 1.08, is_log=False)


def deadline_ms(report: Report) -> float | None:
    """Return the TR in milliseconds, the time that a volume has."""
    tr_s = number(report.summary, "tr_s")
    return None if tr_s is None or tr_s <= 0 else 1000 * tr_s


def latency_over_time(report: Report, *, width: float, kind: str) -> str:
    """Draw the latency of every volume; live and fast runs in panels of their own."""
    if not any(latencies_ms(report, is_live=is_live) for is_live in (True, False)):
        return EMPTY
    due = deadline_ms(report)
    limits = _limits(report, due)
    groups = [
        (name, drawn, mark)
        for name, drawn, mark in (
            ("Live, paced at the TR", _timed(report, is_live=True), "live"),
            ("Fast, at full speed", _timed(report, is_live=False), "fast"),
        )
        if drawn
    ]
    is_wide = width > 700
    left, gap, height = 58.0, 26.0, 250.0
    room = width - left - 12
    panels = []
    for i, (name, timed, mark) in enumerate(groups):
        if is_wide and len(groups) == 2:
            size = (room - gap) / 2
            x, y = left + i * (size + gap), 0.0
        else:
            size, x, y = room, left, i * (height + 30)
        panels.append(
            _panel(name, timed, mark, limits, due, x, y, size, not is_wide or i == 0)
        )
    total = height if is_wide or len(groups) == 1 else 2 * height + 30
    words = "; ".join(
        f"{name.lower()}: {count(len(timed))} volumes from "
        f"{milliseconds(min(t.latency_ms for t in timed))} to "
        f"{milliseconds(max(t.latency_ms for t in timed))}"
        for name, timed, _ in groups
    )
    return drawing(width, total + 4, panels, f"Latency over time. {words}.", kind)


def _timed(report: Report, *, is_live: bool) -> list[VolumeTiming]:
    return [
        t
        for t in report.timings
        if t.is_live == is_live and math.isfinite(t.latency_ms) and t.latency_ms > 0
    ]


def _panel(
    name: str,
    timed: Sequence[VolumeTiming],
    mark: str,
    limits: _Limits,
    due: float | None,
    x: float,
    y: float,
    width: float,
    has_labels: bool,
) -> str:
    up = limits.axis(y + 206, y + 28)
    first = min(t.elapsed_s for t in timed)
    last = max(t.elapsed_s for t in timed)
    across = Axis(first, last if last > first else first + 1.0, x + 4, x + width - 4)
    body = [text(x, y + 14, name, "label strong")]
    for tick in up.ticks:
        body.append(line(x, up(tick), x + width, up(tick), "grid"))
        if has_labels:
            body.append(text(x - 8, up(tick) + 4, tick_text(tick), "tick-text end"))
    if has_labels:
        body.append(text(x - 8, y + 14, "ms", "tick-text end"))
    for tick in across.ticks:
        body.append(line(across(tick), y + 206, across(tick), y + 211, "axis"))
        body.append(text(across(tick), y + 226, tick_text(tick), "tick-text mid"))
    body.append(line(x, y + 206, x + width, y + 206, "axis"))
    body.append(
        text(x + width / 2, y + 244, "s since the session began", "tick-text mid")
    )
    if due is not None:
        words = f"TR = {bare_ms(due)} ms"
        body.append(line(x, up(due), x + width, up(due), "deadline"))
        body.append(text(x + width - 2, up(due) + 15, words, "deadline-text end"))
    late = [t for t in timed if t.timing == "LATE"]
    body.append(
        dots(
            (
                (across(t.elapsed_s), up(t.latency_ms))
                for t in timed
                if t.timing != "LATE"
            ),
            mark,
        )
    )
    body.extend(_cross(across(t.elapsed_s), up(t.latency_ms)) for t in late)
    if late:
        words = f"\u00d7 late: {count(len(late))}"
        body.append(text(x + width, y + 14, words, "deadline-text end"))
    return "".join(body)


def _cross(x: float, y: float) -> str:
    return f'<path class="late" d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"/>'


def latency_histogram(report: Report, *, is_live: bool, n_bins: int = 32) -> str:
    """Draw how the latencies of live, or fast, volumes spread, with percentiles."""
    values = latencies_ms(report, is_live=is_live)
    name = "Live volumes" if is_live else "Fast volumes"
    if not values:
        return ""
    limits = _limits(report, None)
    width, bottom, top = 460.0, 196.0, 74.0
    across = limits.axis(48.0, width - 16)
    step = (across.end - across.start) / n_bins
    counts = [0] * n_bins
    for value in values:
        counts[min(int((across(value) - across.start) / step), n_bins - 1)] += 1
    up = Axis(0.0, float(max(counts)), bottom, top)
    body = [text(0, 14, f"{name}, n = {count(len(values))}", "label strong")]
    for tick in (t for t in up.ticks if t == int(t)):
        body.append(line(across.start, up(tick), across.end, up(tick), "grid"))
        body.append(text(across.start - 8, up(tick) + 4, count(tick), "tick-text end"))
    kind = "bar" if is_live else "bar bar-fast"
    for i, n in enumerate(counts):
        x = across.start + i * step
        body.append(rect(x + 0.5, up(n), step - 1, bottom - up(n), kind))
    body.append(text(across.start - 8, top - 8, "count", "tick-text end"))
    body.append(line(across.start, bottom, across.end, bottom, "axis"))
    body.extend(
        text(across(tick), bottom + 17, tick_text(tick), "tick-text mid")
        for tick in across.ticks
    )
    body.append(text(width, bottom + 36, "latency, ms", "tick-text end"))
    too_few = []
    words = []
    for row, p in enumerate(SHOWN_PERCENTILES):
        mark = percentile(values, p)
        if mark is None:
            too_few.append(f"p{100 * p:g}")
            continue
        words.append(f"p{100 * p:g} = {milliseconds(mark)}")
        body.extend(_percentile_mark(across, mark, words[-1], 32 + 15 * row, bottom))
    if too_few:
        note = f"{', '.join(too_few)}: {TOO_FEW}"
        body.append(text(0, bottom + 36, note, "tick-text"))
    sentence = f"{name}: {count(len(values))} latencies. {'; '.join(words)}."
    return drawing(width, bottom + 44, body, sentence)


def _percentile_mark(
    across: Axis, value: float, words: str, y: float, bottom: float
) -> list[str]:
    x = across(value)
    is_right = x > across.start + 0.6 * (across.end - across.start)
    place = "end" if is_right else ""
    return [
        line(x, y - 9, x, bottom, "percentile"),
        text(x - 5 if is_right else x + 5, y, words, f"label halo {place}"),
    ]
