"""What a recording says of its runs, voxels and arrays left where they are.

Pure: it takes logs as `scan_recording` yields them. The server's own ledger says which
inputs were used, so that an export holds the volumes and trials that were answered.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from bci_bridge.actions import Refuse
from bci_bridge.arrays import volume_from
from bci_bridge.header import Header
from bci_bridge.ledger import Ledger
from bci_bridge.messages import (
    DecisionNote,
    Event,
    RigNote,
    RunEnd,
    RunStart,
    Shown,
    Volume,
)
from bci_bridge.outcomes import Outcome, RunEnded, TrialOutcome, VolumeOutcome
from bci_bridge.recording_reader import Break
from bci_bridge.recovery import is_folded
from bci_bridge.segment import Logged
from bci_bridge.survey import Answered
from bci_bridge.wire import Envelope
from runtime.arrays import Shaped
from runtime.errors import RecordingError

_UNKNOWN: Final = RunStart(shape=(1, 1, 1), tr_s=1.0, expected_volumes=1, budget_s=1.0)
"""In the place of a beginning that is not read yet; never exported."""


@dataclass
class RunFacts:
    """One run: its messages without their payloads."""

    start: RunStart
    kinds: dict[int, str] = field(default_factory=dict)
    """Voxel type of each recorded volume of the run's shape, by acquisition."""
    sent: dict[int, Volume] = field(default_factory=dict)
    """What the messages of those volumes say beside their voxels."""
    misshapen: set[int] = field(default_factory=set)
    """Acquisitions whose volume has another shape."""
    events: list[Event] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    end: RunEnd | None = None
    volumes: dict[int, VolumeOutcome] = field(default_factory=dict)
    trials: dict[str, TrialOutcome] = field(default_factory=dict)
    ended: RunEnded | None = None
    rigs: list[RigNote] = field(default_factory=list)
    """What computed its outcomes."""
    indices: set[int] = field(default_factory=set)
    """Of the outcomes that can be read."""
    beginnings: int = 0
    """Runs of this name; more than one cannot be told apart."""
    answered: Answered = field(default_factory=Answered)
    """How far its answers are on record."""
    notes: list[str] = field(default_factory=list)
    """What to know of it before it passes for whole."""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.start.run

    @property
    def count(self) -> int:
        """Acquisitions: those that were announced at the end, else those known of."""
        recorded = max(self.kinds.keys() | self.misshapen, default=-1) + 1
        if self.end is not None:
            return max(recorded, self.end.count)
        if self.ended is not None:
            return max(recorded, self.ended.count)
        return max(recorded, max(self.volumes, default=-1) + 1)

    @property
    def dtype(self) -> np.dtype:
        """The type that holds every recorded voxel exactly."""
        return np.result_type(*(f"<{kind}" for kind in set(self.kinds.values())))

    @property
    def missing(self) -> dict[int, str]:
        """Give the reason for each acquisition that has no voxels here."""
        return {
            index: self._reason(index)
            for index in range(self.count)
            if index not in self.kinds
        }

    @property
    def lost_outcomes(self) -> list[int]:
        """List the outcomes that must have been written and cannot be read."""
        return sorted(set(range(max(self.indices, default=-1))) - self.indices)

    def _reason(self, index: int) -> str:
        outcome = self.volumes.get(index)
        if index in self.misshapen:
            return "SHAPE_MISMATCH"
        if outcome is None:
            return "UNKNOWN"
        return outcome.reason or "MISSING" if outcome.input == "MISSING" else "LOST"


@dataclass
class RecordingFacts:
    """All runs of a recording, in the order in which they began, and what is lost."""

    runs: dict[str, RunFacts] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)
    starts: dict[str, Envelope] = field(default_factory=dict)
    """The runs' beginnings as the log of outcomes repeats them."""
    orphans: int = 0
    """Messages of runs whose beginning is lost in both logs."""


class _Followed:
    """The inputs that were used."""

    def __init__(self, starts: Mapping[str, Envelope]) -> None:
        self._ledger, self._starts = Ledger(), starts
        self._begun: set[str] = set()
        self.orphans = 0

    def used(self, logged: Logged) -> Header | None:
        """Give what a message of the inputs' log says, if the server used it."""
        envelope = logged.envelope
        record = envelope.record
        if not is_folded(logged):
            return None
        if not isinstance(record, RunStart) and record.run != self._ledger.run_id:
            # Its beginning is lost here; the other log repeats it. A run that was
            # left for another one does not go on.
            start = self._starts.get(record.run)
            if start is None or record.run in self._begun:
                self.orphans += 1
                return None
            self._ledger.fold(start, logged.log_ns)
        actions = self._ledger.fold(envelope, logged.log_ns)
        self._begun.add(self._ledger.run_id)
        if self._ledger.run is None or isinstance(record, DecisionNote):
            return None
        is_refused = any(isinstance(action, Refuse) for action in actions)
        return None if is_refused else record


