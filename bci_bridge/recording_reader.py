"""Read a recorder's folder back, in its total order, checking every CRC.

Not the stock MCAP reader, because that one stops at the first damaged chunk: here a
damaged message is named, and can be passed over on request. A segment that ends in the
middle of a record is what a killed process leaves; its whole records are all there.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bci_bridge.wire import OUTCOME_HEADER_BYTES, Envelope, decode
from runtime.errors import PeerError, RecordingError

_MAGIC = b"\x89MCAP0\r\n"
_CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x04, 0x05, 0x06, 0x0F


@dataclass(frozen=True, slots=True)
class Logged:
    """One message of the log."""

    order: int
    """Position in the total order of its server's life."""
    log_ns: int
    topic: str
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Break:
    """A place where the log does not simply go on.

    LOST: messages that were logged cannot be read. TORN: the process was killed, or is
    still writing. NEXT_SERVER: another server's life begins.
    """

    kind: Literal["LOST", "TORN", "NEXT_SERVER"]
    what: str = ""


@dataclass(frozen=True, slots=True)
class _Damage:
    what: str


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """The segment ends without saying so."""


def scan_recording(folder: Path) -> Iterator[Logged | Break]:
    """Yield every message that is intact, and between them every break.

    Orders show what is lost: they count from 0 in each server's life.

    Raises:
        RecordingError: If there is no segment, or one is no MCAP file.
    """
    expected, damage, is_torn = 0, "", False
    for path in _segments(folder):
        is_first = True
        for item in _segment(path):
            match item:
                case _Damage(what):
                    damage = damage or f"{path.name}: {what}"
                case _Unfinished():
                    is_torn = True
                case Logged(order):
                    if is_torn:
                        yield Break("TORN")
                    if is_first and order < expected:
                        if damage:
                            yield Break("LOST", _lost(expected, None, damage))
                        yield Break("NEXT_SERVER")
                        expected, damage = 0, ""
                    if order != expected:
                        yield Break("LOST", _lost(expected, order, damage))
                    expected, damage, is_torn, is_first = order + 1, "", False, False
                    yield item
    if damage:
        yield Break("LOST", _lost(expected, None, damage))
    if is_torn:
        yield Break("TORN")


def _lost(first: int, end: int | None, damage: str) -> str:
    if end is None:
        orders = f"messages from {first} on"
    elif end - 1 > first:
        orders = f"messages {first} to {end - 1}"
    else:
        orders = f"message {first}"
    return f"{orders} ({damage})" if damage else orders


def read_recording(folder: Path, *, skip_damaged: bool = False) -> Iterator[Logged]:
    """Yield every message of every segment.

    Args:
        folder: What the recorder was given.
        skip_damaged: Pass over chunks whose CRC is wrong.

    Raises:
        RecordingError: If there is no segment, or one is damaged.
    """
    for path in _segments(folder):
        for item in _segment(path):
            if isinstance(item, Logged):
                yield item
            elif isinstance(item, _Damage) and not skip_damaged:
                raise RecordingError(f"{path}: damaged at {item.what}")


def _segments(folder: Path) -> list[Path]:
    segments = sorted(folder.glob("[0-9]*.mcap"))
    if not segments:
        raise RecordingError(f"{folder}: expected *.mcap segments, found none")
    return segments


def _segment(path: Path) -> Iterator[Logged | _Damage | _Unfinished]:
    data = path.read_bytes()
    if not data.startswith(_MAGIC):
        if _MAGIC.startswith(data):
            yield _Unfinished()  # killed before the first write
            return
        raise RecordingError(f"{path}: expected an MCAP file, found other bytes")
    topics: dict[int, str] = {}
    for opcode, content, offset in _records(data, len(_MAGIC)):
        if opcode == _DATA_END:
            return
        if opcode != _CHUNK:
            continue
        try:
            yield from _chunk(content, topics)
        except (PeerError, ValueError, struct.error) as error:
            yield _Damage(f"byte {offset}: {error}")
    if len(data) > len(_MAGIC) and data.endswith(_MAGIC):
        # Finished, but the records do not lead there: a length between is damaged.
        yield _Damage("its end: expected the end of the data, found none")
    else:
        yield _Unfinished()


def _records(data: bytes, at: int) -> Iterator[tuple[int, bytes, int]]:
    while at + 9 <= len(data):
        opcode, size = struct.unpack_from("<BQ", data, at)
        if at + 9 + size > len(data):
            return
        yield opcode, data[at + 9 : at + 9 + size], at
        at += 9 + size


def _chunk(content: bytes, topics: dict[int, str]) -> list[Logged]:
    crc, name_bytes = struct.unpack_from("<II", content, 24)
    start = 32 + name_bytes
    (size,) = struct.unpack_from("<Q", content, start)
    records = content[start + 8 :]
    if name_bytes or size != len(records):
        raise ValueError("expected an uncompressed chunk of the stated size")
    if zlib.crc32(records) != crc:
        raise ValueError("chunk and CRC do not match")
    logged: list[Logged] = []
    for opcode, record, _ in _records(records, 0):
        if opcode == _CHANNEL:
            number, _, size = struct.unpack_from("<HHI", record)
            topics[number] = record[8 : 8 + size].decode()
        elif opcode == _MESSAGE:
            number, order, log_ns, _ = struct.unpack_from("<HIQQ", record)
            (size,) = struct.unpack_from("<I", record, 22)
            frames = [record[26 : 26 + size], record[26 + size :]]
            envelope = decode(frames, header_bytes=OUTCOME_HEADER_BYTES)
            topic = topics.get(number, "")
            logged.append(Logged(order, log_ns, topic, envelope))
    return logged
