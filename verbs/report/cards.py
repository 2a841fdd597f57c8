"""The trials as pictures: live ones one by one, fast ones as best, median and worst."""

from collections.abc import Sequence

from verbs.report.data import Picture, Report, ReportTrial
from verbs.report.figures import (
    answered_label,
    best_median_worst,
    is_answer,
    ranked_trials,
)
from verbs.report.tables import SCROLL
from verbs.report.text import (
    NOT_APPLICABLE,
    another,
    count,
    data_uri,
    decimal,
    escape,
    percent,
    seconds,
)

N_EACH = 20
"""Fast trials shown from each of the best, the median and the worst."""
N_CANDIDATES = 3
NO_ANSWER = {
    "ABSTAIN": "abstained",
    "NO_STIMULUS": "no stimulus",
    "WARMING": "warming up",
}
_SIGNS = {
    "right": '<path d="M2 6.5l3 3 5-7"/>',
    "wrong": '<path d="M2.5 2.5l7 7m0-7l-7 7"/>',
    "none": '<path d="M2 6h8"/>',
}


def mark(trial: ReportTrial) -> str:
    """Say by word, sign and colour whether a trial was right."""
    if trial.decision != "ANSWER":
        words = NO_ANSWER.get(trial.decision, trial.decision.lower())
        return _mark("none", words)
    return _mark("right", "right") if trial.is_correct else _mark("wrong", "wrong")


def _mark(kind: str, words: str) -> str:
    sign = f'<svg viewBox="0 0 12 12" aria-hidden="true">{_SIGNS[kind]}</svg>'
    return f'<span class="mark {kind}">{sign}{escape(words)}</span>'


def confidence_bar(trial: ReportTrial) -> str:
    """Draw the stated confidence as a bar with its number."""
    if not is_answer(trial):
        return f'<p class="confidence">Confidence <b>{NOT_APPLICABLE}</b></p>'
    share = min(max(trial.confidence or 0.0, 0.0), 1.0)
    return (
        f'<p class="confidence">Confidence <span class="meter" aria-hidden="true">'
        f'<i style="width:{100 * share:.1f}%"></i></span> '
        f"<b>{percent(trial.confidence)}</b></p>"
    )


def picture(image: Picture | None, alternative: str) -> str:
    """Show a picture, or say that there is none."""
    if image is None:
        return '<span class="no-image">no image</span>'
    height, width = image.shape[:2]
    return (
        f'<img src="{data_uri(image)}" width="{width}" height="{height}" '
        f'alt="{escape(alternative)}">'
    )


def _figure(kind: str, image: str, role: str, caption: str) -> str:
    return (
        f'<figure class="{kind}">{image}<figcaption><span class="role">{role}</span>'
        f"{caption}</figcaption></figure>"
    )


def _named(label: str, stimulus_id: str) -> str:
    """Show a label, and the identity too where labels may be shared."""
    shown = f"<bdi>{escape(label)}</bdi>"
    if label != stimulus_id:
        shown += f'<span class="id">{escape(stimulus_id)}</span>'
    return shown


def live_card(trial: ReportTrial) -> str:
    """Draw one live trial: seen, decoded, retrieved, confidence and both times."""
    figures = [
        _figure(
            "seen",
            picture(trial.seen_image, f"Picture shown: {trial.seen_label}"),
            "Seen",
            _named(trial.seen_label, trial.seen_id),
        ),
        _figure(
            "decoded",
            picture(trial.decoded_image, "Picture decoded from brain activity"),
            "Decoded",
            "from the brain",
        ),
    ]
    for rank, candidate in enumerate(trial.candidates[:N_CANDIDATES], start=1):
        is_seen = candidate.stimulus_id == trial.seen_id
        note = ' <span class="is-seen">= seen</span>' if is_seen else ""
        figures.append(
            _figure(
                "candidate hit" if is_seen else "candidate",
                picture(candidate.image, f"Retrieved, rank {rank}: {candidate.label}"),
                f"No. {rank}{note}",
                f"{_named(candidate.label, candidate.stimulus_id)}"
                f'<span class="cosine">cos {decimal(candidate.cosine)}</span>',
            )
        )
    word = "answered" if trial.decision == "ANSWER" else "outcome"
    return (
        f'<article class="card"><header><h3><bdi>{escape(trial.trial_id)}</bdi> '
        f"<small><bdi>{escape(trial.run_id)}</bdi></small></h3>{mark(trial)}</header>"
        f'<div class="pictures">{"".join(figures)}</div>'
        f"<footer>{confidence_bar(trial)}"
        f'<p class="times">Shown at <b>{seconds(trial.onset_s)}</b>, {word} at '
        f"<b>{seconds(trial.onset_s + trial.delay_s)}</b> "
        f"({seconds(trial.delay_s)} later)</p></footer></article>"
    )


