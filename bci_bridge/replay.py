"""A server's recording through the decoder again, and what comes out differently.

Pure: no file, socket or clock.

Theory of operation
===================

A server does one thing at a time. So its log is a sequence of steps: a cause, which is
an input or a decision of the server's own, and what it led to, up to the next cause.
A step is computed again by the very code that computed it live (`Acquisitions`,
`Worker`, `Outbox`) and held against its record.

What the live server took from its clock is read from the log. That a volume was
MISSING_BY_DEADLINE, that a run was taken over or the server stopped, are decisions on
record before what they led to. When a volume was read and when it was decided are on
record in its outcome: the worker's clock shows the recorded instants, so that LATE,
hold-last and drop follow from them as they did, and a label that contradicts its
instants is found. Everything else follows from the inputs and is compared.

Where messages are lost, the state of the decoder is not known until the next run; what
is recorded in between is counted as left out. Where the process was killed, the last
step may be unfinished: what it has is compared.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bci_bridge.acquisitions import Acquisitions
from bci_bridge.actions import AddTrial, AddVolume, EndRun, Note, Refuse, SkipVolume
from bci_bridge.difference import Difference, compare_notes, compare_outcomes
from bci_bridge.header import Header
from bci_bridge.messages import DecisionNote, RunEnd, RunStart, Volume, kind_of
from bci_bridge.outbox import Outbox
from bci_bridge.outcomes import Outcome, VolumeOutcome
from bci_bridge.recording_reader import Break, Logged
from bci_bridge.wire import Envelope, encode
from bci_bridge.worker import Decoder, Outgoing, Worker
from runtime.errors import PeerError, RecordingError


@dataclass(frozen=True, slots=True)
class Replayed:
    """One step: what it gives now, and how that compares with the record."""

    run: str
    outcomes: tuple[Envelope, ...] = ()
    """Computed again, numbered; instants are the record's or meaningless."""
    compared: int = 0
    """Recorded outcomes that were compared."""
    left_out: int = 0
    """Recorded outcomes that cannot be, because messages before them are lost."""
    differences: tuple[Difference, ...] = ()


def replay(log: Iterable[Logged | Break], decoder: Decoder) -> Iterator[Replayed]:
    """Compute every step of a log again.

    Args:
        log: As `scan_recording` yields it.
        decoder: Opened on the bundle and gallery that the outcomes cite.

    Raises:
        RecordingError: If a run does not fit the decoder.
    """
    steps = _Replay(decoder)
    cause: Envelope | None = None
    led: list[Envelope] = []
    for item in log:
        if isinstance(item, Break):
            is_whole = item.kind == "NEXT_SERVER"
            yield from steps.step(cause, led, is_whole=is_whole)
            yield from steps.interrupt(is_whole=is_whole, is_lost=item.kind == "LOST")
        elif _is_consequence(item):
            led.append(item.envelope)
            continue
        elif not _is_cause(item):
            continue
        else:
            yield from steps.step(cause, led, is_whole=True)
        cause, led = None if isinstance(item, Break) else item.envelope, []
    yield from steps.step(cause, led, is_whole=True)
    yield from steps.interrupt(is_whole=True)


def _is_consequence(logged: Logged) -> bool:
    record = logged.envelope.record
    if isinstance(record, DecisionNote):
        return record.what == "LATE_VOLUME_NOT_USED"
    return isinstance(record, Outcome)


def _is_cause(logged: Logged) -> bool:
    is_note = isinstance(logged.envelope.record, DecisionNote)
    return is_note or logged.topic.startswith("in/")


