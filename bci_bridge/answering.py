"""From the log of inputs to the log of outcomes, for one worker of several.

Pure but for the clock that it is given: no socket, no file. Every worker folds the same
log. The active one emits what is not on record yet; a standby takes a message only once
all that it leads to must be on record, so that its decoder keeps up without computing
any answer, and so that it stands one acquisition behind when its turn comes.
"""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import structs

from bci_bridge.actions import AddTrial, AddVolume, EndRun, SkipVolume, StartRun
from bci_bridge.admission import Admission
from bci_bridge.decoder import Decoder
from bci_bridge.header import Header
from bci_bridge.ledger import Ledger
from bci_bridge.messages import (
    ConfigurationNote,
    DecisionNote,
    Missing,
    RigNote,
    RunEnd,
    RunStart,
    StateNote,
    Volume,
)
from bci_bridge.outcomes import Outcome, RunEnded, TrialOutcome, VolumeOutcome
from bci_bridge.record import Record
from bci_bridge.segment import Logged
from bci_bridge.updates import Updates
from bci_bridge.wire import Envelope, encode
from bci_bridge.worker import Outgoing, Worker
from runtime.errors import FrozenRunError, PeerError, UsageError

LOST: Final = "LOST"
"""Why an acquisition has no volume of which the log cannot be read."""

_NOTHING: Final = Record()
"""On record of a run that nothing is known of; read only."""


class Answering:
    """One worker's view of both logs."""

    def __init__(
        self,
        decoder: Decoder,
        clock_ns: Callable[[], int],
        rig: RigNote | None = None,
    ) -> None:
        self._clock_ns, self._admission = clock_ns, Admission.of(decoder)
        self._worker, self._ledger = Worker(decoder, clock_ns, rig), Ledger()
        # By run, in the order in which they began.
        self._records: dict[str, Record] = {}
        self._pending: list[Outgoing | RunStart] = []
        self._updates, self._taken = Updates(), 0

    @property
    def owed(self) -> int:
        """How much waits for `emit`; much of it may be on record by then."""
        return len(self._pending)

    @property
    def is_all_said(self) -> bool:
        """Whether all that the inputs taken so far lead to is on record."""
        return not any(map(self._is_owed, self._pending))

    def know(self, logged: Logged) -> None:
        """Take a message of the outcomes' log: this need not be answered again."""
        record = logged.envelope.record
        match record:
            case Outcome(run=run):
                if run not in self._records:
                    self._records[run] = Record()
                self._records[run].add(record)
            case RunStart(run=run):
                self._records.setdefault(run, Record())
            case ConfigurationNote(run=run):
                self._records.setdefault(run, Record()).frozen = logged.envelope.payload

    def is_settled(self, logged: Logged) -> bool:
        """Say whether all that an input leads to must be on record already."""
        record = logged.envelope.record
        if self._is_stray(record):
            return True
        known = self._records.get(record.run, _NOTHING)
        match record:
            case Volume(volume_index=index) | Missing(volume_index=index):
                return known.is_settled(index)
            case DecisionNote(what="LATE_VOLUME_NOT_USED" | "STREAM_KEY"):
                return True
            case DecisionNote(what="MISSING_BY_DEADLINE"):
                return known.is_settled(self._ledger.next_index)
            case RunEnd() | DecisionNote():
                return known.has_ended
            case _:
                return True

    def take(self, logged: Logged) -> None:
        """Take a message of the inputs' log; what it leads to waits for `emit`."""
        record = logged.envelope.record
        if isinstance(record, StateNote):
            self._go_on(Ledger.from_note(logged.envelope))
            return
        if self._is_stray(record):
            return
        self._taken = logged.order
        for action in self._ledger.fold(logged.envelope, logged.log_ns):
            match action:  # what concerns only the peer and the log leads to nothing
                case AddVolume():
                    self._add_volume(action, logged.log_ns)
                case AddTrial():
                    self._pending += self._worker.add_trial(action)
                # By keyword: for a position, CPython 3.11 makes a string each time,
                # and its cache of attributes keeps thousands of them.
                case StartRun(record=start):
                    self._begin(start)
                case SkipVolume():
                    self._pending += self._worker.skip_volume(action)
                    self._renew(logged.log_ns)
                case EndRun():
                    self._pending += self._worker.end(action)
                    self._updates.stop()

    def emit(self, degraded: tuple[str, ...] = ()) -> list[Envelope]:
        """Give what is not on record yet, numbered, in order; it must go there now.

        Args:
            degraded: What every one of them is to say besides its own reasons.
        """
        pending, self._pending = self._pending, []
        emitted: list[Envelope] = []
        for item in filter(self._is_owed, pending):
            if isinstance(item, RunStart):
                emitted += [encode(item), self._frozen(item.run)]
                continue
            outcome, payload = item
            if degraded:
                outcome = structs.replace(
                    outcome, degraded=(*outcome.degraded, *degraded)
                )
            record = self._records[outcome.run]
            emitted.append(sealed(outcome, payload, record, self._clock_ns()))
        return emitted

    def _is_owed(self, item: Outgoing | RunStart) -> bool:
        # A run that is forgotten is on record as a whole.
        known = self._records.get(_run_of(item))
        if known is None:
            return False
        if isinstance(item, RunStart):
            return known.count == 0
        return not _is_on_record(known, item[0])

    def update(self, degraded: tuple[str, ...] = ()) -> Envelope | None:
        """Give an earlier estimate of a trial, numbered; it must go on record now.

        Only where all inputs that there are have been taken, and all they lead to
        emitted.

        Args:
            degraded: As of `emit`.

        Returns:
            None where none is asked for, or there is no time for one.
        """
        begin_ns = self._clock_ns()
        while (trial_id := self._updates.next(begin_ns)) is not None:
            made = self._worker.update(trial_id, self._taken)
            if made is None:
                continue
            self._updates.took(self._clock_ns() - begin_ns)
            outcome, payload = made
            outcome = structs.replace(outcome, degraded=(*outcome.degraded, *degraded))
            record = self._records[outcome.run]
            return sealed(outcome, payload, record, self._clock_ns())
        return None

    def _begin(self, start: RunStart) -> None:
        record = self._records.setdefault(start.run, Record())
        self._forget_before(start.run)
        self._worker.start(start, record, record.cited_sha256)
        self._require_same(start, record)
        self._updates.start(start)
        self._pending.append(start)

    def _is_stray(self, record: Header) -> bool:
        """Say whether a message belongs to a run whose beginning is lost."""
        is_other = record.run != self._ledger.run_id
        return is_other and not isinstance(record, RunStart)

    def _go_on(self, known: Ledger) -> None:
        """Begin a run whose beginning is lost, where the log says that it goes on.

        Its acquisitions so far are answered too, so that each has its outcome.
        """
        run = known.run
        is_new = known.run_id != self._ledger.run_id
        if run is None or known.state != "RUNNING" or not is_new:
            return
        self._ledger = known
        self._begin(run.start)
        for index in range(known.next_index):
            skip = SkipVolume(index, "MISSING", LOST, None)
            self._pending += self._worker.skip_volume(skip)

    def _add_volume(self, action: AddVolume, read_ns: int) -> None:
        begin_ns = self._clock_ns()
        made = self._worker.add_volume(action)
        if any(_is_answer(outcome) for outcome, _ in made):
            self._updates.took(self._clock_ns() - begin_ns)
        self._pending += made
        self._renew(read_ns)

    def _renew(self, read_ns: int) -> None:
        if self._updates.is_on:
            self._updates.renew(read_ns, self._worker.waiting())

    def _frozen(self, run: str) -> Envelope:
        configuration = self._worker.configuration
        if configuration is None:
            raise UsageError("worker: expected a run, found none")
        note = ConfigurationNote(run=run, stream="server", sha256=configuration.sha256)
        return encode(note, msgspec.json.encode(configuration, order="sorted"))

    def _require_same(self, start: RunStart, record: Record) -> None:
        """Refuse to go on with a run that began under something else."""
        configuration = self._worker.configuration
        if configuration is None or record.has_ended:
            return
        if record.cited_sha256 in ("", configuration.sha256):
            try:
                self._admission.check(start)
            except PeerError as error:
                raise _under_way(start.run, error.detail) from error
            return
        other = configuration.differs_from(record.frozen)
        found = f"another {', '.join(other)}" if other else "another"
        raise _under_way(
            start.run, f"expected the configuration it began with, found {found}"
        )

    def _forget_before(self, run: str) -> None:
        for known in list(self._records):
            if known == run:
                break
            del self._records[known]
        # A standby never emits: without this it would keep a word of every run.
        self._pending = [
            item for item in self._pending if _run_of(item) in self._records
        ]


