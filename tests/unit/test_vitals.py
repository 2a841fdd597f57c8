"""A server is ready only if nothing speaks against it, and each reason is a line."""

import msgspec
import pytest

from bci_bridge.http_head import Page
from bci_bridge.pages import page_of
from bci_bridge.settings import (
    IngressReport,
    PublisherReport,
    ServeConfig,
    report_from,
)
from bci_bridge.setup import Ready
from bci_bridge.vitals import (
    Log,
    Patience,
    Process,
    what_is_degraded,
    why_not_live,
    why_not_ready,
)
from tests.healthy import CONFIG, NOW, vitals


def test_a_server_without_fault_is_live_ready_and_not_degraded():
    assert why_not_live(vitals(), CONFIG) == []
    assert why_not_ready(vitals(), CONFIG) == []
    assert what_is_degraded(vitals(), CONFIG) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"ingress": Process("ingress")},
            "ingress: expected it ready, found it starting",
        ),
        (
            {"publisher": Process("publisher", Ready(is_safe=False), NOW)},
            "publisher: expected its attack on itself to have failed, "
            "found it not over",
        ),
        (
            {"ingress": Process("ingress", Ready(), NOW - 7_200_000_000)},
            "ingress: expected a sign of life within 2.5 s, found the last 7.2 s ago",
        ),
        (
            {"worker_a": Process("worker-a", Ready(), NOW)},
            "worker: expected one that answers, found none",
        ),
        (
            {"worker_a": Process("worker-a", Ready(is_active=True), 0)},
            "worker-a: expected a sign of life within 2.5 s, "
            "found the last 100.0 s ago",
        ),
        (
            {"supervisor": Process("supervisor")},
            "supervisor: expected a sign of life within 2.5 s, found none yet",
        ),
        (
            {"came": IngressReport(recording="DEGRADED")},
            "log: expected it ON, found it DEGRADED",
        ),
        (
            {"log": Log(True, 99 << 20)},
            "log: expected 100 MiB of room, found 99 MiB",
        ),
        (
            {"log": Log(False, 200 << 20)},
            "log: expected a folder to write to, found another",
        ),
        ({"log": None}, "log: expected a folder, found none"),
    ],
)
def test_each_fault_is_one_reason_not_to_be_ready(changes, reason):
    assert why_not_ready(vitals(**changes), CONFIG) == [reason]


def test_without_a_recording_the_disk_is_no_reason():
    found = vitals(log=None, came=IngressReport(recording="OFF"))

    assert why_not_ready(found, ServeConfig()) == []


def test_a_server_without_standby_is_ready_and_says_that_it_is_degraded():
    alone = vitals(worker_b=Process("worker-b"))
    hung = vitals(worker_b=Process("worker-b", Ready(), 0))
    behind = vitals(worker_b=Process("worker-b", Ready(is_behind=True), NOW))
    warned = vitals(ingress=Process("ingress", Ready(), NOW, trouble="list damaged"))

    assert why_not_ready(alone, CONFIG) == why_not_ready(hung, CONFIG) == []
    assert what_is_degraded(alone, CONFIG) == [
        "worker-b: expected it to stand by, found it starting"
    ]
    assert what_is_degraded(behind, CONFIG) == [
        "worker-b: expected it to stand by, found it catching up"
    ]
    assert len(what_is_degraded(hung, CONFIG)) == 1
    assert what_is_degraded(warned, CONFIG) == ["ingress: list damaged"]


@pytest.mark.parametrize(
    ("uncertainty_ns", "reasons"),
    [
        ({}, []),
        ({"scanner": 50_000_000, "stimulus": 0}, []),
        (
            {"scanner": 50_100_000, "stimulus": 7},
            ["clock of scanner: expected it known within 50 ms, found 50.1 ms"],
        ),
    ],
)
def test_a_clock_known_too_poorly_degrades_and_an_unknown_one_does_not(
    uncertainty_ns, reasons
):
    found = vitals(came=IngressReport(recording="ON", uncertainty_ns=uncertainty_ns))

    assert why_not_ready(found, CONFIG) == []
    assert what_is_degraded(found, CONFIG) == reasons


