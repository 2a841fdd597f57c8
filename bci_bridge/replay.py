"""A server's recording through the decoder again, and what comes out differently.

Pure: no file, socket or clock.

Theory of operation
===================

A recording is two logs: inputs (with the server's own decisions) and outcomes. The
first is folded by the very code that folded it live (`Ledger`, `Worker`), and what
comes out is held against the second, outcome by outcome.

What the live server took from its clock is read from the logs. That a volume was
MISSING_BY_DEADLINE, that a run was taken over or the server stopped, are decisions
among the inputs. When a message was read is its instant in the log; when a volume was
decided is in its outcome: the worker's clock shows the recorded instants, so that LATE,
hold-last and drop follow from them as they did, and a label that contradicts its
instants is found. Everything else follows from the inputs and is compared.

That a decoder was not asked again, because it had failed by a defect or for want of
memory, is taken from the outcomes too: the inputs alone do not lead to it.

Where inputs are lost, the state of the decoder is not known until the next run; what is
recorded of that run beyond is counted as left out. Outcomes that are lost are left out
themselves; that a volume was late is then read from the trials that it made due, or
taken not to be so, and under hold-last what a later answer repeats may differ. Unless
late answers are only flagged, how many trials were decided which way is then not
compared. Where a server was killed for good, the last outcomes may never have been
written: what there is is compared, and what the record lacks is counted.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bci_bridge.actions import (
    Action,
    AddTrial,
    AddVolume,
    EndRun,
    Note,
    SkipVolume,
    StartRun,
)
from bci_bridge.answering import sealed
from bci_bridge.as_recorded import AsRecorded
from bci_bridge.decoder import Decoder
from bci_bridge.difference import Difference, differences
from bci_bridge.ledger import Ledger
from bci_bridge.messages import DecisionNote, RunStart, kind_of
from bci_bridge.record import Record
from bci_bridge.recorded_run import RecordedRuns, RunRecord
from bci_bridge.recording_reader import Break
from bci_bridge.recovery import is_folded
from bci_bridge.segment import Logged
from bci_bridge.suspicion import Suspicion
from bci_bridge.wire import Envelope, encode
from bci_bridge.worker import Outgoing, Worker
from runtime.errors import RecordingError


@dataclass(frozen=True, slots=True)
class Replayed:
    """One step: what it gives now, and how that compares with the record."""

    run: str
    outcomes: tuple[Envelope, ...] = ()
    """Computed again, numbered; instants are the record's or meaningless."""
    compared: int = 0
    """Recorded outcomes that were compared."""
    left_out: int = 0
    """Recorded outcomes that cannot be, because something is lost."""
    differences: tuple[Difference, ...] = ()
    lacking: int = 0
    """Outcomes after the last recorded one that the inputs lead to. No differences: the
    record is torn there, or cannot be read, or the run has no end."""
    has_end: bool = False
    """The run's end is on record; known from the step that closes it."""


def replay(
    inputs: Iterable[Logged | Break],
    outcomes: Iterable[Logged | Break],
    decoder: Decoder,
) -> Iterator[Replayed]:
    """Compute every step of a recording again.

    Args:
        inputs: As `scan_recording` yields the log of inputs.
        outcomes: As it yields the log of outcomes.
        decoder: Opened on the bundle, gallery and overlay that the outcomes cite.

    Raises:
        RecordingError: An outcome cites another bundle, gallery or overlay.
    """
    steps = _Replay(decoder, RecordedRuns(outcomes))
    for item in inputs:
        if isinstance(item, Break):
            yield from steps.interrupt(is_lost=item.kind != "TORN")
        elif is_folded(item):
            yield from steps.step(item)
    yield from steps.finish()


