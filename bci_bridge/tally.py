"""Outcomes counted as a monitor wants them: by kind, punctuality and latency.

Pure: no clock, no file. A publisher that was killed leaves its count behind, with how
far it had come in each run; its successor goes on from there, so that no outcome is
counted twice and none is left out.
"""

from collections import Counter
from typing import Final

import msgspec

from bci_bridge.clock_offset import is_one_clock
from bci_bridge.histogram import Histogram
from bci_bridge.outbox import KEPT_RUNS
from bci_bridge.outcomes import Outcome, TrialOutcome, VolumeOutcome

GAP_REASONS: Final = 16
"""Different reasons that are told apart; those beyond count together."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What a publisher and those before it in one server's life have counted."""

    outcomes: dict[str, int] = {}
    """By kind, input or decision, and timing, with a space between."""
    gaps: dict[str, int] = {}
    """Acquisitions without volume, by reason."""
    late: int = 0
    """Volume outcomes decided after their deadline, MISSING ones included."""
    degraded: int = 0
    """Outcomes that say that something was not as it should be."""
    from_acquired: Histogram = Histogram()
    """End of acquisition to publication; of one host's clock only."""
    from_received: Histogram = Histogram()
    """Arrival to publication, on the server's clock."""
    places: dict[str, int] = {}
    """By run, in order: the first outcome not counted yet."""

    def by_kind(self) -> dict[str, int]:
        """Give the number of outcomes of each kind."""
        kinds: Counter[str] = Counter()
        for name, count in self.outcomes.items():
            kinds[name.partition(" ")[0]] += count
        return dict(kinds)

    def unused(self) -> dict[str, int]:
        """Give the number of acquisitions that are MISSING, and that are INVALID."""
        inputs: Counter[str] = Counter()
        for name, count in self.outcomes.items():
            kind, *rest = name.split(" ")
            if kind == VolumeOutcome.__name__ and rest[0] != "OK":
                inputs[rest[0]] += count
        return dict(inputs)


class Tally:
    """Counts what a publisher learns."""

    def __init__(self, earlier: Counts | None = None) -> None:
        """Begin, or go on.

        Args:
            earlier: Left by the process that this one replaces; None where it is the
                first of its server.
        """
        self._is_first = earlier is None
        earlier = Counts() if earlier is None else earlier
        self._outcomes = Counter(earlier.outcomes)
        self._gaps = Counter(earlier.gaps)
        self._late, self._degraded = earlier.late, earlier.degraded
        self._from_acquired = earlier.from_acquired
        self._from_received = earlier.from_received
        self._places = dict(earlier.places)
        # Runs before the oldest one that is remembered were counted long ago.
        self._has_caught_up = not self._places

    @property
    def counts(self) -> Counts:
        """All so far."""
        return Counts(
            outcomes=dict(self._outcomes),
            gaps=dict(self._gaps),
            late=self._late,
            degraded=self._degraded,
            from_acquired=self._from_acquired,
            from_received=self._from_received,
            places=dict(self._places),
        )

    def know(self, outcome: Outcome) -> None:
        """Take an outcome that was on record before this process began."""
        self._has_caught_up = self._has_caught_up or outcome.run in self._places
        if self._is_first:
            self._place(outcome)
        elif self._has_caught_up:
            self._count(outcome)

    def add(self, outcome: Outcome) -> None:
        """Take an outcome as it comes."""
        self._has_caught_up = True
        self._count(outcome)

    def _count(self, outcome: Outcome) -> None:
        if outcome.outcome_index < self._places.get(outcome.run, 0):
            return
        self._place(outcome)
        kind = type(outcome).__name__
        match outcome:
            case VolumeOutcome():
                self._outcomes[f"{kind} {outcome.input} {outcome.timing}"] += 1
                self._volume(outcome)
            case TrialOutcome():
                self._outcomes[f"{kind} {outcome.decision} {outcome.timing}"] += 1
            case _:
                self._outcomes[kind] += 1
        self._degraded += bool(outcome.degraded)

    def _volume(self, outcome: VolumeOutcome) -> None:
        self._late += outcome.timing == "LATE"
        if outcome.input == "MISSING":
            is_known = outcome.reason in self._gaps or len(self._gaps) < GAP_REASONS
            self._gaps[outcome.reason if is_known else "OTHER"] += 1
        if outcome.input != "OK" or outcome.timing == "CATCHUP":
            return
        if outcome.received_ns is not None:
            waited_ns = outcome.published_ns - outcome.received_ns
            self._from_received = self._from_received.with_one(waited_ns)
        offset_ns, uncertainty_ns = (
            outcome.clock_offset_ns,
            outcome.clock_uncertainty_ns,
        )
        is_ours = "TIME_ANOMALY" not in outcome.degraded and (
            offset_ns is None or is_one_clock(offset_ns, uncertainty_ns)
        )
        if outcome.acquired_ns is not None and is_ours:
            waited_ns = outcome.published_ns - outcome.acquired_ns
            if waited_ns >= 0:
                self._from_acquired = self._from_acquired.with_one(waited_ns)

    def _place(self, outcome: Outcome) -> None:
        self._places[outcome.run] = outcome.outcome_index + 1
        while len(self._places) > KEPT_RUNS:
            del self._places[next(iter(self._places))]
