"""The tables of an export: which field of which message each column holds.

Pure. A field that has no column here, and is not in `bci_bridge.exports.sidecar`,
does not leave a recording; a column's description is that of the data dictionaries.
"""

from collections.abc import Callable
from typing import Any, Final

from bci_bridge.exports.columns import Column, Raw, Table, table_of
from bci_bridge.exports.facts import RunFacts
from bci_bridge.outcomes import ScoredStimulus, VolumeOutcome

CANDIDATES: Final = 5
"""Best candidates in a table; a recording may hold more."""

_SERVER: Final = "on the server's monotonic clock"


def _field(
    name: str,
    kind: Any,
    description: str,
    units: str = "",
    *,
    field: str = "",
    of: Callable[[Any], Any] = lambda message: message,
) -> Column:
    """Make a column of a message's field, by default of its own name.

    `of` gives the message that has it, None if none has.
    """

    def value(message: Any) -> Raw:
        holder = of(message)
        found: Raw = None if holder is None else getattr(holder, field or name)
        return found

    return Column(name, kind, description, value, units)


def _clock(
    host: str, of: Callable[[Any], Any] = lambda message: message
) -> tuple[Column, ...]:
    """Make the columns that relate a host's clock to the server's."""
    return (
        _field(
            "clock_offset_ns",
            "integer",
            f"Monotonic clock of {host} minus the server's, as that host estimated it.",
            "ns",
            of=of,
        ),
        _field(
            "clock_uncertainty_ns",
            "integer",
            "The true offset is no further away than this.",
            "ns",
            of=of,
        ),
    )


def events_table(run: RunFacts) -> Table:
    """One row for each stimulus that was announced, by onset."""
    reports: dict[str, list[int]] = {}
    for one in run.shown:
        reports.setdefault(one.trial_id, []).append(one.shown_ns)

    columns = (
        _field("onset", "number", "After the start of volume 0.", "s", field="onset_s"),
        _field("duration", "number", "Of the stimulus.", "s", field="duration_s"),
        _field("trial_id", "text", "Name of the trial, unique in its run."),
        _field(
            "stim_id",
            "text",
            "What is shown, as the stimulus software names it.",
            field="stimulus_id",
        ),
        _field(
            "shown_ns",
            "integer",
            "Instant of presentation as announced, on the monotonic clock of the "
            "stimulus host.",
            "ns",
        ),
        Column(
            "reported_shown_ns",
            "text",
            "Instants of presentation as reported afterwards, parted by semicolons, "
            "on the monotonic clock of the host that reported.",
            lambda event: tuple(reports.get(event.trial_id, ())),
            "ns",
        ),
        *_clock("the stimulus host, which announced it"),
    )
    rows = sorted(run.events, key=lambda event: event.onset_s)
    return table_of(columns, rows)


def shown_table(run: RunFacts) -> Table:
    """One row for each report of what reached the participant."""
    columns = (
        _field(
            "shown_ns",
            "integer",
            "Instant of presentation, on the monotonic clock of the host that reports.",
            "ns",
        ),
        _field("trial_id", "text", "Trial that it belongs to."),
        _field("what", "text", "What reached the participant."),
        _field(
            "display_frame",
            "integer",
            "Frame of the display that showed it first, as the display counts them.",
        ),
        *_clock("the host that reports"),
    )
    return table_of(columns, run.shown)