class _Replay:
    """The server's state, as its log of inputs makes it."""

    def __init__(self, decoder: Decoder, recorded: RecordedRuns) -> None:
        self._decoder, self._now_ns = AsRecorded(decoder), 0
        self._worker = Worker(self._decoder, lambda: self._now_ns)
        self._ledger, self._suspicion = Ledger(), Suspicion()
        self._recorded = recorded
        self._run: RunRecord | None = None
        self._made = Record()
        # A decision that follows from the last volume, and must come next.
        self._owed: list[Envelope] = []
        self._is_torn = False

    def interrupt(self, *, is_lost: bool) -> Iterator[Replayed]:
        """Pass a break in the inputs; where some are lost, nothing more is known."""
        self._is_torn = True
        self._owed = []
        if is_lost:
            self._suspicion.forget()
            yield from self._abandon(())

    def step(self, logged: Logged) -> Iterator[Replayed]:
        """Compute what one input or decision leads to."""
        record = logged.envelope.record
        if isinstance(record, RunStart):
            yield from self._close()
        faults = self._suspicion.of(record, self._ledger)
        faults += self._unpaid(logged.envelope)
        if faults:
            yield from self._abandon(faults)
            return
        if isinstance(record, RunStart):
            self._open(record)
        if self._run is None:
            return
        yield from self._compared(self._ledger.fold(logged.envelope, logged.log_ns))
        yield from self._updated(logged.order)
        self._is_torn = False

    def finish(self) -> Iterator[Replayed]:
        """Compare what is left; runs without any input are no run's."""
        yield from self._close(is_last=True)
        for run in self._recorded.rest():
            left_out = len(run.outcomes)
            yield Replayed(run.name, left_out=left_out, has_end=run.has_end)

    def _open(self, start: RunStart) -> None:
        self._run = self._recorded.take(start.run)
        self._check_identity(self._run)
        self._made = Record()
        self._decoder.refused = self._run.refused()
        self._worker = Worker(self._decoder, lambda: self._now_ns, self._run.rig)

    def _compared(self, actions: list[Action]) -> Iterator[Replayed]:
        run = self._run
        if run is None:
            return
        made: list[Envelope] = []
        found: list[Difference] = []
        compared = 0
        for outcome, payload in self._carry_out(actions, run):
            self._made.count = run.place(outcome, self._made.count)
            envelope = sealed(outcome, payload, self._made, self._now_ns)
            index = self._made.count - 1
            recorded = run.outcomes.pop(index, None)
            made.append(envelope)
            if recorded is not None:
                compared += 1
                found += [
                    one
                    for one in differences(run.name, recorded, envelope)
                    if one.field != "decisions" or self._are_decisions_known(run)
                ]
            elif index < run.newest and index not in run.lost:
                kind = kind_of(envelope.record)
                found.append(Difference(run.name, index, "kind", "none", kind))
        if made or found:
            yield Replayed(run.name, tuple(made), compared, 0, tuple(found))

    def _are_decisions_known(self, run: RunRecord) -> bool:
        # A trial whose outcome is lost may have been answered too late.
        ledger = self._ledger.run
        return not run.lost or ledger is None or ledger.start.late == "flag"

    def _updated(self, order: int) -> Iterator[Replayed]:
        """Estimate again what was estimated when this was the newest input.

        Whether there was time for it is the record's to say.
        """
        run = self._run
        if run is None:
            return
        while (taken := run.take_update(self._made.count, order)) is not None:
            record, recorded = taken
            index = self._made.count = record.outcome_index
            update = self._worker.update(record.trial_id, order)
            if update is None:
                self._made.count = index + 1
                gone = Difference(run.name, index, "kind", kind_of(record), "none")
                yield Replayed(run.name, compared=1, differences=(gone,))
                continue
            envelope = sealed(*update, self._made, self._now_ns)
            found = differences(run.name, recorded, envelope)
            yield Replayed(run.name, (envelope,), 1, 0, tuple(found))

    def _carry_out(self, actions: list[Action], run: RunRecord) -> Iterator[Outgoing]:
        for action in actions:
            what = _asked_for(action)
            if what is not None:
                self._decoder.ended = run.ended_by(what)
            match action:
                case StartRun(start):
                    cited = run.configuration_sha256
                    self._worker.start(start, self._made, cited)
                case Note(note):
                    self._owed.append(encode(note))
                case AddTrial():
                    self._now_ns = 0
                    yield from self._worker.add_trial(action)
                case AddVolume(volume):
                    self._now_ns = run.decided_ns(
                        volume.volume_index, action.deadline_ns
                    )
                    yield from self._worker.add_volume(action)
                case SkipVolume(index):
                    self._now_ns = run.decided_ns(index, action.deadline_ns)
                    yield from self._worker.skip_volume(action)
                case EndRun():
                    self._now_ns = 0
                    yield from self._worker.end(action)

    def _unpaid(self, envelope: Envelope) -> list[Difference]:
        """Compare a decision that had to follow; find one that did not."""
        owed, self._owed = self._owed, []
        run = envelope.record.run
        is_note = (
            isinstance(envelope.record, DecisionNote)
            and envelope.record.what == "LATE_VOLUME_NOT_USED"
        )
        if is_note and owed:
            return differences(run, envelope, owed[0])
        if is_note and self._run is not None:
            return [Difference(run, -1, "DECISION", "one", "none")]
        if owed and not self._is_torn:
            return [Difference(run, -1, "DECISION", "none", "one")]
        return []

    def _abandon(self, faults: Iterable[Difference]) -> Iterator[Replayed]:
        """Compute nothing more of this run."""
        run, self._run = self._run, None
        faults = tuple(faults)
        if run is None:
            if faults:
                yield Replayed(faults[0].run, differences=faults)
            return
        yield Replayed(
            run.name,
            left_out=len(run.outcomes),
            differences=faults,
            has_end=run.has_end,
        )

    def _close(self, *, is_last: bool = False) -> Iterator[Replayed]:
        """Compare the end of a run: what is recorded and was not made, or not ended."""
        run, self._run = self._run, None
        if run is None:
            return
        found = [
            Difference(run.name, index, "kind", kind_of(one.record), "none")
            for index, one in sorted(run.outcomes.items())
        ]
        missing = [
            index
            for index in range(run.newest + 1, self._made.count)
            if index not in run.lost
        ]
        is_over = self._ledger.state == "ENDED"
        if not is_over and not is_last:
            # The next run cannot begin before this one is over.
            index = self._made.count
            found.append(Difference(run.name, index, "kind", "none", "RUN_ENDED"))
        elif is_over and not run.is_torn:
            found += [
                Difference(run.name, index, "kind", "none", "an outcome")
                for index in missing
            ]
            missing = []
        yield Replayed(
            run.name,
            differences=tuple(found),
            lacking=len(missing),
            has_end=run.has_end,
        )

    def _check_identity(self, run: RunRecord) -> None:
        for envelope in run.outcomes.values():
            for what in ("bundle", "gallery", "preprocessing", "overlay"):
                wanted = getattr(envelope.record, f"{what}_sha256")
                found = getattr(self._decoder, f"{what}_sha256")
                if wanted != found:
                    remedy = f"Give the {what} that answered."
                    raise RecordingError(
                        f"run {run.name}: {what}: expected {wanted or 'none'} as "
                        f"recorded, found {found or 'none'}. "
                        f"{remedy if wanted else 'Replay without one.'}"
                    )
            return


def _asked_for(action: Action) -> int | str | None:
    match action:
        case AddVolume(volume):
            return volume.volume_index
        case SkipVolume(index):
            return index
        case EndRun():
            return ""
        case _:
            return None
