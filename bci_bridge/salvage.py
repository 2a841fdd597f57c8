"""One segment's bytes, chunk by chunk, also where some of the bytes are damaged.

A chunk is sound if its own CRC says so, whatever the record's length says. Where there
is none, the reader finds the next place to go on, from the surest sign to the weakest:
the end of a chunk whose two lengths agree; a sound chunk where one of the lengths
leads; the next sound chunk anywhere. So damage costs the chunk that it hit, and a
length that it hit costs no more.

Pure: bytes in, chunks out. What a chunk says is `bci_bridge.segment`'s to read.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bci_bridge.segment import CHUNK, DATA_END, HEADER, MAGIC

_PREFIX: Final = 9
"""Opcode and length of any record."""
_CRC_AT: Final = _PREFIX + 24
_SIZE_AT: Final = _PREFIX + 32
_RECORDS_AT: Final = _PREFIX + 40

# Looked at ahead, so that a match inside another is found too: a chunk's length is
# below 2**40, and it is not compressed.
_MAYBE_CHUNK: Final = re.compile(rb"\x06(?=.{5}\0{3}.{28}\0{4})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The records of one chunk."""

    at: int
    """Byte of the segment where it begins."""
    records: bytes
    is_sound: bool
    """Whether the records are the written ones; if not, nothing in them is sure."""


@dataclass(frozen=True, slots=True)
class End:
    """Why there are no more chunks, where it is not that the data end here.

    `what` names the damage; empty where the segment ends without saying so, which is
    what a killed process leaves.
    """

    what: str


def is_segment(data: bytes) -> bool:
    """Say whether these are a segment's bytes, or the first bytes of one."""
    if data.startswith(MAGIC) or MAGIC.startswith(data):
        return True
    return _next_sound(data, len(MAGIC)) is not None


def chunks(data: bytes) -> Iterator[Chunk | End]:
    """Yield the chunks of a segment in order, and its end unless it is a whole one."""
    at = len(MAGIC)
    while at < len(data):
        sound = _sound_chunk(data, at)
        if sound is not None:
            yield sound
            at += _RECORDS_AT + len(sound.records)
            continue
        if _is_data_end(data, at):
            return
        following = _following(data, at)
        if following is None:
            break
        if data[at] != HEADER or at != len(MAGIC):
            yield Chunk(at, data[at + _RECORDS_AT : following], is_sound=False)
        at = following
    is_finished = len(data) > len(MAGIC) and data.endswith(MAGIC)
    yield End(
        "its end: expected the end of the data, found none" if is_finished else ""
    )


def _sound_chunk(data: bytes, at: int) -> Chunk | None:
    if at + _RECORDS_AT > len(data) or data[at] != CHUNK:
        return None
    crc, name_bytes, size = struct.unpack_from("<IIQ", data, at + _CRC_AT)
    begin = at + _RECORDS_AT
    # An empty chunk is never written, and zeros would pass for one.
    if name_bytes or not size or begin + size > len(data):
        return None
    content = data[begin : begin + size]
    return Chunk(at, content, is_sound=True) if zlib.crc32(content) == crc else None


def _is_data_end(data: bytes, at: int) -> bool:
    """Say whether the data end at a place where some record begins for certain."""
    if at + _PREFIX + 4 > len(data):
        return False
    # Either field alone tells, unless the other says that it is something else.
    is_short = _length(data, at + 1) == 4 and data[at] not in (HEADER, CHUNK)
    return data[at] == DATA_END or is_short


def _agreed_end(data: bytes, at: int) -> int | None:
    """Give the end of a chunk whose two lengths agree, sound or not."""
    if at + _RECORDS_AT > len(data):
        return None
    outer, inner = _length(data, at + 1), _length(data, at + _SIZE_AT)
    end = at + _PREFIX + outer
    agree = outer == inner + _RECORDS_AT - _PREFIX and end <= len(data)
    return end if agree else None


def _length(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _following(data: bytes, at: int) -> int | None:
    """Find where to go on behind a record that is no sound chunk."""
    end = _agreed_end(data, at)
    if end is not None:
        return end
    leads = []
    if at + _PREFIX <= len(data):
        leads.append(at + _PREFIX + _length(data, at + 1))
    if at + _RECORDS_AT <= len(data):
        leads.append(at + _RECORDS_AT + _length(data, at + _SIZE_AT))
    for lead in leads:
        if _is_place(data, lead):
            return lead
    return _next_sound(data, at + 1)


def _is_place(data: bytes, at: int) -> bool:
    if at >= len(data):
        return at == len(data)
    is_end = data[at : at + _PREFIX] == struct.pack("<BQ", DATA_END, 4)
    is_chunk = _sound_chunk(data, at) or _agreed_end(data, at)
    return is_end or is_chunk is not None


def _next_sound(data: bytes, at: int) -> int | None:
    for match in _MAYBE_CHUNK.finditer(data, at):
        if _sound_chunk(data, match.start()) is not None:
            return match.start()
    return None