def volumes_table(run: RunFacts) -> Table:
    """One row for each volume outcome."""

    def acquired(outcome: VolumeOutcome) -> Any:
        # One that had been given up before it came says nothing of its voxels' clock.
        is_said = outcome.acquired_ns is not None
        return outcome if is_said else run.sent.get(outcome.volume_index)

    columns = (
        _field("volume_index", "integer", "Number of the acquisition, from 0."),
        _field("input", "text", "OK, MISSING or INVALID."),
        _field("reason", "text", "Why it is not OK."),
        _field("timing", "text", "LIVE, LATE or CATCHUP."),
        Column(
            "is_recorded",
            "integer",
            "1 if its voxels are in the export.",
            lambda one: int(one.volume_index in run.kinds),
        ),
        Column(
            "compute_latency_ms",
            "number",
            "From the end of acquisition to the outcome; only of live runs, and only "
            "where both instants are on one clock.",
            lambda one: _latency_ms(one, one.published_ns),
            "ms",
        ),
        Column(
            "service_ms",
            "number",
            "From the volume's arrival at the server to the outcome.",
            lambda one: _since_ms(one.received_ns, one.published_ns),
            "ms",
        ),
        _field("received_ns", "integer", f"Arrival, {_SERVER}.", "ns"),
        _field("deadline_ns", "integer", f"Deadline, {_SERVER}.", "ns"),
        _field("published_ns", "integer", f"Outcome, {_SERVER}.", "ns"),
        *_ANSWER,
        _field(
            "acquired_ns",
            "integer",
            "End of the acquisition, on the monotonic clock of the host that sent it.",
            "ns",
            of=acquired,
        ),
        *_clock("the host that sent it", of=acquired),
    )
    return table_of(columns, [run.volumes[index] for index in sorted(run.volumes)])


def trials_table(run: RunFacts) -> Table:
    """One row for each trial outcome, in the order of the answers."""
    columns = (
        _field("trial_id", "text", "Name of the trial, unique in its run."),
        *_ANSWER,
        _field("timing", "text", "Of the volume that made the answer due."),
        _field("onset_s", "number", "After the start of volume 0.", "s"),
        _field(
            "delay_s",
            "number",
            "From the onset to the end of the last volume used.",
            "s",
        ),
        Column(
            "compute_latency_ms",
            "number",
            "From the end of the acquisition that made the answer due to the outcome; "
            "only of live runs, and only where both instants are on one clock.",
            lambda one: _latency_ms(
                run.volumes.get(one.after_volume), one.published_ns
            ),
            "ms",
        ),
        _field("first_volume", "integer", "First volume used; -1 without one."),
        _field("last_volume", "integer", "Last volume used; -1 without one."),
        _field("volumes_used", "integer", "Number of volumes used."),
        _field(
            "after_volume",
            "integer",
            "Acquisition after which it was decided; -1 before the first.",
        ),
        _field("published_ns", "integer", f"Outcome, {_SERVER}.", "ns"),
    )
    rows = sorted(run.trials.values(), key=lambda one: one.outcome_index)
    return table_of(columns, rows)


def _candidate_columns(place: int) -> tuple[Column, ...]:
    name, rank = f"candidate_{place + 1}", f"of rank {place + 1}"

    def at(one: Any) -> ScoredStimulus | None:
        candidates: tuple[ScoredStimulus, ...] = one.candidates
        return candidates[place] if place < len(candidates) else None

    def named(field: str) -> Any:
        return lambda one: None if (found := at(one)) is None else getattr(found, field)

    return (
        Column(name, "text", f"Entry of the gallery {rank}.", named("stimulus_id")),
        Column(f"{name}_label", "text", f"Label of the entry {rank}.", named("label")),
        Column(
            f"{name}_cosine", "number", f"Cosine of the entry {rank}.", named("cosine")
        ),
    )


_ANSWER: Final = (
    _field("decision", "text", "ANSWER, ABSTAIN, NO_STIMULUS or WARMING."),
    _field("label", "text", "Label of the best candidate."),
    _field(
        "confidence",
        "number",
        "Calibrated probability that the best candidate is right.",
    ),
    _field("abstention", "text", "Why there is no answer."),
    *(column for place in range(CANDIDATES) for column in _candidate_columns(place)),
    _field("degraded", "text", "What was not as it should be, parted by semicolons."),
)


def _latency_ms(volume: VolumeOutcome | None, published_ns: int) -> float | None:
    """Give the time since the end of an acquisition, where that instant means one."""
    if volume is None or volume.acquired_ns is None:
        return None
    if volume.timing == "CATCHUP" or "TIME_ANOMALY" in volume.degraded:
        return None
    return _since_ms(volume.acquired_ns - (volume.clock_offset_ns or 0), published_ns)


def _since_ms(begin_ns: int | None, end_ns: int) -> float | None:
    return None if begin_ns is None else (end_ns - begin_ns) / 1e6
