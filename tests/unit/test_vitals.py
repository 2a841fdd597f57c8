"""A server is ready only if nothing speaks against it, and each reason is a line."""

import msgspec
import pytest

from bci_bridge.http_head import Page
from bci_bridge.metrics import metrics_text
from bci_bridge.pages import page_of
from bci_bridge.settings import IngressReport, PublisherReport, ServeConfig
from bci_bridge.setup import Ready
from bci_bridge.tally import BUCKETS_S, Counts, Histogram
from bci_bridge.vitals import (
    START_NS,
    Log,
    Process,
    Vitals,
    shows_life,
    what_is_degraded,
    why_not_live,
    why_not_ready,
)

NOW = 100_000_000_000
CONFIG = ServeConfig(recording="somewhere", free_mb=100, hang_s=5.0)


def vitals(**changes):
    processes = {
        "ingress": Process("ingress", Ready(), NOW, resident_bytes=1000),
        "publisher": Process("publisher", Ready(), NOW, restarts=2),
        "worker-a": Process("worker-a", Ready(is_active=True), NOW),
        "worker-b": Process("worker-b", Ready(), NOW),
    }
    fields = {
        "now_ns": NOW,
        "supervisor": Process("supervisor", None, NOW - 500_000_000),
        "came": IngressReport(recording="ON"),
        "went": PublisherReport(),
        "log": Log(True, 200 << 20),
    }
    named = {name.replace("_", "-"): one for name, one in changes.items()}
    for name in processes:
        if name in named:
            processes[name] = named.pop(name)
    return Vitals(processes=tuple(processes.values()), **{**fields, **named})


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
    warned = vitals(ingress=Process("ingress", Ready(), NOW, trouble="list damaged"))

    assert why_not_ready(alone, CONFIG) == why_not_ready(hung, CONFIG) == []
    assert what_is_degraded(alone, CONFIG) == [
        "worker-b: expected it to stand by, found it starting"
    ]
    assert len(what_is_degraded(hung, CONFIG)) == 1
    assert what_is_degraded(warned, CONFIG) == ["ingress: list damaged"]


def test_who_starts_is_live_and_who_hangs_is_not():
    starting = vitals(supervisor=Process("supervisor"), publisher=Process("publisher"))
    hung = vitals(supervisor=Process("supervisor", None, NOW - 6_000_000_000))

    assert why_not_live(starting, CONFIG) == []
    assert why_not_live(hung, CONFIG) == [
        "supervisor: expected a sign of life within 5 s, found the last 6.0 s ago"
    ]


def test_a_process_may_load_for_long_and_then_be_silent_for_a_moment():
    hang_ns = 5_000_000_000

    assert shows_life(None, 0, START_NS, hang_ns=hang_ns)
    assert not shows_life(None, 0, START_NS + 1, hang_ns=hang_ns)
    assert shows_life(0, 0, hang_ns, hang_ns=hang_ns)
    assert not shows_life(0, 0, hang_ns + 1, hang_ns=hang_ns)


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


def sampled(text):
    """Read samples as Prometheus does, and see that each follows its HELP and TYPE."""
    samples, family = {}, ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
        elif line.startswith("# TYPE "):
            assert line.split(" ")[2] == family
            assert line.split(" ")[3] in ("counter", "gauge", "histogram")
        else:
            name, value = line.rsplit(" ", 1)
            assert name.startswith(family)
            assert name not in samples
            samples[name] = float(value)
    return samples


def test_metrics_say_what_was_counted():
    counts = Counts(
        outcomes={"VolumeOutcome OK LIVE": 3, "TrialOutcome ABSTAIN LATE": 1},
        gaps={"DEADLINE": 2},
        late=4,
        from_received=Histogram().with_one(3_000_000).with_one(60_000_000_000),
    )
    found = vitals(
        came=IngressReport(
            runs=1, recording="ON", rejected={"CONFLICT": 5}, accepted=6, refused=7
        ),
        went=PublisherReport(counts=counts, self_attacks=8),
    )

    samples = sampled(metrics_text(found, CONFIG))

    wanted = {
        'outcomes_total{kind="VOLUME_OUTCOME",input="OK",decision="",timing="LIVE"}': 3,
        'outcomes_total{kind="TRIAL_OUTCOME",input="",decision="ABSTAIN",'
        'timing="LATE"}': 1,
        'gaps_total{reason="DEADLINE"}': 2,
        "deadline_misses_total": 4,
        'rejected_total{process="ingress",reason="CONFLICT"}': 5,
        "conflicts_total": 5,
        'handshakes_total{process="ingress",verdict="accepted"}': 6,
        'handshakes_total{process="ingress",verdict="refused"}': 7,
        'self_attacks_total{process="publisher"}': 8,
        'restarts_total{process="publisher"}': 2,
        'recording{state="ON"}': 1,
        'recording{state="OFF"}': 0,
        'resident_bytes{process="ingress"}': 1000,
        'silence_seconds{process="supervisor"}': 0.5,
        "log_free_bytes": 200 << 20,
        "ready": 1,
        "degraded": 0,
        "runs_total": 1,
        'latency_seconds_bucket{from="received",le="0.002"}': 0,
        'latency_seconds_bucket{from="received",le="0.005"}': 1,
        f'latency_seconds_bucket{{from="received",le="{BUCKETS_S[-1]:g}"}}': 1,
        'latency_seconds_bucket{from="received",le="+Inf"}': 2,
        'latency_seconds_count{from="received"}': 2,
        'latency_seconds_sum{from="received"}': 60.003,
        'latency_seconds_count{from="acquired"}': 0,
    }
    assert {name: samples[f"neuroflow_{name}"] for name in wanted} == wanted


def test_a_label_cannot_break_out_of_its_quotes():
    hostile = Counts(gaps={'x"} 1\nneuroflow_ready 0\\': 1})

    samples = sampled(
        metrics_text(vitals(went=PublisherReport(counts=hostile)), CONFIG)
    )

    assert samples["neuroflow_ready"] == 1