def test_the_limit_of_a_clock_can_be_set():
    found = vitals(came=IngressReport(recording="ON", uncertainty_ns={"a": 3_000_000}))
    strict = ServeConfig(recording="somewhere", free_mb=100, clock_ms=2.5)

    assert what_is_degraded(found, strict) == [
        "clock of a: expected it known within 2.5 ms, found 3.0 ms"
    ]


@pytest.mark.parametrize(
    ("came", "went", "owed"),
    [
        (IngressReport(), PublisherReport(), 0),
        (
            IngressReport(run="r2", acquisitions=5),
            PublisherReport(run="r2", answered=2),
            3,
        ),
        # The publisher has not heard of the run yet, or is the later account.
        (
            IngressReport(run="r2", acquisitions=5),
            PublisherReport(run="r1", answered=9),
            5,
        ),
        (
            IngressReport(run="r2", acquisitions=5),
            PublisherReport(run="r2", answered=6),
            0,
        ),
    ],
)
def test_what_is_owed_is_what_came_and_has_no_outcome(came, went, owed):
    assert vitals(came=came, went=went).unanswered == owed
    assert report_from(came, went).unanswered == owed


@pytest.mark.parametrize(
    ("is_over", "answers", "lacks"),
    [
        (False, PublisherReport(run="r2", answered=5), False),
        (True, PublisherReport(run="r2", answered=5), True),
        (True, PublisherReport(run="r2", answered=5, has_end=True), False),
        (True, PublisherReport(run="r1", answered=9, has_end=True), True),
    ],
)
def test_a_run_that_is_over_owes_its_end(is_over, answers, lacks):
    came = IngressReport(run="r2", acquisitions=5, is_over=is_over)

    assert report_from(came.after(IngressReport()), answers).lacks_end is lacks
    assert report_from(came, answers.after(PublisherReport())).lacks_end is lacks


def test_who_starts_is_live_and_who_hangs_is_not():
    starting = vitals(supervisor=Process("supervisor"), publisher=Process("publisher"))
    hung = vitals(supervisor=Process("supervisor", None, NOW - 6_000_000_000))

    assert why_not_live(starting, CONFIG) == []
    assert why_not_live(hung, CONFIG) == [
        "supervisor: expected a sign of life within 5 s, found the last 6.0 s ago"
    ]


def test_a_process_may_load_for_long_and_then_be_silent_for_a_moment():
    patience = Patience.of(ServeConfig(load_s=60, hang_s=5), "worker-b")

    assert patience.covers(None, 0, 60_000_000_000)
    assert not patience.covers(None, 0, 60_000_000_001)
    assert patience.covers(0, 0, 5_000_000_000)
    assert not patience.covers(0, 0, 5_000_000_001)
    # Who reads a log and no engine is given two minutes, whatever workers are given.
    ingress = Patience.of(ServeConfig(load_s=600), "ingress")
    assert ingress.load_ns == 120_000_000_000


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/livez", "live\n"),
        ("/readyz", "ready\n"),
        ("/v2/health/live", '{"live":true,"reasons":[],"degraded":[]}\n'),
        ("/v2/health/ready", '{"ready":true,"reasons":[],"degraded":[]}\n'),
    ],
)
def test_a_page_says_that_all_is_well(path, text):
    page = page_of(path, vitals, CONFIG)

    assert (page.status, page.text) == (200, text)


def test_a_page_says_why_all_is_not_well():
    def ill():
        return vitals(ingress=Process("ingress"), worker_b=Process("worker-b"))

    page = page_of("/readyz", ill, CONFIG)
    said = msgspec.json.decode(page_of("/v2/health/ready", ill, CONFIG).text)

    assert page == Page(
        503,
        "text/plain; charset=utf-8",
        "not ready\n"
        "ingress: expected it ready, found it starting\n"
        "degraded: worker-b: expected it to stand by, found it starting\n",
    )
    assert said["ready"] is False
    assert len(said["reasons"]) == len(said["degraded"]) == 1
    assert page_of("/", ill, CONFIG) is None
