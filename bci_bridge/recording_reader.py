"""Read a recorder's folder back, in its total order, checking every CRC.

Not the stock MCAP reader, because that one stops at the first damaged chunk: here a
damaged message is named, and can be passed over on request. A segment that ends in the
middle of a record is what a killed process leaves; its whole records are all there.
`bci_bridge.salvage` finds the way past what is damaged.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bci_bridge.recorded_file import open_recorded
from bci_bridge.recorder import PREFACE
from bci_bridge.recording_folder import segments_of
from bci_bridge.salvage import Chunk, End, chunks, is_segment
from bci_bridge.segment import Logged, logged_in
from runtime.errors import PeerError, RecordingError


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


def scan_recording(folder: Path, spill: Path | None = None) -> Iterator[Logged | Break]:
    """Yield every message that is intact, and between them every break.

    Orders show what is lost: they count from 0 in each server's life.

    Args:
        folder: What the recorder was given.
        spill: Where the log went on while that folder could not be written.

    Raises:
        RecordingError: If there is no segment, or one is no MCAP file.
    """
    expected, damage, is_torn = 0, "", False
    for path in _segments(folder, spill):
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


def read_recording(
    folder: Path, spill: Path | None = None, *, skip_damaged: bool = False
) -> Iterator[Logged]:
    """Yield every message of every segment.

    Args:
        folder: What the recorder was given.
        spill: Where what the disk did not take is in memory, if anywhere.
        skip_damaged: Pass over chunks whose CRC is wrong.

    Raises:
        RecordingError: If there is no segment, or one is damaged.
    """
    for path in _segments(folder, spill):
        for item in _segment(path):
            if isinstance(item, Logged):
                yield item
            elif isinstance(item, _Damage) and not skip_damaged:
                raise RecordingError(f"{path}: damaged at {item.what}")


def _segments(folder: Path, spill: Path | None = None) -> list[Path]:
    segments = segments_of(folder)
    if not segments:
        raise RecordingError(f"{folder}: expected *.mcap segments, found none")
    if spill is not None:
        # They are numbered through, so that each place has one segment.
        segments = {**segments_of(spill), **segments}
    return [segments[number] for number in sorted(segments)]


def _segment(path: Path) -> Iterator[Logged | _Damage | _Unfinished]:
    try:
        with open_recorded(path, str(path)) as file:
            data = file.read()
    except OSError as error:
        raise RecordingError(
            f"{path}: expected a segment, found {error.strerror}"
        ) from error
    if not is_segment(data):
        raise RecordingError(f"{path}: expected an MCAP file, found other bytes")
    for item in chunks(data):
        match item:
            case End(what):
                yield _Damage(what) if what else _Unfinished()
            case Chunk(at, content, True):
                try:
                    yield from (
                        one for one in logged_in(content) if one.topic != PREFACE
                    )
                except (PeerError, ValueError, struct.error) as error:
                    yield _Damage(f"byte {at}: {error}")
            case Chunk(at):
                yield _Damage(f"byte {at}: chunk and CRC do not match")
