"""The report says what the session held, all of it, and runs nothing."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.report_session import session, trial
from verbs.report import (
    Report,
    contact_sheet,
    report_html,
)
from verbs.report.cards import N_EACH, fast_groups
from verbs.report.figures import (
    best_median_worst,
    confusion,
    reliability_bins,
    signed_confidence,
)
from verbs.report.text import flat

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&\x00\ud800"
VOID = {"meta", "img", "br", "link", "input"}


class _Reader(HTMLParser):
    """Collects elements, attributes and text, and checks that elements close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _variants() -> Iterator[Report]:
    full = session()
    yield full
    yield session(has_images=False)
    yield replace(full, trials=())
    yield replace(full, timings=())
    yield replace(full, trials=full.fast_trials)
    yield replace(full, trials=full.live_trials)
    yield Report("", {}, (), (), (), ())
    yield replace(full, summary=dict.fromkeys(full.summary))
    yield replace(full, summary=dict.fromkeys(full.summary, math.nan))
    yield replace(full, summary=dict.fromkeys(full.summary, "text"))
    yield replace(full, summary=dict.fromkeys(full.summary, 0))
    broken = [replace(t, latency_ms=math.nan) for t in full.timings]
    yield replace(full, timings=tuple(broken))
    one = replace(full.timings[0], latency_ms=0.5)
    yield replace(full, timings=(one, replace(one, latency_ms=5000.0, timing="LATE")))
    bare = [replace(t, candidates=(), decoded_image=None) for t in full.trials]
    yield replace(full, trials=tuple(bare))


@pytest.mark.parametrize("report", list(_variants()))
def test_every_session_becomes_a_closed_page_and_a_picture(report: Report) -> None:
    reader = _Reader(report_html(report))
    sheet = contact_sheet(report)

    assert reader.open == []
    assert reader.tags.count("h1") == 1
    assert reader.tags.count("table") == reader.tags.count("caption")
    assert (sheet.width, sheet.mode) == (1400, "RGB")


@pytest.mark.parametrize("has_images", [True, False])
def test_the_page_asks_the_network_for_nothing(has_images: bool) -> None:
    page = report_html(session(has_images=has_images))
    reader = _Reader(page)

    addresses = [
        value or ""
        for _, name, value in reader.attributes
        if name in ("src", "href", "srcset", "action", "data", "xlink:href")
    ]
    style = page[page.index("<style>") : page.index("</style>")]

    assert all(a.startswith("data:image/png;base64,") for a in addresses)
    assert not {"script", "link", "iframe", "object", "base"} & set(reader.tags)
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?:|//[a-z]", re.sub(r'src="[^"]*"', "", page))


def test_every_value_of_the_summary_appears_unrounded() -> None:
    report = session()
    text = _Reader(report_html(report)).text

    for name, value in flat(report.summary):
        assert name in text
        assert ("not applicable" if value is None else str(value)) in text


def test_the_claim_names_result_chance_ridge_ceiling_and_n() -> None:
    report = session()
    ceiled = replace(report, summary={**report.summary, "noise_ceiling_top1": 0.871})

    assert (
        "the picture seen was retrieved first in 61.2 % of 100 trials; chance is 1.2 %,"
        " ridge regression is right in 42.5 %, the noise ceiling is 87.1 %."
        in _Reader(report_html(ceiled)).text
    )
    assert "a noise ceiling is not applicable" in _Reader(report_html(report)).text


