"""The bytes of one log segment: an MCAP file with one chunk per message.

Written here rather than by the stock writer, which keeps an index of all chunks in
memory and copies every payload three times. A chunk repeats its channel, so that each
message can be read without any other; there is no summary. Pure: bytes in, bytes out.

Source: MCAP specification, version 0 (mcap.dev/spec).
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

import msgspec

from bci_bridge.wire import Envelope, decode_checked

MAGIC: Final = b"\x89MCAP0\r\n"
ENCODING: Final = "neuroflow1"
"""Message encoding: header length as little-endian u32, header frame, payload."""

HEADER, FOOTER, CHANNEL, MESSAGE, CHUNK, DATA_END = 1, 2, 4, 5, 6, 0x0F
_RECORD = struct.Struct("<BQ")
RECORD_BYTES: Final = _RECORD.size
_CHUNK_HEAD = struct.Struct("<QQQIIQ")
_MESSAGE_HEAD = struct.Struct("<HIQQI")
LOG_HEADER_BYTES: Final = 1 << 16
"""Cap on a message's header in a log, as on an outcome's."""


class Logged(msgspec.Struct, frozen=True, gc=False):
    """One message of the log."""

    order: int
    """Position in the total order of its log."""
    log_ns: int
    topic: str
    envelope: Envelope


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<I", len(data)) + data


def opening() -> bytes:
    """Give the first bytes of a segment."""
    content = _text("") + _text("neuroflow-rt")
    return MAGIC + _RECORD.pack(HEADER, len(content)) + content


def ending() -> bytes:
    """Give the last bytes of a segment that was finished."""
    return (
        _RECORD.pack(DATA_END, 4)
        + bytes(4)
        + _RECORD.pack(FOOTER, 20)
        + bytes(20)
        + MAGIC
    )


def channel_record(number: int, topic: str) -> bytes:
    """Describe a topic; goes into every chunk of it."""
    content = struct.pack("<HH", number, 0) + _text(topic) + _text(ENCODING) + bytes(4)
    return _RECORD.pack(CHANNEL, len(content)) + content


def chunk_parts(
    channel: bytes, number: int, order: int, log_ns: int, envelope: Envelope
) -> list[bytes]:
    """Give the byte strings that make the chunk of one message, payload uncopied.

    Args:
        channel: As `channel_record` gives it.
        number: The channel's.
        order: Position in the total order.
        log_ns: Instant on the server's monotonic clock.
        envelope: The message as it travels.
    """
    at_ns = max(log_ns, 0)
    header, payload = envelope.frames
    size = 4 + len(header) + len(payload)
    head = (
        channel
        + _RECORD.pack(MESSAGE, 22 + size)
        + _MESSAGE_HEAD.pack(number, order & 0xFFFFFFFF, at_ns, at_ns, len(header))
        + header
    )
    total = len(head) + len(payload)
    crc = zlib.crc32(payload, zlib.crc32(head))
    start = _CHUNK_HEAD.pack(at_ns, at_ns, total, crc, 0, total)
    return [_RECORD.pack(CHUNK, len(start) + total) + start + head, payload]


def records(data: bytes | memoryview, at: int) -> Iterator[tuple[int, int, int]]:
    """Walk over whole records: opcode, where the content begins and ends."""
    while at + RECORD_BYTES <= len(data):
        opcode, size = _RECORD.unpack_from(data, at)
        begin = at + RECORD_BYTES
        if begin + size > len(data):
            return
        yield opcode, begin, begin + size
        at = begin + size


def logged_from_chunk(content: bytes | memoryview) -> list[Logged]:
    """Read the messages of a chunk after checking its CRC.

    Args:
        content: Of the chunk's record.

    Raises:
        ValueError: The chunk is damaged.
        PeerError: A message in it is.
        struct.error: The chunk is shorter than it says.
    """
    *_, crc, name_bytes, size = _CHUNK_HEAD.unpack_from(content)
    body = content[_CHUNK_HEAD.size :]
    if name_bytes or size != len(body):
        raise ValueError("expected an uncompressed chunk of the stated size")
    if zlib.crc32(body) != crc:
        raise ValueError("chunk and CRC do not match")
    return logged_in(body)


def logged_in(body: bytes | memoryview) -> list[Logged]:
    """Read the messages among the records of a chunk whose CRC was right.

    Raises:
        ValueError: The records are not what the recorder writes.
        PeerError: A message is not one.
        struct.error: A record is shorter than it says.
    """
    topics: dict[int, str] = {}
    logged: list[Logged] = []
    for opcode, begin, end in records(body, 0):
        if opcode == CHANNEL:
            number, _, length = struct.unpack_from("<HHI", body, begin)
            topics[number] = bytes(body[begin + 8 : begin + 8 + length]).decode()
        elif opcode == MESSAGE:
            number, order, log_ns, _, length = _MESSAGE_HEAD.unpack_from(body, begin)
            at = begin + _MESSAGE_HEAD.size
            if at + length > end or number not in topics:
                raise ValueError("expected a message of a channel named in its chunk")
            frames = [bytes(body[at : at + length]), bytes(body[at + length : end])]
            envelope = decode_checked(frames, header_bytes=LOG_HEADER_BYTES)
            logged.append(Logged(order, log_ns, topics[number], envelope))
    return logged