def fast_card(trial: ReportTrial) -> str:
    """Draw one fast trial in small: seen, decoded and retrieved first."""
    first = trial.candidates[0] if trial.candidates else None
    name = first.label if first else "nothing"
    answer = another(
        answered_label(trial) or "no answer",
        is_other=answered_label(trial) == trial.seen_label
        and first is not None
        and first.stimulus_id != trial.seen_id,
    )
    confidence = percent(trial.confidence) if is_answer(trial) else "\u2013"
    images = (
        ("Seen", picture(trial.seen_image, f"Shown: {trial.seen_label}")),
        ("Decoded", picture(trial.decoded_image, "Decoded")),
        ("No. 1", picture(first.image if first else None, f"Retrieved: {name}")),
    )
    figures = "".join(
        f"<figure>{image}<figcaption>{role}</figcaption></figure>"
        for role, image in images
    )
    return (
        f'<li class="small-card"><div class="triple">{figures}</div>'
        f"<p>{mark(trial)}<b>{confidence}</b></p>"
        f'<p class="names"><bdi>{escape(trial.seen_label)}</bdi> \u2192 '
        f"<bdi>{escape(answer)}</bdi></p></li>"
    )


def fast_groups(trials: Sequence[ReportTrial]) -> str:
    """Draw the fast trials; where not all fit, from three labelled places."""
    if len(trials) <= 3 * N_EACH:
        title = f"All {count(len(trials))} fast trials, best to worst"
        return _group(title, "", ranked_trials(trials))
    best, median, worst = best_median_worst(trials, N_EACH)
    n = count(len(trials))
    return (
        _group(f"Best {N_EACH} of {n}", "The top of the ranking, best first.", best)
        + _group(
            f"Median {N_EACH} of {n}",
            "The middle of the ranking; not an average.",
            median,
        )
        + _group(
            f"Worst {N_EACH} of {n}",
            "The end of the ranking, worst last.",
            worst,
        )
    )


def _group(title: str, words: str, trials: Sequence[ReportTrial]) -> str:
    n_right = sum(trial.is_correct for trial in trials)
    cards = "".join(map(fast_card, trials))
    return (
        f'<section class="group"><h3>{title} <small>{n_right} of {len(trials)} right'
        f'</small></h3><p>{words}</p><ul class="small-cards">{cards}</ul></section>'
    )


def label_table(report: Report, trials: Sequence[ReportTrial]) -> str:
    """List trials without pictures: seen, answered and both times."""
    rows = "".join(
        f'<tr><th scope="row"><bdi>{escape(t.trial_id)}</bdi></th>'
        f"<td><bdi>{escape(t.run_id)}</bdi></td><td><bdi>{escape(t.seen_label)}</bdi>"
        f"</td><td><bdi>{escape(answered_label(t) or 'no answer')}</bdi></td>"
        f'<td>{mark(t)}</td><td class="num">'
        f"{percent(t.confidence) if is_answer(t) else NOT_APPLICABLE}</td>"
        f'<td class="num">{seconds(t.onset_s)}</td>'
        f'<td class="num">{seconds(t.onset_s + t.delay_s)}</td></tr>'
        for t in trials
    )
    return (
        f"{SCROLL}"
        f"<table><caption>The {len(trials)} live trials of "
        f"<bdi>{escape(report.title)}</bdi>, in order.</caption><thead><tr>"
        '<th scope="col">Trial</th><th scope="col">Run</th><th scope="col">Seen</th>'
        '<th scope="col">Answered</th><th scope="col">Result</th>'
        '<th scope="col" class="num">Confidence</th>'
        '<th scope="col" class="num">Shown at</th>'
        '<th scope="col" class="num">Answered at</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