def test_hostile_text_stays_text_everywhere() -> None:
    report = session(n_fast=100)
    trials = tuple(
        replace(
            t,
            trial_id=HOSTILE,
            run_id=HOSTILE,
            seen_id=HOSTILE,
            seen_label=HOSTILE,
            decision=HOSTILE if i % 2 else "ANSWER",
            label=HOSTILE,
            candidates=tuple(
                replace(c, stimulus_id=HOSTILE, label=HOSTILE) for c in t.candidates
            ),
        )
        for i, t in enumerate(report.trials)
    )
    unseen = tuple(replace(t, seen_image=None) for t in trials)
    hostile = Report(
        title=HOSTILE,
        summary={
            HOSTILE: HOSTILE,
            "rest_volumes": {HOSTILE: 3},
            "inputs": {HOSTILE: 1},
        },
        trials=trials,
        timings=tuple(
            replace(t, run_id=HOSTILE, input=HOSTILE, timing=HOSTILE)
            for t in report.timings
        ),
        provenance=((HOSTILE, HOSTILE),),
        notes=(HOSTILE,),
    )

    for each in (hostile, replace(hostile, trials=unseen)):
        page = report_html(each)
        reader = _Reader(page)
        page.encode("utf-8")
        contact_sheet(each)

        assert "<script" not in page
        assert "\x00" not in page
        assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
        assert not [
            v for t, n, v in reader.attributes if (t, n, v) == ("img", "src", "x")
        ]
        assert "<script>alert(1)</script>" in reader.text


@pytest.mark.parametrize("has_images", [True, False])
def test_the_same_session_gives_the_same_bytes(has_images: bool) -> None:
    report = session(has_images=has_images)

    assert report_html(report).encode() == report_html(report).encode()
    assert contact_sheet(report).tobytes() == contact_sheet(report).tobytes()


def test_every_picture_and_chart_has_words() -> None:
    reader = _Reader(report_html(session()))
    images = [v for t, n, v in reader.attributes if (t, n) == ("img", "alt")]

    assert len(images) == reader.tags.count("img") > 100
    assert all(images)
    for tag, name, value in reader.attributes:
        assert (tag, name) != ("svg", "aria-label") or value


def test_too_few_values_are_said_instead_of_a_percentile() -> None:
    report = session()
    latency = {"p50": 6.53, "p90": 9.13, "p99": 12.75, "max": 31.9, "n": 999}
    few = replace(report, summary={**report.summary, "latency_ms": latency})

    assert "p99 12.8 ms" in _Reader(report_html(report)).text
    assert "p99 n too small" in _Reader(report_html(few)).text


def test_a_count_that_differs_from_the_summary_is_said() -> None:
    report = session()
    short = replace(report, trials=report.trials[:90])
    words = "The summary counts 100 trials; this page was given 90."

    assert words not in _Reader(report_html(report)).text
    assert words in _Reader(report_html(short)).text
    assert "Outcomes differ from volumes sent by 1." in _Reader(report_html(short)).text


def test_best_median_and_worst_share_no_trial_and_are_ranked() -> None:
    trials = session(n_live=0, n_fast=200).trials
    best, median, worst = best_median_worst(trials, N_EACH)
    names = [t.trial_id for t in (*best, *median, *worst)]
    ranks = [signed_confidence(t) for t in (*best, *median, *worst)]

    assert len(set(names)) == 3 * N_EACH
    assert ranks == sorted(ranks, reverse=True)
    assert min(ranks) == min(map(signed_confidence, trials))
    assert f"Worst {N_EACH} of 200" in fast_groups(trials)
    assert "All 60 fast trials" in fast_groups(trials[:60])


def test_the_bins_hold_every_answer_once_and_no_abstention() -> None:
    trials = [*session().trials, replace(trial(1, is_live=True), confidence=1.0)]
    bins = reliability_bins(trials)

    assert sum(b.n for b in bins) == sum(t.decision == "ANSWER" for t in trials)
    assert all(b.low <= b.mean_confidence <= b.high for b in bins)


def test_a_recording_without_images_shows_confusion_and_rest_volumes() -> None:
    report = session(has_images=False)
    rest = {**report.summary, "rest_volumes": {"NO_STIMULUS": 118, "ANSWER": 2}}
    reader = _Reader(report_html(replace(report, summary=rest)))
    _, answered, counts = confusion(report.trials)

    assert "img" not in reader.tags
    assert "Seen (rows) against answered (columns), 100 trials" in reader.text
    assert "Decisions on volumes at rest." in reader.text
    assert "98.3 %" in reader.text
    assert answered[-1] is None
    assert sum(counts.values()) == 100


def test_the_sheet_says_when_it_shows_some_trials_only() -> None:
    small, large = contact_sheet(session(), limit=4), contact_sheet(session())

    assert small.height < large.height
    assert contact_sheet(session(), columns=1).height > large.height
