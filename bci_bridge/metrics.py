"""How a server is, in the text format of Prometheus (version 0.0.4).

Pure: values to text. Every name is listed here once, with its help; counters go on
through the restarts of the processes that count.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

from bci_bridge.outcomes import RunEnded, TrialOutcome, Update, VolumeOutcome
from bci_bridge.settings import (
    INGRESS,
    PUBLISHER,
    IngressReport,
    PublisherReport,
    ServeConfig,
)
from bci_bridge.tally import BUCKETS_S, Histogram
from bci_bridge.vitals import Vitals, what_is_degraded, why_not_ready

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "neuroflow_"
STATES: Final = ("ON", "DEGRADED", "OFF")
KINDS: Final = {
    kind.__name__: str(kind.__struct_config__.tag)
    for kind in (VolumeOutcome, TrialOutcome, Update, RunEnded)
}
"""Names of types to names of the wire."""

Labels = Mapping[str, str]
Sample = tuple[Labels, int | float]


def metrics_text(vitals: Vitals, config: ServeConfig) -> str:
    """Write all metrics of one instant."""
    lines = [line for family in _families(vitals, config) for line in family]
    return "".join(f"{line}\n" for line in lines)


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

    yield _one("gauge", "ready", "1 while the server is ready.", is_ready)
    yield _one(
        "gauge",
        "degraded",
        "1 while something is not as it should be that keeps nobody from answers.",
        is_degraded,
    )
    yield _one("counter", "runs_total", "Runs begun.", came.runs)
    yield _family(
        "counter",
        "outcomes_total",
        "Outcomes by kind, input or decision, and timing.",
        [(_outcome(name), count) for name, count in counts.outcomes.items()],
    )
    yield _one(
        "counter",
        "outcomes_degraded_total",
        "Outcomes that say that something was not as it should be.",
        counts.degraded,
    )
    yield _one(
        "counter",
        "deadline_misses_total",
        "Volume outcomes decided after their deadline, MISSING ones included.",
        counts.late,
    )
    yield _family(
        "counter",
        "gaps_total",
        "Acquisitions without volume, by reason.",
        [({"reason": reason}, count) for reason, count in counts.gaps.items()],
    )
    yield _family(
        "counter",
        "rejected_total",
        "Messages refused, by process and reason.",
        [
            ({"process": name, "reason": reason}, count)
            for name, report in reports.items()
            for reason, count in report.rejected.items()
        ],
    )
    yield _one(
        "counter",
        "conflicts_total",
        "Messages with a sequence in use and other bytes.",
        came.rejected.get("CONFLICT", 0),
    )
    yield _histograms(
        "latency_seconds",
        "To the publication of a volume's outcome; CATCHUP is not counted.",
        {"acquired": counts.from_acquired, "received": counts.from_received},
    )
    yield _family(
        "gauge",
        "recording",
        "State of the log.",
        [({"state": state}, came.recording == state) for state in STATES],
    )
    if vitals.log is not None:
        yield _one(
            "gauge",
            "log_free_bytes",
            "Room on the disk of the log.",
            vitals.log.free_bytes,
        )
    yield _family(
        "counter",
        "self_attacks_total",
        "Attacks of the server on itself that were refused.",
        [({"process": name}, one.self_attacks) for name, one in reports.items()],
    )
    yield _family(
        "counter",
        "handshakes_total",
        "Handshakes by process and verdict; none without keys.",
        [
            ({"process": name, "verdict": verdict}, count)
            for name, one in reports.items()
            for verdict, count in (("accepted", one.accepted), ("refused", one.refused))
        ],
    )
    yield _family(
        "gauge",
        "urgent",
        "1 for a process that runs before other programs.",
        [
            ({"process": one.name}, one.ready is not None and one.ready.is_urgent)
            for one in vitals.processes
        ],
    )
    yield _family(
        "counter",
        "restarts_total",
        "Deaths of processes that were replaced.",
        [({"process": one.name}, one.restarts) for one in vitals.processes],
    )
    yield _family(
        "gauge",
        "resident_bytes",
        "Resident memory.",
        [
            ({"process": one.name}, one.resident_bytes)
            for one in everyone
            if one.resident_bytes is not None
        ],
    )
    yield _family(
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


def _one(
    kind: Literal["counter", "gauge"], name: str, text: str, value: int | float
) -> list[str]:
    return _family(kind, name, text, [({}, value)])


def _family(
    kind: Literal["counter", "gauge"],
    name: str,
    text: str,
    samples: Iterable[Sample],
) -> list[str]:
    return [
        *_head(kind, name, text),
        *(f"{PREFIX}{name}{_labelled(labels)} {_number(v)}" for labels, v in samples),
    ]


def _histograms(name: str, text: str, by_start: Mapping[str, Histogram]) -> list[str]:
    lines = _head("histogram", name, text)
    for start, found in by_start.items():
        so_far = 0
        ends = [*map(_number, BUCKETS_S), "+Inf"]
        for end, count in zip(ends, found.counts, strict=True):
            so_far += count
            labels = _labelled({"from": start, "le": end})
            lines.append(f"{PREFIX}{name}_bucket{labels} {so_far}")
        labels = _labelled({"from": start})
        lines.append(f"{PREFIX}{name}_sum{labels} {_number(found.sum_ns / 1e9)}")
        lines.append(f"{PREFIX}{name}_count{labels} {so_far}")
    return lines


def _head(kind: str, name: str, text: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} {kind}"]


def _labelled(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{','.join(pairs)}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: int | float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
