"""The charts of accuracy: how often right, against what, and how honestly said."""

from collections.abc import Sequence

from verbs.report.data import ReportTrial
from verbs.report.figures import (
    is_answer,
    number,
    reliability_bins,
    wilson_interval,
)
from verbs.report.svg import Axis, drawing, line, rect, text, tick_text
from verbs.report.text import NOT_APPLICABLE, clean, count, percent


def accuracy_dots(summary: dict[str, object]) -> str:
    """Draw top-1 with its interval beside chance, ridge and the noise ceiling."""
    rows = [
        ("Chance", number(summary, "chance_top1"), "mark-ref"),
        ("Ridge regression", number(summary, "ridge_top1"), "mark-ref"),
        ("This decoder", number(summary, "retrieval_top1"), "mark-own"),
        ("Noise ceiling", number(summary, "noise_ceiling_top1"), "mark-ref"),
    ]
    width, top, pitch = 460.0, 12.0, 60.0
    axis = Axis(0.0, 1.0, 138.0, 384.0)
    bottom = top + pitch * len(rows)
    body = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        body.append(line(axis(tick), top - 4, axis(tick), bottom, "grid"))
        body.append(text(axis(tick), bottom + 17, f"{100 * tick:.0f}", "tick-text mid"))
    body.append(text(width, bottom + 17, "% right", "tick-text end"))
    chance = rows[0][1]
    if chance is not None:
        body.append(line(axis(chance), top - 4, axis(chance), bottom, "chance"))
    words = []
    for i, (name, share, kind) in enumerate(rows):
        y = top + pitch * (i + 0.5)
        weight = " strong" if kind == "mark-own" else ""
        body.append(text(126, y + 4.5, name, f"label end{weight}"))
        shown = NOT_APPLICABLE if share is None else percent(share)
        place = f"label end{weight}" if share is not None else "tick-text end"
        body.append(text(width, y + 4.5, shown, place))
        words.append(f"{name.lower()} {shown}")
        if share is None:
            continue
        n = number(summary, "trials")
        if kind == "mark-own" and n and n > 0:
            low, high = wilson_interval(round(share * n), round(n))
            body.append(line(axis(low), y, axis(high), y, "interval"))
        body.append(
            f'<circle class="{kind}" cx="{axis(share):.1f}" cy="{y:.1f}" r="6"/>'
        )
    return drawing(width, bottom + 26, body, "Share right: " + ", ".join(words) + ".")


def reliability(trials: Sequence[ReportTrial]) -> str:
    """Draw how often answers of each confidence were right, with their counts."""
    bins = reliability_bins(trials)
    if not bins:
        return '<p class="empty">No answer with a confidence to compare.</p>'
    width, height = 460.0, 440.0
    across = Axis(0.0, 1.0, 56.0, width - 14)
    up = Axis(0.0, 1.0, 316.0, 14.0)
    strip = Axis(0.0, float(max(b.n for b in bins)), 392.0, 352.0)
    body = []
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        label = f"{100 * tick:.0f}"
        body.append(line(across(0), up(tick), across(1), up(tick), "grid"))
        body.append(text(48, up(tick) + 4, label, "tick-text end"))
        body.append(text(across(tick), 410, label, "tick-text mid"))
    body.append(line(across(0), up(0), across(1), up(1), "diagonal"))
    body.append(line(across(0), strip(0), across(1), strip(0), "axis"))
    body.append(text(across(0.5), 432, "stated confidence, %", "tick-text mid"))
    body.append(_upright(14, 165, "answers right, %"))
    body.append(_upright(14, 372, "count"))
    words = []
    for b in bins:
        x, share = across(b.mean_confidence), b.n_right / b.n
        low, high = wilson_interval(b.n_right, b.n)
        body.append(line(x, up(low), x, up(high), "interval"))
        body.append(
            f'<circle class="mark-own" cx="{x:.1f}" cy="{up(share):.1f}" r="5.5"/>'
        )
        left, right = across(b.low), across(b.high)
        body.append(
            rect(left + 2, strip(b.n), right - left - 4, strip(0) - strip(b.n), "bar")
        )
        body.append(
            text((left + right) / 2, strip(b.n) - 4, count(b.n), "tick-text mid")
        )
        words.append(
            f"{100 * b.low:.0f} to {100 * b.high:.0f} %: {b.n_right} of {b.n} right"
        )
    return drawing(width, height, body, "By confidence. " + "; ".join(words) + ".")


def reliability_words(trials: Sequence[ReportTrial]) -> str:
    """Say in one sentence whether the confidence was too high or too low."""
    answers = [trial for trial in trials if is_answer(trial)]
    if not answers:
        return ""
    stated = sum(trial.confidence or 0.0 for trial in answers) / len(answers)
    n_right = sum(trial.is_correct for trial in answers)
    low, high = wilson_interval(n_right, len(answers))
    verdict = (
        "the stated mean lies within this interval"
        if low <= stated <= high
        else "the stated mean lies above it, too sure"
        if stated > high
        else "the stated mean lies below it, not sure enough"
    )
    return (
        f"Mean confidence {percent(stated)}; {count(n_right)} of "
        f"{count(len(answers))} answers right, {percent(n_right / len(answers))} "
        f"(95\u00a0% interval {percent(low)} to {percent(high)}): {verdict}."
    )


def category_bars(trials: Sequence[ReportTrial], chance: float | None) -> str:
    """Draw the share right of each category seen, with counts and intervals."""
    seen = sorted({trial.seen_label for trial in trials})
    if not seen:
        return '<p class="empty">No trials.</p>'
    width, top, pitch = 460.0, 10.0, 30.0
    axis = Axis(0.0, 1.0, 120.0, 376.0)
    bottom = top + pitch * len(seen)
    body = []
    for tick in (0.0, 0.5, 1.0):
        body.append(line(axis(tick), top, axis(tick), bottom, "grid"))
        body.append(
            text(axis(tick), bottom + 17, tick_text(100 * tick), "tick-text mid")
        )
    body.append(text(width, bottom + 17, "% right", "tick-text end"))
    words = []
    for i, label in enumerate(seen):
        inside = [trial for trial in trials if trial.seen_label == label]
        n_right = sum(trial.is_correct for trial in inside)
        low, high = wilson_interval(n_right, len(inside))
        y = top + pitch * (i + 0.5)
        share = n_right / len(inside)
        body.append(text(110, y + 4.5, _short(label), "label end"))
        body.append(rect(axis(0), y - 8, axis(share) - axis(0), 16, "bar"))
        body.append(line(axis(low), y, axis(high), y, "interval on-bar"))
        body.append(text(width, y + 4.5, f"{n_right} of {len(inside)}", "label end"))
        words.append(f"{label} {n_right} of {len(inside)}")
    if chance is not None:
        body.append(line(axis(chance), top, axis(chance), bottom, "chance"))
    return drawing(width, bottom + 26, body, "Right: " + ", ".join(words) + ".")


def _short(label: str, length: int = 15) -> str:
    label = clean(label)
    return label if len(label) <= length else label[: length - 1] + "\u2026"


def _upright(x: float, y: float, content: str) -> str:
    return (
        f'<text class="tick-text mid" transform="translate({x:.0f} {y:.0f}) '
        f'rotate(-90)">{content}</text>'
    )
