"""A run as its log tells it: what every logged message changes, and leads to.

Pure: no socket, no clock, no file. One fold over the log, used by whoever writes it
(`bci_bridge.protocol`, which decides what may be logged), by whoever follows it
(`bci_bridge.answering`), and by whoever reads it later (`bci_bridge.replay`); so that
all three agree on which acquisition is missing and which trial is known.

The instant of a message is that at which it was read, which is its instant in the log.
"""

import hashlib
import struct
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from bci_bridge.acquisitions import Acquisitions, AcquisitionsState
from bci_bridge.actions import Action, EndRun, Note, StartRun
from bci_bridge.header import Header
from bci_bridge.messages import (
    DecisionNote,
    Event,
    Missing,
    RunEnd,
    RunStart,
    Shown,
    StateNote,
    Trigger,
    Volume,
)
from bci_bridge.wire import Envelope, encode
from runtime.errors import RecordingError

State = Literal["IDLE", "RUNNING", "ENDED"]

TRANSITIONS: Final[dict[tuple[State, type[Header]], State]] = {
    ("IDLE", RunStart): "RUNNING",
    ("RUNNING", Volume): "RUNNING",
    ("RUNNING", Missing): "RUNNING",
    ("RUNNING", Event): "RUNNING",
    ("RUNNING", Trigger): "RUNNING",
    ("RUNNING", Shown): "RUNNING",
    ("RUNNING", RunEnd): "ENDED",
    ("ENDED", Shown): "ENDED",
    ("ENDED", RunStart): "RUNNING",
}
"""What a run may go through. HELLO and HEARTBEAT are allowed in every state. What the
last picture was is often told after the scanner has ended the run: it leads to nothing,
and goes on record until the next one begins."""


MOST_FORMER: Final = 4096
"""Earlier runs whose names are not given again; many years of a rig's."""


MARK_BYTES: Final = 8

MOST_BEFORE: Final = 8
"""Runs that are over and whose senders are still answered."""

MOST_HEARD: Final = 65_536
"""Messages of these runs together: each is 4 bytes of every segment. One of two hours
at a TR of 0.5 s with a trigger for each volume has 28,800."""


def _mark(run_id: str) -> bytes:
    """Stand for a run's name, in few bytes: each segment of the log begins with all."""
    return hashlib.blake2b(run_id.encode(), digest_size=MARK_BYTES).digest()


class HeardState(msgspec.Struct, frozen=True, kw_only=True):
    """What was heard of a run that is over."""

    run: str
    segment: int = 0
    crcs: dict[str, bytes] = {}
    users: dict[str, str] = {}


class LedgerState(msgspec.Struct, frozen=True, kw_only=True):
    """All that a ledger knows, as a log's segments begin with it."""

    version: int = 1
    state: State = "IDLE"
    start: RunStart | None = None
    segment: int = 0
    """The log's segment in which the run began."""
    crcs: dict[str, bytes] = {}
    """Per stream, the CRC of each message as little-endian u32."""
    users: dict[str, str] = {}
    acquisitions: AcquisitionsState | None = None
    former: bytes = b""
    """The runs before, as `_mark` writes them, one after the other."""
    heard_before: tuple[HeardState, ...] = ()
    """The last of them, the newest at the end."""


_DECODER = msgspec.msgpack.Decoder(LedgerState)


@dataclass(slots=True)
class Heard:
    """What has come of a run, which its senders may ask about even when it is over."""

    run_id: str
    segment: int = 0
    """The log's segment in which the run began."""
    crcs: dict[str, list[int]] = field(default_factory=dict)
    """Per stream, the CRC of each message: position is sequence."""
    users: dict[str, str] = field(default_factory=dict)
    """Per stream, the key of its first message: no other may go on with it."""

    @property
    def messages(self) -> int:
        """How many, of all streams."""
        return sum(map(len, self.crcs.values()))

    @property
    def received(self) -> dict[str, int]:
        """By stream, the sequence that its next message has."""
        return {name: len(crcs) for name, crcs in self.crcs.items()}

    def expected(self, stream: str) -> int:
        """Return the sequence that a stream's next message has."""
        return len(self.crcs.get(stream, ()))


@dataclass(slots=True)
class Run:
    """The run that is under way, or was the last."""

    start: RunStart
    acquisitions: Acquisitions
    heard: Heard


