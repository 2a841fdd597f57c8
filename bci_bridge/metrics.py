"""How a server is, as figures for a monitor.

Pure: values to text, of the format in `bci_bridge.exposition`. Every name is listed
here once, with its help; counters go on through the restarts of the processes that
count.
"""

from collections.abc import Iterator
from typing import Final

from bci_bridge.exposition import Labels, family, histograms, single
from bci_bridge.outcomes import RunEnded, TrialOutcome, Update, VolumeOutcome
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.settings import (
    INGRESS,
    PUBLISHER,
    IngressReport,
    PublisherReport,
    ServeConfig,
)
from bci_bridge.vitals import Vitals, what_is_degraded, why_not_ready

STATES: Final = ("ON", "DEGRADED", "OFF")
KINDS: Final = {
    kind.__name__: str(kind.__struct_config__.tag)
    for kind in (VolumeOutcome, TrialOutcome, Update, RunEnded)
}
"""Names of types to names of the wire."""


def metrics_text(vitals: Vitals, config: ServeConfig) -> str:
    """Write all metrics of one instant."""
    found = [line for lines in _families(vitals, config) for line in lines]
    return "".join(f"{line}\n" for line in found)


def _families(vitals: Vitals, config: ServeConfig) -> Iterator[list[str]]:
    came, went = vitals.came, vitals.went
    counts = went.counts
    reports: dict[str, IngressReport | PublisherReport] = {
        INGRESS: came,
        PUBLISHER: went,
    }
    everyone = (vitals.supervisor, *vitals.processes)
    is_ready = not why_not_ready(vitals, config)
    is_degraded = bool(what_is_degraded(vitals, config))

    yield single("gauge", "ready", "1 while the server is ready.", is_ready)
    yield single(
        "gauge",
        "degraded",
        "1 while something is not as it should be that keeps nobody from answers.",
        is_degraded,
    )
    yield single("counter", "runs_total", "Runs begun.", came.runs)
    yield family(
        "counter",
        "outcomes_total",
        "Outcomes by kind, input or decision, and timing.",
        [(_outcome(name), count) for name, count in counts.outcomes.items()],
    )
    yield single(
        "counter",
        "outcomes_degraded_total",
        "Outcomes that say that something was not as it should be.",
        counts.degraded,
    )
    yield single(
        "counter",
        "deadline_misses_total",
        "Volume outcomes decided after their deadline, MISSING ones included.",
        counts.late,
    )
    yield family(
        "counter",
        "gaps_total",
        "Acquisitions without volume, by reason.",
        [({"reason": reason}, count) for reason, count in counts.gaps.items()],
    )
    yield family(
        "counter",
        "rejected_total",
        "Messages refused, by process and reason.",
        [
            ({"process": name, "reason": reason}, count)
            for name, report in reports.items()
            for reason, count in report.rejected.items()
        ],
    )
    yield single(
        "counter",
        "outcomes_handed_out_total",
        "Outcomes that a subscriber asked for; no more announcements were lost.",
        went.handed_out,
    )
    yield single(
        "counter",
        "conflicts_total",
        "Messages with a sequence in use and other bytes.",
        came.rejected.get("CONFLICT", 0),
    )
    yield histograms(
        "latency_seconds",
        "To the publication of a volume's outcome; CATCHUP is not counted.",
        "from",
        {"acquired": counts.from_acquired, "received": counts.from_received},
    )
    yield single(
        "gauge",
        "unanswered_acquisitions",
        "Acquisitions of the current run that came or were given up, and have no "
        "outcome yet.",
        vitals.unanswered,
    )
    if came.ack_lag is not None:
        yield single(
            "gauge",
            "ack_lag_messages",
            "Messages of the current run acknowledged as received, but not yet as on "
            "disk.",
            came.ack_lag,
        )
    yield family(
        "gauge",
        "clock_uncertainty_seconds",
        "How far a sender's clock may be from what it takes it for, by stream.",
        [({"stream": name}, ns / 1e9) for name, ns in came.uncertainty_ns.items()],
    )
    yield family(
        "gauge",
        "recording",
        "State of the log.",
        [({"state": state}, came.recording == state) for state in STATES],
    )
    if vitals.log is not None:
        yield single(
            "gauge",
            "log_free_bytes",
            "Room on the disk of the log.",
            vitals.log.free_bytes,
        )
    if config.recording is not None:
        yield histograms(
            "log_sync_seconds",
            "Of each sync of a log to its disk; syncs to memory are not counted.",
            "log",
            {INPUTS: came.syncs, OUTCOMES: vitals.wrote},
        )
    yield family(
        "counter",
        "self_attacks_total",
        "Attacks of the server on itself that were refused.",
        [({"process": name}, one.self_attacks) for name, one in reports.items()],
    )
    yield family(
        "counter",
        "handshakes_total",
        "Handshakes by process and verdict; none without keys.",
        [
            ({"process": name, "verdict": verdict}, count)
            for name, one in reports.items()
            for verdict, count in (("accepted", one.accepted), ("refused", one.refused))
        ],
    )
    yield family(
        "gauge",
        "urgent",
        "1 for a process that runs before other programs.",
        [
            ({"process": one.name}, one.ready is not None and one.ready.is_urgent)
            for one in vitals.processes
        ],
    )
    yield family(
        "gauge",
        "engines",
        "Engines of a running worker that its cache was asked for, by what became of "
        "them.",
        [
            ({"process": one.name, "what": what}, count)
            for one in vitals.processes
            if one.ready is not None
            for what, count in one.ready.engines.items()
        ],
    )
    yield family(
        "counter",
        "restarts_total",
        "Deaths of processes that were replaced.",
        [({"process": one.name}, one.restarts) for one in vitals.processes],
    )
    yield histograms(
        "outage_seconds",
        "From the death of a process to its replacement's first sign of life.",
        "process",
        {one.name: one.outages for one in vitals.processes},
    )
    yield family(
        "gauge",
        "log_unread_messages",
        "Messages of a log that a process follows which are lost or damaged.",
        [
            ({"process": one.name, "log": log}, count)
            for one in vitals.processes
            for log, count in one.unread.items()
        ],
    )
    yield family(
        "gauge",
        "pressure_percent",
        "Share of the last 10 s in which some or all tasks of the machine waited for a "
        "resource, as the kernel tells it.",
        [
            ({"resource": resource, "tasks": kind}, percent)
            for (resource, kind), percent in vitals.pressure.items()
        ],
    )
    yield family(
        "gauge",
        "resident_bytes",
        "Resident memory.",
        [
            ({"process": one.name}, one.resident_bytes)
            for one in everyone
            if one.resident_bytes is not None
        ],
    )
    yield family(
        "gauge",
        "silence_seconds",
        "Since the last sign of life.",
        [
            ({"process": one.name}, (vitals.now_ns - one.last_ns) / 1e9)
            for one in everyone
            if one.last_ns is not None
        ],
    )


def _outcome(name: str) -> Labels:
    kind, what, timing = [*name.split(" "), "", ""][:3]
    is_volume = kind == VolumeOutcome.__name__
    return {
        "kind": KINDS.get(kind, kind),
        "input": what if is_volume else "",
        "decision": "" if is_volume else what,
        "timing": timing,
    }