def facts_of(
    inputs: Iterable[Logged | Break], outcomes: Iterable[Logged | Break]
) -> RecordingFacts:
    """Read both logs.

    Args:
        inputs: As `scan_recording` yields the log of inputs.
        outcomes: As it yields the log of outcomes.
    """
    facts = RecordingFacts()
    answers = _Answers(facts)
    for item in outcomes:
        if isinstance(item, Break):
            if item.kind == "LOST":
                facts.losses.append(f"outcomes: {item.what}")
        else:
            answers.add(item.envelope)
    facts.runs, answered = {}, facts.runs
    followed = _Followed(facts.starts)
    at = 0
    for item in inputs:
        if isinstance(item, Break):
            if item.kind == "LOST":
                facts.losses.insert(at, f"inputs: {item.what}")
                at += 1
            continue
        record = followed.used(item)
        if record is not None:
            _add_input(facts, answered, record)
    facts.orphans = followed.orphans
    for name, run in answered.items():
        if name in facts.starts:
            # A run of which nothing but answers is left is still a run.
            facts.runs.setdefault(name, run)
        elif name not in facts.runs:
            facts.orphans += len(run.indices)
    return facts


def _add_input(
    facts: RecordingFacts, answered: Mapping[str, RunFacts], record: Header
) -> None:
    run = facts.runs.get(record.run)
    if isinstance(record, RunStart):
        if run is None:
            run = answered.get(record.run, RunFacts(record))
            facts.runs[record.run] = run
            run.start, run.beginnings = record, 0
        run.beginnings += 1
        return
    if run is None:
        run = facts.runs[record.run] = answered[record.run]
    match record:
        case Volume(volume_index=index):
            if record.shape == run.start.shape:
                run.kinds.setdefault(index, record.dtype)
                run.sent.setdefault(index, record)
            else:
                run.misshapen.add(index)
        case Event():
            run.events.append(record)
        case Shown():
            run.shown.append(record)
        case RunEnd():
            run.end = record


class _Answers:
    """The log of outcomes, added to the facts."""

    def __init__(self, facts: RecordingFacts) -> None:
        self._facts = facts
        self._rig: RigNote | None = None

    def add(self, envelope: Envelope) -> None:
        """Take one message."""
        record = envelope.record
        if isinstance(record, RigNote):
            # Where it stands in the log makes no other rig of it.
            self._rig = msgspec.structs.replace(record, sequence=0, sent_ns=0)
        elif isinstance(record, RunStart):
            self._facts.starts.setdefault(record.run, envelope)
            self._facts.runs.setdefault(record.run, RunFacts(record)).start = record
        elif isinstance(record, Outcome):
            # Where its beginning is lost here, the log of inputs gives it.
            unknown = RunFacts(_UNKNOWN)
            self._add_outcome(self._facts.runs.setdefault(record.run, unknown), record)

    def _add_outcome(self, run: RunFacts, outcome: Outcome) -> None:
        # The first counts, if a worker repeated what another had said.
        if outcome.outcome_index in run.indices:
            return
        run.indices.add(outcome.outcome_index)
        run.answered.add(outcome)
        if self._rig is not None and self._rig not in run.rigs:
            run.rigs.append(self._rig)
        match outcome:
            case VolumeOutcome(volume_index=index):
                run.volumes.setdefault(index, outcome)
            case TrialOutcome(trial_id=trial_id):
                run.trials.setdefault(trial_id, outcome)
            case RunEnded():
                run.ended = outcome


def recorded_volumes(
    inputs: Iterable[Logged | Break],
    facts: RecordingFacts,
    runs: Mapping[str, RunFacts],
) -> Iterator[tuple[RunFacts, int, Shaped[np.ndarray, "x y z"]]]:
    """Yield the volumes that the facts list, one at a time, in the log's order.

    These and no other: a log that is being written has more of them by now, for which
    nobody has made room.

    Args:
        inputs: The log that the facts were read from, again.
        facts: What `facts_of` gave.
        runs: The runs that are wanted, by name.

    Raises:
        RecordingError: One of them is no longer there.
    """
    followed = _Followed(facts.starts)
    given: set[tuple[str, int]] = set()
    for item in inputs:
        if isinstance(item, Break):
            continue
        record = followed.used(item)
        if not isinstance(record, Volume) or record.run not in runs:
            continue
        run, place = runs[record.run], (record.run, record.volume_index)
        is_listed = record.volume_index in run.kinds
        if is_listed and record.shape == run.start.shape and place not in given:
            given.add(place)
            yield run, record.volume_index, volume_from(item.envelope)
    listed = sum(len(run.kinds) for run in runs.values())
    if len(given) != listed:
        raise RecordingError(
            f"log of inputs: expected the {listed} volumes that it had a moment ago, "
            f"found {len(given)}. It was changed meanwhile; export it again."
        )