class Ledger:
    """What is on record of the current run.

    Attributes:
        state: Where the run stands.
        run: None before the first.
        before: What was heard of the last runs before it, the newest at the end. Their
            senders may not know yet that their last messages are on disk.
    """

    def __init__(self) -> None:
        self.state: State = "IDLE"
        self.run: Run | None = None
        self.before: list[Heard] = []
        # The same as notes write it: once a run, and not once a segment.
        self._told_before: list[HeardState] = []
        # Marks, one after the other: a process that lives for months keeps them all.
        self._former = bytearray()

    @property
    def run_id(self) -> str:
        """The current or last run; empty before the first."""
        return "" if self.run is None else self.run.start.run

    def has_had(self, run_id: str) -> bool:
        """Say whether a run of this name is on record: the current one, or earlier."""
        if run_id == self.run_id:
            return True
        mark, at = _mark(run_id), -1
        while (at := self._former.find(mark, at + 1)) >= 0:
            if at % MARK_BYTES == 0:
                return True
        return False

    @property
    def next_index(self) -> int:
        """The first acquisition of the run that has no outcome yet."""
        return 0 if self.run is None else self.run.acquisitions.next_index

    @property
    def heard(self) -> list[Heard]:
        """What was heard of the runs that a sender may ask about, the newest last."""
        return [*self.before, *([] if self.run is None else [self.run.heard])]

    def heard_of(self, run_id: str) -> Heard | None:
        """Return what was heard of a run; None where its senders are not answered."""
        # Asked for every message, nearly always of the newest.
        if self.run is not None and self.run.heard.run_id == run_id:
            return self.run.heard
        return next((one for one in self.before if one.run_id == run_id), None)

    def answering(self, run_id: str) -> Heard | None:
        """Return what concerns a sender: of the run that it names, or of the newest."""
        newest = None if self.run is None else self.run.heard
        return self.heard_of(run_id) or newest

    def expected(self, stream: str) -> int:
        """Return the sequence that a stream's next message has in the current run."""
        return 0 if self.run is None else self.run.heard.expected(stream)

    def begin_in(self, segment: int) -> None:
        """Note in which segment of the log the run began."""
        if self.run is not None:
            self.run.heard.segment = segment

    def fold(
        self,
        envelope: Envelope,
        now_ns: int,
        *,
        peer: bytes = b"",
        user: str = "",
        segment: int = 0,
    ) -> list[Action]:
        """Take what is logged; return what it leads to, logging itself excluded.

        Args:
            envelope: An accepted message, or a decision of the server's own.
            now_ns: When it was read.
            peer: From whom it came; only to answer.
            user: Its key.
            segment: The log's segment that holds it.
        """
        record = envelope.record
        match record:
            case DecisionNote():
                return self._decided(record)
            case RunStart():
                self._begin(record, segment, now_ns)
        run = self.run
        if run is None:
            return []
        run.heard.crcs.setdefault(record.stream, []).append(envelope.crc32)
        if user:
            run.heard.users.setdefault(record.stream, user)
        match record:
            case RunStart():
                return [StartRun(record)]
            case RunEnd():
                self.state = "ENDED"
        return run.acquisitions.take(peer, envelope, now_ns)

    def _begin(self, start: RunStart, segment: int, now_ns: int) -> None:
        if self.run is not None:
            self._former += _mark(self.run_id)
            self._remember(self.run.heard)
        if len(self._former) > MOST_FORMER * MARK_BYTES:
            del self._former[:MARK_BYTES]
        acquisitions = Acquisitions(start, now_ns)
        self.run = Run(start, acquisitions, Heard(start.run, segment))
        self.state = "RUNNING"

    def _remember(self, over: Heard) -> None:
        self.before.append(over)
        self._told_before.append(
            HeardState(
                run=over.run_id,
                segment=over.segment,
                crcs=_packed(over.crcs),
                users=over.users,
            )
        )
        while (
            len(self.before) > MOST_BEFORE
            or sum(one.messages for one in self.before) > MOST_HEARD
        ):
            del self.before[0], self._told_before[0]

    def _decided(self, note: DecisionNote) -> list[Action]:
        run = self.run
        if run is None:
            return []
        if note.what == "STREAM_KEY":
            run.heard.users[note.stream] = note.detail
            return []
        if self.state != "RUNNING":
            return []
        if note.what == "MISSING_BY_DEADLINE":
            return _without_notes(run.acquisitions.declare_missing())
        if note.what == "LATE_VOLUME_NOT_USED":
            return []  # follows from the volume before it
        self.state = "ENDED"
        end = RunEnd(run=note.run, stream="server", count=self.next_index, aborted=True)
        return [EndRun(end)]

    def note(self) -> Envelope:
        """Put all that is known into one message."""
        run = self.run
        if run is None:
            known = LedgerState()
        else:
            known = LedgerState(
                state=self.state,
                start=run.start,
                segment=run.heard.segment,
                crcs=_packed(run.heard.crcs),
                users=run.heard.users,
                acquisitions=run.acquisitions.state(),
                former=bytes(self._former),
                heard_before=tuple(self._told_before),
            )
        note = StateNote(run=self.run_id, stream="server")
        return encode(note, msgspec.msgpack.encode(known))

    @classmethod
    def from_note(cls, envelope: Envelope) -> "Ledger":
        """Know what was known when the note was written.

        Raises:
            RecordingError: It is not such a note, or of another version.
        """
        ledger = cls()
        try:
            known = _DECODER.decode(envelope.payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RecordingError(
                f"recording: expected the state of a run, found {error}"
            ) from error
        if known.version != LedgerState().version:
            raise RecordingError(
                "recording: expected the state of a run in version "
                f"{LedgerState().version}, found {known.version}. "
                "Begin a new recording with this server."
            )
        ledger.state = known.state
        ledger._former[:] = known.former
        if known.start is not None and known.acquisitions is not None:
            ledger.run = Run(
                known.start,
                Acquisitions.from_state(known.start, known.acquisitions),
                Heard(
                    known.start.run,
                    known.segment,
                    _unpacked(known.crcs),
                    dict(known.users),
                ),
            )
        ledger._told_before = list(known.heard_before)
        ledger.before = [
            Heard(one.run, one.segment, _unpacked(one.crcs), dict(one.users))
            for one in known.heard_before
        ]
        return ledger


def _packed(crcs: dict[str, list[int]]) -> dict[str, bytes]:
    return {stream: struct.pack(f"<{len(one)}I", *one) for stream, one in crcs.items()}


def _unpacked(crcs: dict[str, bytes]) -> dict[str, list[int]]:
    return {
        stream: [
            int.from_bytes(one[at : at + 4], "little") for at in range(0, len(one), 4)
        ]
        for stream, one in crcs.items()
    }


def _without_notes(actions: list[Action]) -> list[Action]:
    return [action for action in actions if not isinstance(action, Note)]
