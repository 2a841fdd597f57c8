"""Messages to frames and back: two frames, typed header and raw payload, one CRC.

The header frame is msgpack of ``[record, crc]``; its last four bytes are the zlib
CRC-32, little-endian, of all header bytes before them followed by the payload. Any
bytes whatever give a message or a `PeerError`, never another exception. Checks run
from cheap to dear: parts, sizes, typed decoding, ranges, payload length and whether the
kind has one, CRC.

Pure: no socket, no clock. Roles, runs and sequences are `bci_bridge.protocol`'s.
"""

import math
import zlib
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from bci_bridge import messages
from bci_bridge.header import MAX_PAYLOAD_BYTES, VERSION, Header
from bci_bridge.messages import (
    ITEM_BYTES,
    ConfigurationNote,
    StateNote,
    Volume,
    kind_of,
)
from bci_bridge.outcomes import Outcome
from runtime.errors import PeerError, UsageError

T = TypeVar("T", bound=Header)

INPUT_HEADER_BYTES: Final = 1024
"""Cap on what peers send; checked before decoding, which bounds its cost."""

OUTCOME_HEADER_BYTES: Final = 1 << 16
"""Cap on what the server sends."""

_WITH_PAYLOAD: Final = (Volume, Outcome, StateNote, ConfigurationNote)
"""Kinds that carry something; the last two stay in the log."""

_ARRAY_OF_TWO = b"\x92"
_FOUR_BYTES = b"\xc4\x04"
_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[tuple[messages.Message, bytes]] = (
    msgspec.msgpack.Decoder(tuple[messages.Message, bytes])
)


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """One message as it travels: what it says, and the very bytes that say it."""

    record: Header
    header: bytes
    payload: bytes

    @property
    def crc32(self) -> int:
        """CRC of header and payload, as the header's last four bytes give it."""
        return int.from_bytes(self.header[-4:], "little")

    @property
    def frames(self) -> list[bytes]:
        """Header and payload, in the order of the wire."""
        return [self.header, self.payload]


def encode(record: Header, payload: bytes = b"") -> Envelope:
    """Put a record and its payload into frames; `nbytes` is filled in here."""
    if record.nbytes != len(payload):
        record = msgspec.structs.replace(record, nbytes=len(payload))
    body = _ARRAY_OF_TWO + _ENCODER.encode(record) + _FOUR_BYTES
    crc = zlib.crc32(payload, zlib.crc32(body))
    return Envelope(record, body + crc.to_bytes(4, "little"), payload)


def checked(record: T, **changes: object) -> T:
    """Give the record back, with some fields changed, if all are in their range.

    Raises:
        UsageError: Naming the field.
    """
    try:
        fields = msgspec.to_builtins(record) | changes
        return msgspec.convert(fields, type(record))
    except (msgspec.ValidationError, TypeError) as error:
        told = _in_words(str(error), record, changes)
        raise UsageError(f"{type(record).__name__}: {told}") from error


def _in_words(error: str, record: Header, changes: dict[str, object]) -> str:
    """Spell a name's regular expression out; any other error is given back."""
    field = error.rpartition("`$.")[2].rstrip("`")
    if "matching regex" not in error or field.endswith("sha256"):
        return error
    found = changes.get(field, getattr(record, field, None))
    return (
        f"{field}: expected up to 128 letters, digits and ._+-, found {found!r}. "
        "Put - in the place of others"
    )


def decode(
    frames: Sequence[bytes],
    *,
    header_bytes: int = INPUT_HEADER_BYTES,
    payload_bytes: int = MAX_PAYLOAD_BYTES,
) -> Envelope:
    """Read two frames.

    Args:
        frames: All parts of one multipart message, without routing id.
        header_bytes: Longest header that is looked at.
        payload_bytes: Longest payload.

    Raises:
        PeerError: For whatever is not a message; nothing else.
    """
    envelope = decode_checked(
        frames, header_bytes=header_bytes, payload_bytes=payload_bytes
    )
    record, header = envelope.record, envelope.header
    # Not of a log's, which an earlier server may have written with such a one.
    if envelope.payload and not isinstance(record, _WITH_PAYLOAD):
        raise PeerError(
            "BAD_SIZE",
            f"expected no payload of {kind_of(record)}, found {record.nbytes} bytes",
        )
    crc = zlib.crc32(envelope.payload, zlib.crc32(header[:-4]))
    if crc.to_bytes(4, "little") != header[-4:]:
        raise PeerError("BAD_CRC", "header and payload do not match their CRC")
    return envelope


def decode_checked(
    frames: Sequence[bytes],
    *,
    header_bytes: int = INPUT_HEADER_BYTES,
    payload_bytes: int = MAX_PAYLOAD_BYTES,
) -> Envelope:
    """Read two frames whose bytes another CRC has vouched for already.

    Raises:
        PeerError: For whatever is not a message; nothing else.
    """
    if len(frames) != 2:
        raise PeerError("BAD_PARTS", f"expected 2 frames, found {len(frames)}")
    header, payload = frames
    nbytes = len(payload)
    if nbytes > payload_bytes:
        raise PeerError(
            "BAD_SIZE", f"expected {payload_bytes} bytes at most, found {nbytes}"
        )
    if not 7 <= len(header) <= header_bytes:
        raise PeerError(
            "BAD_SIZE",
            f"expected a header of 7 to {header_bytes} bytes, found {len(header)}",
        )
    try:
        record, crc = _DECODER.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # The last two are not subclasses of DecodeError, and random bytes raise them.
        raise PeerError("BAD_HEADER", str(error)[:200]) from error
    if crc != header[-4:]:
        raise PeerError("BAD_HEADER", f"expected a CRC of 4 bytes, found {len(crc)}")
    if record.version != VERSION:
        raise PeerError(
            "BAD_VERSION", f"expected version {VERSION}, found {record.version}"
        )
    if record.crit:
        _check_critical(record)
    if nbytes != record.nbytes:
        raise PeerError(
            "BAD_SIZE",
            f"expected a payload of {record.nbytes} bytes, found {nbytes}",
        )
    if type(record) is Volume:
        wanted = math.prod(record.shape) * ITEM_BYTES[record.dtype]
        if wanted != nbytes:
            raise PeerError(
                "BAD_SIZE",
                f"expected {wanted} bytes for {record.dtype} of shape "
                f"{record.shape}, found {nbytes}",
            )
    return Envelope(record, header, payload)


def _check_critical(record: Header) -> None:
    known = record.__struct_fields__
    unknown = [name for name in record.crit if name not in known]
    if unknown:
        raise PeerError("UNKNOWN_CRITICAL", f"expected known fields, found {unknown}")
