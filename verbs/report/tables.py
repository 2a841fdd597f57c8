"""The tables: outcomes by kind, the confusion matrix, the summary and provenance."""

from collections.abc import Mapping, Sequence

from verbs.report.data import Report, ReportTrial
from verbs.report.figures import confusion
from verbs.report.text import count, escape, flat, percent, raw

MEANINGS = {
    "volumes_sent": "volumes that the scanner sent",
    "outcomes_received": "volume outcomes that came back",
    "deadline_misses": "volumes answered after their deadline",
    "latency_ms.p50": "compute latency, median, ms",
    "latency_ms.p90": "compute latency, 90th percentile, ms",
    "latency_ms.p99": "compute latency, 99th percentile, ms",
    "latency_ms.max": "compute latency, longest, ms",
    "latency_ms.n": "volumes that were timed",
    "answer_delay_s": "stimulus onset to answer, s",
    "tr_s": "repetition time, s",
    "trials": "trials decoded",
    "retrieval_top1": "share of trials whose first candidate was right",
    "chance_top1": "the same by guessing",
    "ridge_top1": "the same by ridge regression",
    "noise_ceiling_top1": "the same at the noise ceiling",
    "image_pixcorr": "correlation of decoded with seen pixels",
    "encode_voxel_r": "correlation of predicted with measured voxels",
    "encode_noise_ceiling_r": "the same at the noise ceiling",
    "parity_rel_l2": "relative error of the engine against the reference",
    "backend": "engine library",
    "seed": "seed of all randomness",
}

SCROLL = '<div class="scroll" tabindex="0">'
"""Opens a box that scrolls, by keyboard too, where a table is too wide."""


def _row(name: str, cells: Sequence[str]) -> str:
    inner = "".join(f'<td class="num">{cell}</td>' for cell in cells)
    return f'<tr><th scope="row">{name}</th>{inner}</tr>'


def _whole(n: object) -> str:
    """Write a count with thousands separated, and anything else as it is."""
    if isinstance(n, int) and not isinstance(n, bool):
        return count(n)
    return escape(raw(n))


def _table(caption: str, columns: Sequence[str], rows: Sequence[str]) -> str:
    first, *rest = columns
    head = f'<th scope="col">{first}</th>' + "".join(
        f'<th scope="col" class="num">{column}</th>' for column in rest
    )
    return (
        f"{SCROLL}"
        f"<table><caption>{caption}</caption><thead><tr>{head}"
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def trial_outcomes(report: Report) -> str:
    """Count the trial outcomes by decision, live and fast apart."""
    decisions = sorted({trial.decision for trial in report.trials})
    rows = []
    for decision in decisions:
        cells = []
        for trials in (report.live_trials, report.fast_trials):
            these = [trial for trial in trials if trial.decision == decision]
            cells += [count(len(these)), count(sum(t.is_correct for t in these))]
        rows.append(_row(f"<code>{escape(decision)}</code>", cells))
    columns = ["Decision", "Live", "of these right", "Fast", "of these right"]
    return _table("Trial outcomes by decision.", columns, rows)


def volume_outcomes(report: Report) -> str:
    """Count the volume outcomes by input and by timing, as the summary has them."""
    rows = []
    for key, name in (("inputs", "Input"), ("timings", "Timing")):
        kinds = report.summary.get(key)
        if not isinstance(kinds, Mapping):
            continue
        numbers = [n for n in kinds.values() if isinstance(n, int | float)]
        total = sum(numbers)
        for kind, n in kinds.items():
            share = n / total if isinstance(n, int | float) and total else None
            cells = [_whole(n), percent(share)]
            rows.append(_row(f"{name} <code>{escape(kind)}</code>", cells))
    columns = ["Kind", "Volumes", "Share"]
    return _table("Volume outcomes by kind.", columns, rows)


def confusion_matrix(trials: Sequence[ReportTrial]) -> str:
    """Tabulate what was answered (columns) for what was seen (rows)."""
    seen, answered, counts = confusion(trials)
    head = "".join(
        f'<th scope="col"><span><bdi>{escape(label or "no answer")}</bdi></span></th>'
        for label in answered
    )
    rows = []
    for label in seen:
        total = sum(counts.get((label, other), 0) for other in answered)
        cells = []
        for other in answered:
            n = counts.get((label, other), 0)
            tint = f"{50 * n / total:.0f}%"
            kind = "cell diagonal-cell" if other == label else "cell"
            shown = count(n) if n else '<span class="zero">0</span>'
            cells.append(f'<td class="{kind}" style="--tint:{tint}">{shown}</td>')
        rows.append(
            f'<tr><th scope="row"><bdi>{escape(label)}</bdi></th>{"".join(cells)}'
            f'<td class="cell total">{count(total)}</td></tr>'
        )
    return (
        f"{SCROLL}"
        '<table class="confusion"><caption>Seen (rows) against '
        f"answered (columns), {count(len(trials))} trials. Boxed: right. Shade: share "
        'of the row.</caption><thead><tr><th scope="col">Seen</th>'
        f'{head}<th scope="col"><span>all</span></th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def rest_volumes(value: object) -> str:
    """Show what was decided on volumes where nothing was shown."""
    if not isinstance(value, Mapping):
        return f"<p>{escape(raw(value))}</p>"
    leaves = list(flat(value))
    numbers = [n for _, n in leaves if isinstance(n, int) and not isinstance(n, bool)]
    is_count = len(numbers) == len(leaves) and sum(numbers) > 0
    rows = []
    for name, n in leaves:
        cells = [_whole(n)]
        if is_count and isinstance(n, int):
            cells.append(percent(n / sum(numbers)))
        rows.append(_row(escape(name), cells))
    columns = ["Decided", "Volumes", "Share"] if is_count else ["Decided", "Value"]
    return _table("Decisions on volumes at rest.", columns, rows)


def summary_table(summary: Mapping[str, object]) -> str:
    """Show every value of the summary, nothing rounded."""
    rows = [
        f'<tr><th scope="row"><code>{escape(name)}</code></th>'
        f'<td class="value">{escape(raw(value))}</td>'
        f'<td class="meaning">{MEANINGS.get(name, "")}</td></tr>'
        for name, value in flat(summary)
    ]
    return (
        f"{SCROLL}"
        "<table><caption>The content of <code>summary.json</code>, "
        'unrounded.</caption><thead><tr><th scope="col">Key</th><th scope="col">Value'
        '</th><th scope="col">Meaning</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def provenance_table(pairs: Sequence[tuple[str, str]]) -> str:
    """List where everything came from."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f'<td class="value"><code>{escape(value)}</code></td></tr>'
        for name, value in pairs
    )
    return (
        f"{SCROLL}"
        "<table><caption>What this session was made of.</caption>"
        '<thead><tr><th scope="col">Item</th><th scope="col">Value</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
