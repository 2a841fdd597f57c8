"""The report as one HTML page that needs nothing but itself.

Pure but for reading its own style sheet: the same report gives the same bytes.
"""

from importlib import resources

from verbs.report import cards, charts, tables, tiles, timeline
from verbs.report.data import Report, ReportTrial
from verbs.report.figures import number
from verbs.report.text import count, escape, percent

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security policy: even a text that got through escaping could not run."""


def report_html(report: Report) -> str:
    """Draw a session as a complete page, without scripts and without addresses."""
    style = resources.files("verbs.report").joinpath("style.css").read_text("utf-8")
    sections = [
        _section("figures", "Key figures", tiles.tiles(report)),
        _section("notes", "Read this first", _notes(report)),
        *_trial_sections(report),
        _section("time", "Compute latency", _time(report)),
        _section("confidence", "Confidence against correctness", _confidence(report)),
        _section("outcomes", "Outcomes by kind", _outcomes(report)),
        _section("summary", "All figures", _summary(report)),
        _section("provenance", "Provenance", _provenance(report)),
    ]
    shown = [section for section in sections if section]
    title = escape(report.title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>\n{style}</style></head><body>"
        f'<header class="top"><p class="kicker">Report of a decoding session</p>'
        f'<h1>{title}</h1><p class="claim">{tiles.claim(report)}</p></header>'
        f"<main>{''.join(shown)}</main>"
        '<footer class="end"><p>Compute latency counts from the end of a volume\u2019s '
        "acquisition to its outcome. The answer delay counts from the stimulus onset "
        "to the answer; most of it is the slow blood response.</p></footer>"
        "</body></html>\n"
    )


def _section(name: str, title: str, body: str) -> str:
    if not body:
        return ""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{title}</h2>{body}</section>'
    )


def _notes(report: Report) -> str:
    notes = [escape(note) for note in report.notes]
    n, shown = number(report.summary, "trials"), len(report.trials)
    if n is not None and n != shown:
        notes.append(
            f"The summary counts {count(n)} trials; this page was given {count(shown)}."
        )
    items = "".join(f"<li>{note}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _trial_sections(report: Report) -> list[str]:
    if not report.trials:
        return [_section("trials", "Trials", '<p class="empty">No trials.</p>')]
    live, fast = report.live_trials, report.fast_trials
    if not report.has_images:
        return [
            _section("live", _title("Live trials", live), _listed(report)),
            _section("categories", "Categories", _categories(report)),
            _section("rest", "Volumes at rest", _rest(report)),
        ]
    live_body = (
        '<p class="lead">In order of presentation, none left out. A frame marks the '
        "candidate that is the picture seen. cos: cosine of its latent with the "
        'decoded one.</p><div class="cards">'
        f"{''.join(map(cards.live_card, live))}</div>"
    )
    fast_body = (
        '<p class="lead">The same decoder on runs played at full speed. Ranked by '
        "confidence, counted positive where the answer is right and negative where it "
        "is wrong; trials without an answer count zero.</p>" + cards.fast_groups(fast)
    )
    return [
        _section("live", _title("Live trials", live), live_body if live else ""),
        _section("fast", _title("Fast trials", fast), fast_body if fast else ""),
        _section("rest", "Volumes at rest", _rest(report)),
    ]


def _title(name: str, trials: tuple[ReportTrial, ...]) -> str:
    n_right = sum(trial.is_correct for trial in trials)
    share = percent(n_right / len(trials)) if trials else ""
    return (
        f"{name} <small>{count(n_right)} of {count(len(trials))} right, {share}</small>"
    )


def _listed(report: Report) -> str:
    live = report.live_trials
    return cards.label_table(report, live) if live else ""


def _categories(report: Report) -> str:
    chance = number(report.summary, "chance_top1")
    return (
        '<div class="pair"><figure class="panel">'
        f"{tables.confusion_matrix(report.trials)}</figure>"
        f'<figure class="panel">{charts.category_bars(report.trials, chance)}'
        "<figcaption>Right answers by category seen. Line: 95\u00a0% interval "
        "(Wilson). Dashed: chance.</figcaption></figure></div>"
    )


def _rest(report: Report) -> str:
    if "rest_volumes" not in report.summary:
        return ""
    return tables.rest_volumes(report.summary["rest_volumes"])


def _time(report: Report) -> str:
    if not report.timings:
        return timeline.EMPTY
    wide = timeline.latency_over_time(report, width=1080, kind="wide")
    narrow = timeline.latency_over_time(report, width=440, kind="narrow")
    histograms = "".join(
        f'<figure class="panel">{drawn}</figure>'
        for is_live in (True, False)
        if (drawn := timeline.latency_histogram(report, is_live=is_live))
    )
    return (
        f'<figure class="panel">{wide}{narrow}<figcaption>Each dot is a volume. Fast '
        "runs are not paced: latencies there may include waiting for earlier volumes."
        f'</figcaption></figure><div class="pair">{histograms}</div>'
        '<p class="lead">A percentile p is shown only where at least ten values lie '
        "beyond it, n \u2265 10 / (1 \u2212 p).</p>"
    )


def _confidence(report: Report) -> str:
    if not report.trials:
        return ""
    return (
        f'<div class="pair"><figure class="panel">{charts.reliability(report.trials)}'
        "</figure><div class='prose'><p>Each point is the answers of one tenth of the "
        "confidence scale, live and fast together; the line is the 95\u00a0% interval "
        "of the share right (Wilson), the bars below count the answers. An honest "
        "confidence lies on the dashed diagonal.</p>"
        f"<p>{charts.reliability_words(report.trials)}</p></div></div>"
    )


def _outcomes(report: Report) -> str:
    return (
        f'<div class="pair">{tables.trial_outcomes(report)}'
        f"{tables.volume_outcomes(report)}</div>"
    )


def _summary(report: Report) -> str:
    return (
        "<details><summary>Every value of the summary</summary>"
        f"{tables.summary_table(report.summary)}</details>"
    )


def _provenance(report: Report) -> str:
    return tables.provenance_table(report.provenance) if report.provenance else ""
