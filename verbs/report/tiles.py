"""The claim in one sentence and the key figures as tiles."""

from verbs.report.charts import accuracy_dots
from verbs.report.data import Report
from verbs.report.figures import is_enough_for, number, wilson_interval
from verbs.report.text import (
    NOT_APPLICABLE,
    TOO_FEW,
    count,
    decimal,
    milliseconds,
    percent,
    seconds,
)


def claim(report: Report) -> str:
    """Say what was decoded, how often it was right, and against what."""
    summary = report.summary
    share, n = number(summary, "retrieval_top1"), number(summary, "trials")
    if share is None or not n:
        return "This session holds no decoded trial."
    subject = (
        "the picture seen was retrieved first"
        if report.has_images
        else "the category seen was named first"
    )
    parts = [
        f"{name} {percent(number(summary, key))}"
        for name, key in (
            ("chance is", "chance_top1"),
            ("ridge regression is right in", "ridge_top1"),
            ("the noise ceiling is", "noise_ceiling_top1"),
        )
        if number(summary, key) is not None
    ]
    if number(summary, "noise_ceiling_top1") is None:
        parts.append("a noise ceiling is not applicable")
    return (
        f"From brain activity, {subject} in <strong>{percent(share)}</strong> of "
        f"{count(n)} trials; {', '.join(parts)}."
    )


def tiles(report: Report) -> str:
    """Draw the key figures."""
    drawn = [
        _accuracy(report),
        _latency(report),
        _delay(report),
        _volumes(report),
        _quality(report),
    ]
    return f'<div class="tiles">{"".join(drawn)}</div>'


def _tile(title: str, big: str, small: str, kind: str = "") -> str:
    return (
        f'<div class="tile {kind}"><h3>{title}</h3><p class="big">{big}</p>'
        f"{small}</div>"
    )


def _pairs(rows: list[tuple[str, str]]) -> str:
    inner = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows
    )
    return f"<dl>{inner}</dl>"


def _accuracy(report: Report) -> str:
    share, n = (
        number(report.summary, "retrieval_top1"),
        number(report.summary, "trials"),
    )
    words = ""
    if share is not None and n and n > 0:
        low, high = wilson_interval(round(share * n), round(n))
        words = (
            f"<p>{count(round(share * n))} of {count(n)} trials, 95\u00a0% interval "
            f"{percent(low)} to {percent(high)}</p>"
        )
    return _tile(
        "Right at first choice (top-1)",
        percent(share),
        f"{words}<figure>{accuracy_dots(report.summary)}</figure>",
        "tile-wide",
    )


def _quantile(report: Report, name: str, p: float) -> str:
    n = number(report.summary, "latency_ms", "n")
    value = number(report.summary, "latency_ms", name)
    if value is not None and n is not None and not is_enough_for(round(n), p):
        return TOO_FEW
    return milliseconds(value)


def _latency(report: Report) -> str:
    summary = report.summary
    tr_s = number(summary, "tr_s")
    return _tile(
        "Compute latency, median",
        _quantile(report, "p50", 0.5),
        _pairs(
            [
                ("p90", _quantile(report, "p90", 0.9)),
                ("p99", _quantile(report, "p99", 0.99)),
                ("longest", milliseconds(number(summary, "latency_ms", "max"))),
                ("TR", milliseconds(None if tr_s is None else 1000 * tr_s)),
                ("n", count(number(summary, "latency_ms", "n"))),
            ]
        ),
    )


def _delay(report: Report) -> str:
    summary = report.summary
    delay_s, tr_s = number(summary, "answer_delay_s"), number(summary, "tr_s")
    in_trs = NOT_APPLICABLE
    if delay_s is not None and tr_s:
        in_trs = f"{decimal(delay_s / tr_s, 1)} TR"
    return _tile(
        "Stimulus to answer",
        seconds(delay_s),
        _pairs([("in volumes", in_trs), ("TR", seconds(tr_s))])
        + "<p>Set by the slow blood response, not by computing.</p>",
    )


def _volumes(report: Report) -> str:
    summary = report.summary
    sent = number(summary, "volumes_sent")
    received = number(summary, "outcomes_received")
    words = ""
    if sent is not None and received is not None:
        words = (
            "<p>Exactly one outcome for each volume.</p>"
            if sent == received
            else f'<p class="warning">Outcomes differ from volumes sent by '
            f"{count(abs(sent - received))}.</p>"
        )
    return _tile(
        "Volumes sent",
        count(sent),
        _pairs(
            [
                ("outcomes received", count(received)),
                ("deadline misses", count(number(summary, "deadline_misses"))),
            ]
        )
        + words,
    )


def _quality(report: Report) -> str:
    summary = report.summary
    return _tile(
        "Brain response predicted, r",
        decimal(number(summary, "encode_voxel_r")),
        _pairs(
            [
                ("noise ceiling", decimal(number(summary, "encode_noise_ceiling_r"))),
                ("decoded pixels,\u00a0r", decimal(number(summary, "image_pixcorr"))),
            ]
        )
        + "<p>Encoding: the same model, run from picture to brain.</p>",
    )
