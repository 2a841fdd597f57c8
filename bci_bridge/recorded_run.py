"""The outcomes of a recording, run by run. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bci_bridge.ended import ended_in
from bci_bridge.messages import RigNote
from bci_bridge.outcomes import Outcome, RunEnded, TrialOutcome, Update, VolumeOutcome
from bci_bridge.recording_reader import Break
from bci_bridge.segment import Logged
from bci_bridge.wire import Envelope


@dataclass(slots=True)
class RunRecord:
    """What is on record of one run's answers."""

    name: str
    outcomes: dict[int, Envelope] = field(default_factory=dict)
    """By index; the first counts, if a worker repeated what another had said."""
    newest: int = -1
    lost: set[int] = field(default_factory=set)
    """Indices among them that cannot be read."""
    rig: RigNote | None = None
    """What the worker computed with that began it."""
    is_torn: bool = False
    """Its last outcomes may never have been written, or cannot be read."""
    has_end: bool = False
    """Its end is among them."""
    _decided: dict[int, int] = field(default_factory=dict)
    _late: dict[int, int] = field(default_factory=dict)
    """When a late trial was decided, by the volume that made it due."""
    _places: dict[int | str, int] = field(default_factory=dict)

    @property
    def configuration_sha256(self) -> str:
        """What the run's first readable outcome says that it was done with."""
        for envelope in self.outcomes.values():
            if isinstance(envelope.record, Outcome):
                return envelope.record.configuration_sha256
        return ""

    def add(self, envelope: Envelope, *, after_loss: bool) -> None:
        """Take the next outcome of the log."""
        outcome = envelope.record
        if not isinstance(outcome, Outcome):
            return
        index = outcome.outcome_index
        if after_loss:
            self.lost |= set(range(self.newest + 1, index))
        if index in self.outcomes:
            return
        self.outcomes[index], self.is_torn = envelope, False
        self.newest = max(self.newest, index)
        self.has_end = self.has_end or isinstance(outcome, RunEnded)
        if not isinstance(outcome, Update):
            self._places[_key(outcome)] = index
        if isinstance(outcome, VolumeOutcome):
            self._decided[outcome.volume_index] = outcome.decided_ns
        # The volume that made it due may be lost, and was as late.
        if isinstance(outcome, TrialOutcome) and outcome.timing == "LATE":
            self._late.setdefault(outcome.after_volume, outcome.decided_ns)

    def place(self, outcome: Outcome, index: int) -> int:
        """Say which index an outcome has that is made again.

        Args:
            outcome: Made again.
            index: That of the one before, and one.

        Returns:
            Where it is on record, if only what cannot be read lies between: updates,
            which may be among that, are not made unless they are on record.
        """
        known = self._places.get(_key(outcome), index)
        is_lost = all(between in self.lost for between in range(index, known))
        return known if known > index and is_lost else index

    def take_update(self, index: int, order: int) -> tuple[Update, Envelope] | None:
        """Take out an update that comes next, if it rests on the inputs up to `order`.

        Args:
            index: That of the outcome before, and one; what is lost may lie between.
            order: Place in the log of the newest input.
        """
        while index in self.lost:
            index += 1
        found = self.outcomes.get(index)
        if found is None or not isinstance(found.record, Update):
            return None
        if found.record.after_input != order:
            return None
        return found.record, self.outcomes.pop(index)

    def ended_by(self, what: int | str) -> str:
        """Say by what the decoder ended at an acquisition or the run's end, if it did.

        Args:
            what: The acquisition, or empty for the end.
        """
        return self._said_at(self._places.get(what, -1))

    def refused(self) -> frozenset[str]:
        """Name the trials that were refused because a decoder had ended.

        It may be another worker's than the one that would have answered.
        """
        return frozenset(
            one.record.trial_id
            for one in self.outcomes.values()
            if isinstance(one.record, TrialOutcome) and ended_in(one.record)
        )

    def _said_at(self, place: int) -> str:
        found = self.outcomes.get(place)
        record = None if found is None else found.record
        return ended_in(record) if isinstance(record, Outcome) else ""

    def decided_ns(self, volume_index: int, deadline_ns: int | None) -> int:
        """Say when an acquisition was decided; at its deadline if that is lost."""
        at_deadline = 0 if deadline_ns is None else deadline_ns
        if volume_index in self._decided:
            return self._decided[volume_index]
        if volume_index in self._late:
            # A worker that said it for one that had died may have had it in time:
            # what is late is the volume.
            return max(self._late[volume_index], at_deadline + 1)
        return at_deadline


def _key(outcome: Outcome) -> int | str:
    """Tell the outcomes of a run that are made of inputs alone from each other."""
    match outcome:
        case VolumeOutcome(volume_index=index):
            return index
        case TrialOutcome(trial_id=trial_id):
            return trial_id
        case _:
            return ""  # the end


class RecordedRuns:
    """The runs of a whole log of outcomes, which it holds in memory."""

    def __init__(self, log: Iterable[Logged | Break]) -> None:
        self._runs: dict[str, RunRecord] = {}
        self._has_break = False
        rig: RigNote | None = None
        newest: RunRecord | None = None
        after_loss = False
        for item in log:
            if isinstance(item, Break):
                self._has_break = True
                after_loss = after_loss or item.kind == "LOST"
                if newest is not None:
                    # Unless more of it follows, which `add` finds.
                    newest.is_torn = True
                continue
            run = item.envelope.record.run
            if isinstance(item.envelope.record, RigNote):
                rig = item.envelope.record
            if isinstance(item.envelope.record, Outcome):
                newest = self._runs.setdefault(run, RunRecord(run, rig=rig))
                newest.add(item.envelope, after_loss=after_loss)
                after_loss = False

    def take(self, run: str) -> RunRecord:
        """Give the outcomes of a run; none where there are none."""
        return self._runs.pop(run, RunRecord(run, is_torn=self._has_break))

    def rest(self) -> Iterator[RunRecord]:
        """Give the runs that were not taken."""
        yield from self._runs.values()