class _Replay:
    """The server's state, as the log makes it."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._now_ns = decoder, 0
        self._worker = Worker(decoder, lambda: self._now_ns)
        self._outbox = Outbox()
        self._start: RunStart | None = None
        self._acquisitions: Acquisitions | None = None
        self._sequences: dict[str, int] = {}
        self._has_ended = self._is_lost = False

    def interrupt(self, *, is_whole: bool, is_lost: bool = False) -> Iterator[Replayed]:
        """Forget the run: what comes next does not belong to it, or cannot be known.

        Args:
            is_whole: Nothing is lost or torn here, so that the run must have ended.
            is_lost: What comes next may lack its beginning.
        """
        start, self._start, self._acquisitions = self._start, None, None
        self._is_lost = is_lost
        if start is not None and is_whole and not self._has_ended:
            index = self._outbox.count
            missing = Difference(start.run, index, "kind", "none", "RUN_ENDED")
            yield Replayed(start.run, differences=(missing,))

    def step(
        self, cause: Envelope | None, led: Sequence[Envelope], *, is_whole: bool
    ) -> Iterator[Replayed]:
        """Compute one step again.

        Args:
            cause: What was logged; None after a break.
            led: What it led to on record.
            is_whole: All that it led to must be on record.
        """
        on_record = [one for one in led if isinstance(one.record, Outcome)]
        first = next(iter(led), None) if cause is None else cause
        if first is None:
            return
        run = first.record.run
        faults = self._faults(first.record)
        if faults:
            # The order is broken: nothing that follows in this run can be computed.
            self._start = self._acquisitions = None
            self._is_lost = True
        is_unknown = self._start is None and not isinstance(first.record, RunStart)
        if faults or cause is None or is_unknown:
            yield Replayed(run, (), 0, len(on_record), tuple(faults))
            return
        recorded = [one.record for one in led]
        self._check_identity(run, recorded)
        outcomes: list[Envelope] = []
        notes: list[Envelope] = []
        for made in self._recompute(cause, recorded):
            if isinstance(made, DecisionNote):
                notes.append(encode(made))
            else:
                outcome, payload = made
                outcomes.append(self._outbox.seal(outcome, payload, self._now_ns))
        found = compare_notes(run, notes, cause, led, is_whole=is_whole)
        found += compare_outcomes(run, outcomes, on_record, is_whole=is_whole)
        yield Replayed(run, tuple(outcomes), len(on_record), 0, tuple(found))

    def _faults(self, cause: Header) -> list[Difference]:
        """List what no server would have accepted: the log was changed."""
        run, kind = cause.run, kind_of(cause)
        if isinstance(cause, RunStart):
            self._is_lost = False
            if self._start is not None and not self._has_ended:
                under_way = self._start.run
                return [Difference(under_way, -1, "run", under_way, cause.run)]
            self._sequences = {}
        elif self._start is None:
            wanted = "RUN_START before it"
            return [] if self._is_lost else [Difference(run, -1, kind, wanted, "none")]
        elif run != self._start.run:
            return [Difference(self._start.run, -1, "run", self._start.run, run)]
        elif self._has_ended:
            return [Difference(run, -1, kind, "none after the end", "one")]
        if isinstance(cause, DecisionNote | Outcome):
            return []
        sequence = self._sequences.get(cause.stream, 0)
        self._sequences[cause.stream] = sequence + 1
        if cause.sequence != sequence:
            name = f"{kind} of {cause.stream}: sequence"
            return [Difference(run, -1, name, str(sequence), str(cause.sequence))]
        if isinstance(cause, RunEnd) and self._acquisitions is not None:
            try:
                self._acquisitions.check_end(cause)
            except PeerError as error:
                return [Difference(run, -1, kind, "a possible count", str(error))]
        return []

    def _check_identity(self, run: str, recorded: Sequence[Header]) -> None:
        for record in recorded:
            if not isinstance(record, Outcome) or self._outbox.count:
                return
            for name in ("bundle_sha256", "gallery_sha256", "preprocessing_sha256"):
                wanted, found = getattr(record, name), getattr(self._decoder, name)
                if wanted != found:
                    what = name.removesuffix("_sha256")
                    raise RecordingError(
                        f"run {run}: {what}: expected {wanted} as recorded, "
                        f"found {found}. Give the {what} that answered."
                    )
            return

    def _recompute(
        self, cause: Envelope, recorded: Sequence[Header]
    ) -> Iterator[DecisionNote | Outgoing]:
        record = cause.record
        if isinstance(record, RunStart):
            self._begin(record)
            return
        if self._acquisitions is None:
            return
        self._now_ns = 0
        for action in self._actions(self._acquisitions, cause, recorded):
            match action:
                case Note(note):
                    yield note
                case AddTrial():
                    yield from self._worker.add_trial(action)
                case AddVolume(volume):
                    self._read_clock(recorded, volume.volume_index, action.deadline_ns)
                    yield from self._worker.add_volume(action)
                case SkipVolume(index):
                    self._read_clock(recorded, index, action.deadline_ns)
                    yield from self._worker.skip_volume(action)
                case EndRun():
                    self._has_ended = True
                    yield from self._worker.end(action)

    def _begin(self, start: RunStart) -> None:
        try:
            self._worker.admit(start)
        except PeerError as error:
            raise RecordingError(
                f"run {start.run}: expected a bundle that fits it, found {error}"
            ) from error
        self._worker.start(start)
        self._outbox.start_run(start.run)
        self._start, self._acquisitions = start, Acquisitions(start)
        self._has_ended = False

    def _actions(
        self, acquisitions: Acquisitions, cause: Envelope, recorded: Sequence[Header]
    ) -> list[object]:
        record = cause.record
        if isinstance(record, DecisionNote):
            if record.what == "MISSING_BY_DEADLINE":
                return [*acquisitions.declare_missing()]
            end = RunEnd(
                run=record.run,
                stream="server",
                count=acquisitions.next_index,
                aborted=True,
            )
            return [EndRun(end)]
        now_ns = 0
        if isinstance(record, Volume):
            outcome = _volume_outcome(recorded, record.volume_index)
            now_ns = record.acquired_ns
            if outcome is not None and outcome.received_ns is not None:
                now_ns = outcome.received_ns
        # A refused content led to a REJECT only, which is not on record.
        taken = acquisitions.take(b"", cause, now_ns)
        return [action for action in taken if not isinstance(action, Refuse)]

    def _read_clock(
        self, recorded: Sequence[Header], index: int, deadline_ns: int | None
    ) -> None:
        outcome = _volume_outcome(recorded, index)
        if outcome is not None:
            self._now_ns = outcome.decided_ns
        else:
            self._now_ns = 0 if deadline_ns is None else deadline_ns


def _volume_outcome(recorded: Sequence[Header], index: int) -> VolumeOutcome | None:
    for record in recorded:
        if isinstance(record, VolumeOutcome) and record.volume_index == index:
            return record
    return None
