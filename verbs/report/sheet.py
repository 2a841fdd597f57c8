"""The session as one picture, for places that show no pages."""

import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from verbs.report.cards import N_CANDIDATES, NO_ANSWER
from verbs.report.data import Picture, Report, ReportTrial
from verbs.report.figures import answered_label, is_answer, is_enough_for, number
from verbs.report.text import (
    NOT_APPLICABLE,
    another,
    count,
    milliseconds,
    percent,
    seconds,
)

WIDTH = 1400
MARGIN = 32
GAP = 20
HEAD = 196
SIDE = 96
"""Side of a picture in a cell, three times a stimulus of 32 pixels."""
# An opaque light ground with a frame: the same picture is legible on light and on
# dark pages. Contrast of every text colour on white is at least 4.5 (WCAG 2.2, AA).
PAPER, SURFACE, RULE = "#f1f3f6", "#ffffff", "#c3c9d3"
INK, SOFT, OWN = "#171a20", "#535b69", "#1c5d99"
RIGHT, WRONG = "#0a6b4a", "#a8321a"
_SHARP = 4
"""Signs are drawn this many times larger and reduced, for smooth edges."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(report: Report, columns: int = 2, limit: int = 16) -> Image.Image:
    """Draw the trials of a session with its key figures.

    Args:
        report: The session; live trials are shown, or fast ones where none is live.
        columns: Cells beside one another, one or two.
        limit: Trials at most; where there are more, evenly spaced ones are shown.

    Returns:
        An RGB picture `WIDTH` pixels wide.
    """
    trials = report.live_trials or report.fast_trials
    n_shown = min(len(trials), limit)
    shown = [trials[i * len(trials) // n_shown] for i in range(n_shown)]
    cell_height = SIDE + 108 if report.has_images else 76
    n_rows = -(-len(shown) // columns)
    height = HEAD + n_rows * (cell_height + GAP) + MARGIN - GAP
    sheet = Image.new("RGB", (WIDTH, max(height, HEAD)), PAPER)
    draw = ImageDraw.Draw(sheet)
    _head(draw, report, trials, n_shown)
    cell_width = (WIDTH - 2 * MARGIN - (columns - 1) * GAP) // columns
    for i, trial in enumerate(shown):
        x = MARGIN + (i % columns) * (cell_width + GAP)
        y = HEAD + (i // columns) * (cell_height + GAP)
        box = (x, y, x + cell_width, y + cell_height)
        draw.rounded_rectangle(box, 8, fill=SURFACE, outline=RULE)
        if report.has_images:
            _picture_cell(sheet, draw, trial, x + 16, y + 12, cell_width - 32)
        else:
            _label_cell(sheet, draw, trial, x + 16, y + 12, cell_width - 32)
    draw.rectangle((0, 0, WIDTH - 1, sheet.height - 1), outline=RULE)
    return sheet


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _plain(text: str) -> str:
    """Reduce to the letters that Pillow's own font has."""
    text = text.replace("\u00a0", " ").replace("\u2212", "-")
    known = unicodedata.normalize("NFKD", text)
    kept = (c for c in known if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" else "?" for c in kept)


def _fit(text: str, font: Font, width: float) -> str:
    text = _plain(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _write(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: int,
    fill: str = INK,
    width: float = WIDTH,
    anchor: str = "ls",
) -> None:
    font = _font(size)
    draw.text(at, _fit(text, font, width), fill=fill, font=font, anchor=anchor)


def _head(
    draw: ImageDraw.ImageDraw,
    report: Report,
    trials: Sequence[ReportTrial],
    n_shown: int,
) -> None:
    summary = report.summary
    _write(draw, (MARGIN, 54), report.title, 32, width=WIDTH - 2 * MARGIN)
    n_latency = number(summary, "latency_ms", "n")
    figures = [("top-1", percent(number(summary, "retrieval_top1")))]
    for name, key in (
        ("chance", "chance_top1"),
        ("ridge", "ridge_top1"),
        ("noise ceiling", "noise_ceiling_top1"),
    ):
        figures.append((name, percent(number(summary, key))))
    for name, p in (("p50", 0.5), ("p99", 0.99)):
        value = number(summary, "latency_ms", name)
        is_enough = n_latency is None or is_enough_for(round(n_latency), p)
        shown = milliseconds(value) if is_enough else "n too small"
        figures.append((f"latency {name}", shown))
    figures.append(("answer delay", seconds(number(summary, "answer_delay_s"))))
    pitch = (WIDTH - 2 * MARGIN) / len(figures)
    for i, (name, shown) in enumerate(figures):
        x = MARGIN + i * pitch
        size = 18 if shown in (NOT_APPLICABLE, "n too small") else 28
        colour = OWN if i == 0 else INK
        _write(draw, (x, 108), shown, size, colour, pitch - 8)
        _write(draw, (x, 132), name, 17, SOFT, pitch - 8)
    kind = "live" if report.live_trials else "fast"
    n = len(trials)
    which = f"all {n}" if n_shown == n else f"{n_shown} of {n}, evenly spaced,"
    n_all = count(number(summary, "trials"))
    words = f"Figures over {n_all} trials. Below: {which} {kind} trials in order"
    n_right = sum(trial.is_correct for trial in trials)
    words += f"; {n_right} of {n} right." if n else "."
    if report.has_images:
        words += " 1, 2, 3: nearest in the gallery; green frame: the picture seen."
    _write(draw, (MARGIN, 174), words, 17, SOFT, WIDTH - 2 * MARGIN)


def _sign(sheet: Image.Image, x: int, y: int, trial: ReportTrial) -> None:
    """Draw a check, a cross or a dash in a disc of 24 pixels."""
    size = 24 * _SHARP
    disc = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(disc)
    lines: list[list[tuple[float, float]]]
    if trial.decision != "ANSWER":
        fill, lines = SOFT, [[(0.3, 0.5), (0.7, 0.5)]]
    elif trial.is_correct:
        fill, lines = RIGHT, [[(0.26, 0.52), (0.44, 0.7), (0.75, 0.33)]]
    else:
        fill = WRONG
        lines = [[(0.32, 0.32), (0.68, 0.68)], [(0.68, 0.32), (0.32, 0.68)]]
    draw.ellipse((0, 0, size - 1, size - 1), fill=fill)
    for points in lines:
        scaled = [(px * size, py * size) for px, py in points]
        draw.line(scaled, fill="#ffffff", width=size // 9, joint="curve")
    small = disc.resize((24, 24), Image.Resampling.LANCZOS)
    sheet.paste(small, (x, y), small)


def _verdict(trial: ReportTrial) -> tuple[str, str]:
    if trial.decision != "ANSWER":
        return NO_ANSWER.get(trial.decision, trial.decision.lower()), SOFT
    return ("right", RIGHT) if trial.is_correct else ("wrong", WRONG)


def _title_line(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    trial: ReportTrial,
    x: int,
    y: int,
    width: int,
) -> None:
    """Write sign, verdict and trial on the left, the confidence bar on the right."""
    _sign(sheet, x, y, trial)
    words, colour = _verdict(trial)
    _write(draw, (x + 32, y + 18), words, 18, colour, 110)
    _write(draw, (x + 140, y + 18), trial.trial_id, 16, SOFT, width - 470)
    right = x + width
    if not is_answer(trial):
        _write(draw, (right, y + 18), "no confidence", 16, SOFT, anchor="rs")
        return
    share = min(max(trial.confidence or 0.0, 0.0), 1.0)
    _write(draw, (right, y + 18), percent(share), 18, anchor="rs")
    bar = (right - 190, y + 7, right - 70, y + 17)
    draw.rectangle(bar, fill="#e6e9ee", outline=SOFT)
    draw.rectangle((bar[0], bar[1], bar[0] + 120 * share, bar[3]), fill=OWN)
    _write(draw, (right - 200, y + 18), "confidence", 16, SOFT, anchor="rs")


def _paste(sheet: Image.Image, image: Picture | None, x: int, y: int) -> None:
    draw = ImageDraw.Draw(sheet)
    if image is None:
        draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline=SOFT)
        _write(draw, (x + SIDE / 2, y + SIDE / 2), "no image", 15, SOFT, anchor="mm")
        return
    is_small = max(image.shape[:2]) <= SIDE
    how = Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS
    sheet.paste(Image.fromarray(image).resize((SIDE, SIDE), how), (x, y))


def _picture_cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    trial: ReportTrial,
    x: int,
    y: int,
    width: int,
) -> None:
    _title_line(sheet, draw, trial, x, y, width)
    top = y + 62
    pitch = (width - SIDE) / (1 + N_CANDIDATES)
    cells = [
        ("seen", trial.seen_image, trial.seen_label, False),
        ("decoded", trial.decoded_image, "", False),
    ]
    for rank, c in enumerate(trial.candidates[:N_CANDIDATES], start=1):
        is_seen = c.stimulus_id == trial.seen_id
        label = another(c.label, is_other=not is_seen and c.label == trial.seen_label)
        cells.append((f"{rank}.  cos {c.cosine:.2f}", c.image, label, is_seen))
    for i, (name, image, label, is_seen) in enumerate(cells):
        left = round(x + i * pitch)
        _write(draw, (left, top - 8), name, 16, SOFT, pitch - 6)
        _paste(sheet, image, left, top)
        room = pitch - 6 if i < N_CANDIDATES + 1 else SIDE + 12
        if is_seen:
            frame = (left - 4, top - 4, left + SIDE + 3, top + SIDE + 3)
            draw.rectangle(frame, outline=RIGHT, width=3)
        _write(draw, (left, top + SIDE + 24), label, 15, INK, room)


def _label_cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    trial: ReportTrial,
    x: int,
    y: int,
    width: int,
) -> None:
    _title_line(sheet, draw, trial, x, y, width)
    label = answered_label(trial)
    answer = "no answer" if label is None else f"answered: {label}"
    _write(draw, (x + 32, y + 50), f"seen: {trial.seen_label}", 18, INK, width / 2 - 40)
    _write(draw, (x + width / 2, y + 50), answer, 18, INK, width / 2)
