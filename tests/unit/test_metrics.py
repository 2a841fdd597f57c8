"""Figures say what was counted and measured, and nothing of what is not known."""

from bci_bridge.histogram import BUCKETS_S, Histogram
from bci_bridge.metrics import metrics_text
from bci_bridge.settings import IngressReport, PublisherReport, ServeConfig
from bci_bridge.setup import Ready
from bci_bridge.tally import Counts
from bci_bridge.vitals import Process
from tests.healthy import CONFIG, NOW, vitals


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


def test_what_became_of_a_workers_engines_is_said_by_process():
    ready = Ready(engines={"loaded": 2, "built": 1, "refused": 1, "unstored": 0})
    found = vitals(worker_a=Process("worker-a", ready, NOW))

    samples = sampled(metrics_text(found, CONFIG))

    assert {k: v for k, v in samples.items() if k.startswith("neuroflow_engines")} == {
        'neuroflow_engines{process="worker-a",what="loaded"}': 2,
        'neuroflow_engines{process="worker-a",what="built"}': 1,
        'neuroflow_engines{process="worker-a",what="refused"}': 1,
        'neuroflow_engines{process="worker-a",what="unstored"}': 0,
    }


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


def test_metrics_say_how_far_behind_and_how_slow_everything_is():
    found = vitals(
        came=IngressReport(
            run="r",
            acquisitions=7,
            ack_lag=3,
            syncs=Histogram().with_one(4_000_000),
            uncertainty_ns={"scanner": 250_000},
            recording="ON",
        ),
        went=PublisherReport(run="r", answered=5, handed_out=6),
        wrote=Histogram().with_one(40_000_000).with_one(1_000_000),
        ingress=Process(
            "ingress", Ready(is_urgent=True), NOW, outages=Histogram().with_one(30)
        ),
        pressure={("cpu", "some"): 43.01, ("io", "full"): 0.0},
    )

    samples = sampled(metrics_text(found, CONFIG))

    wanted = {
        "unanswered_acquisitions": 2,
        "outcomes_handed_out_total": 6,
        "ack_lag_messages": 3,
        'clock_uncertainty_seconds{stream="scanner"}': 0.00025,
        'log_sync_seconds_bucket{log="inputs",le="0.002"}': 0,
        'log_sync_seconds_bucket{log="inputs",le="0.005"}': 1,
        'log_sync_seconds_count{log="inputs"}': 1,
        'log_sync_seconds_count{log="outcomes"}': 2,
        'log_sync_seconds_sum{log="outcomes"}': 0.041,
        'outage_seconds_count{process="ingress"}': 1,
        'outage_seconds_bucket{process="ingress",le="0.001"}': 1,
        'outage_seconds_count{process="worker-b"}': 0,
        'urgent{process="ingress"}': 1,
        'urgent{process="publisher"}': 0,
        'pressure_percent{resource="cpu",tasks="some"}': 43.01,
        'pressure_percent{resource="io",tasks="full"}': 0,
    }
    assert {name: samples[f"neuroflow_{name}"] for name in wanted} == wanted


def test_what_is_not_known_is_absent_and_not_0():
    found = vitals(came=IngressReport(recording="OFF"), log=None)

    names = {name.partition("{")[0] for name in sampled(metrics_text(found, CONFIG))}
    without = {
        name.partition("{")[0] for name in sampled(metrics_text(found, ServeConfig()))
    }

    unknown = {
        f"neuroflow_{name}"
        for name in (
            "ack_lag_messages",
            "pressure_percent",
            "clock_uncertainty_seconds",
        )
    }
    assert not unknown & names
    assert names - without == {
        f"neuroflow_log_sync_seconds_{part}" for part in ("bucket", "sum", "count")
    }


def test_a_label_cannot_break_out_of_its_quotes():
    hostile = Counts(gaps={'x"} 1\nneuroflow_ready 0\\': 1})

    samples = sampled(
        metrics_text(vitals(went=PublisherReport(counts=hostile)), CONFIG)
    )

    assert samples["neuroflow_ready"] == 1