def _under_way(run: str, what: str) -> FrozenRunError:
    return FrozenRunError(
        f"run {run}, which is under way in the log: {what}. "
        "Serve with what it began with, or on another log"
    )


def _run_of(item: Outgoing | RunStart) -> str:
    return item.run if isinstance(item, RunStart) else item[0].run


def sealed(outcome: Outcome, payload: bytes, record: Record, now_ns: int) -> Envelope:
    """Give an outcome its index and instant, and put it on record.

    The last one of a run counts what is on record before it.
    """
    index = record.count
    if isinstance(outcome, RunEnded):
        outcome = structs.replace(
            outcome, inputs=record.inputs(), decisions=record.decisions()
        )
    numbered = structs.replace(
        outcome,
        outcome_index=index,
        sequence=index,
        published_ns=now_ns,
        sent_ns=now_ns,
    )
    record.add(numbered)
    return encode(numbered, payload)


def _is_answer(outcome: Outcome) -> bool:
    return isinstance(outcome, TrialOutcome) and outcome.decision == "ANSWER"


def _is_on_record(record: Record, outcome: Outcome) -> bool:
    match outcome:
        # Outcomes are written in order: one before the newest, or in a run that has
        # ended, was given, also where it cannot be read any more.
        case VolumeOutcome(volume_index=index):
            return index in record.volumes or record.is_settled(index)
        case TrialOutcome(trial_id=trial_id):
            return trial_id in record.trials or record.has_ended
        case RunEnded():
            return record.has_ended
    return False
