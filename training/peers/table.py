"""The peers' rows as Markdown."""

from collections.abc import Sequence
from typing import Final

from training.peers.comparison import OURS, Figure, Measure, Row
from training.resample import Interval

HEADS: Final[dict[Measure, str]] = {
    "picture": "1 of {n}, one trial",
    "picture of means": "1 of {n}, mean of its trials",
    "category": "category, 1 of {n}",
    "category of means": "category, mean of its trials",
}
LABELS: Final = {
    "real": "{peer}",
    "shuffled": "{peer}, pictures shuffled",
    "no signal": "{peer}, no signal",
    "shifted": "{peer}, shifted by a trial",
}


def peers_table(
    rows: Sequence[Row], measures: Sequence[Measure], drawn: str = "participants"
) -> str:
    """Return one table of one kind of participant, in percent.

    Args:
        rows: Of `compare_peers`.
        measures: Which of them get columns.
        drawn: What the intervals draw and the figures are given by.
    """
    chances = {f.measure: f.chance for row in rows for f in row.figures}
    heads = ["who", drawn]
    for measure in measures:
        heads.append(HEADS[measure].format(n=round(1 / chances[measure])))
        heads.append("ours minus it")
    heads += ["parameters", "CPU s", "evaluations"]
    lines = [_line(heads), "|" + "---|" * len(heads)]
    for row in rows:
        figures = {figure.measure: figure for figure in row.figures}
        cells = [LABELS[row.condition].format(peer=row.peer)]
        cells.append(str(len(row.figures[0].by_subject)))
        for measure in measures:
            cells += _cells(figures.get(measure), is_ours=row.peer == OURS)
        costs = [_count(row.parameters), _seconds(row.training_s), str(row.evaluations)]
        # Shifted answers are those of the first rows: nothing was trained for them.
        lines.append(
            _line(cells + (["", "", ""] if row.condition == "shifted" else costs))
        )
    chance = ["chance", ""]
    for measure in measures:
        chance += [f"{100 * chances[measure]:.3g}", ""]
    return "\n".join([*lines, _line([*chance, "", "", ""])])


def _cells(figure: Figure | None, *, is_ours: bool) -> list[str]:
    if figure is None:
        return ["n/a", ""]
    own = f"{100 * figure.accuracy.mean:.1f} [{_range(figure.accuracy)}]"
    if figure.ours_minus is None or is_ours:
        return [own, ""]
    minus = figure.ours_minus
    return [own, f"{100 * minus.mean:+.1f} [{_range(minus)}]"]


def _range(interval: Interval) -> str:
    return f"{100 * interval.low:.1f}, {100 * interval.high:.1f}"


def _count(counts: Sequence[int]) -> str:
    low, high = (_short(count) for count in counts)
    return low if low == high else f"{low} to {high}"


def _short(count: int) -> str:
    if count < 10_000:
        return f"{count:,}"
    return f"{count / 1e3:.0f} k" if count < 1e6 else f"{count / 1e6:.1f} M"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
