"""The bytes of a spool: messages as they travel, and notes of what they add up to.

A segment is a note, then records in order. A record is a prefix of 16 bytes (kind,
length of header and of payload, CRC-32 of these, all little-endian), the header and the
payload. Of a message both are the wire's own frames, whose CRC is the header's last
four bytes; of a note the header is msgpack, followed by its CRC, and there is no
payload. Whatever the bytes, reading gives a record that was written, or None.

Pure: no file, no clock.
"""

import struct
import zlib
from typing import Final

import msgspec

from bci_bridge.header import Count, Header, Index, Instant, Name, OptionalName, Role
from bci_bridge.messages import Event, Missing, RunEnd, RunStart, Shown, Volume
from bci_bridge.wire import Envelope, decode
from runtime.errors import PeerError

_PREFIX: Final = struct.Struct("<4sII")
PREFIX_BYTES: Final = _PREFIX.size + 4
_MESSAGE: Final = b"NFm1"
_NOTE: Final = b"NFn1"


class Progress(msgspec.Struct, kw_only=True):
    """What a stream has said so far, as far as its source must know to go on."""

    volumes: Index = 0
    """One more than the highest acquisition of which the stream spoke."""
    last_index: Index | None = None
    """The volume that was written last."""
    last_acquired_ns: Instant | None = None
    """The end of that volume's acquisition."""
    trials: set[Name] = msgspec.field(default_factory=set)
    """The trials that were announced."""
    shown: set[OptionalName] = msgspec.field(default_factory=set)
    """The trials of which it was reported what reached the participant."""
    has_ended: bool = False
    """RUN_END has been written."""

    def add(self, record: Header) -> None:
        """Take one more message into account."""
        match record:
            case Volume(volume_index=index, acquired_ns=acquired_ns):
                self.volumes = max(self.volumes, index + 1)
                self.last_index, self.last_acquired_ns = index, acquired_ns
            case Missing(volume_index=index):
                self.volumes = max(self.volumes, index + 1)
            case Event(trial_id=trial_id):
                self.trials.add(trial_id)
            case Shown(trial_id=trial_id):
                self.shown.add(trial_id)
            case RunEnd():
                self.has_ended = True
            case _:
                pass


class Note(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose messages follow, and what came before; the newest one counts."""

    start: RunStart
    """The run, as its sender was told to announce it."""
    role: Role
    stream: Name
    lease: OptionalName
    """Secret of the stream's lease (`Hello.lease`); another one begins another run."""
    next: Count = 0
    """Sequence of the message after this note."""
    is_begun: bool = False
    """The server has acknowledged a message: it knew the run."""
    is_finished: bool = False
    """The server has all of the run that is to come."""
    progress: Progress = msgspec.field(default_factory=Progress)


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Note)


def message_bytes(envelope: Envelope) -> list[bytes]:
    """Give the parts of a message's record, to be written at once."""
    header, payload = envelope.frames
    return [_prefix(_MESSAGE, len(header), len(payload)), header, payload]


def note_bytes(note: Note) -> list[bytes]:
    """Give the parts of a note's record, to be written at once."""
    body = _ENCODER.encode(note)
    header = body + zlib.crc32(body).to_bytes(4, "little")
    return [_prefix(_NOTE, len(header), 0), header]


def record_at(data: memoryview, begin: int) -> tuple[Note | Envelope, int] | None:
    """Read the record that begins at a byte.

    Args:
        data: A segment, or a part of it.
        begin: Where in it to look.

    Returns:
        The record and where it ends; None where no whole, undamaged record is.
    """
    head = bytes(data[begin : begin + PREFIX_BYTES])
    if len(head) < PREFIX_BYTES or zlib.crc32(head[:-4]) != _crc_of(head):
        return None
    kind, n_header, n_payload = _PREFIX.unpack(head[:-4])
    middle = begin + PREFIX_BYTES + n_header
    end = middle + n_payload
    if end > len(data):
        return None
    header = bytes(data[begin + PREFIX_BYTES : middle])
    if kind == _MESSAGE:
        try:
            return decode([header, bytes(data[middle:end])]), end
        except PeerError:
            return None
    if kind != _NOTE or n_payload or zlib.crc32(header[:-4]) != _crc_of(header):
        return None
    try:
        return _DECODER.decode(header[:-4]), end
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _prefix(kind: bytes, n_header: int, n_payload: int) -> bytes:
    head = _PREFIX.pack(kind, n_header, n_payload)
    return head + zlib.crc32(head).to_bytes(4, "little")


def _crc_of(sealed: bytes) -> int:
    return int.from_bytes(sealed[-4:], "little")
