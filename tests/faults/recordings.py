"""Small recordings with all that a segment can hold, and what a scan of one owes."""

import os
import random
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bci_bridge.messages import DecisionNote, Event, Header, Volume
from bci_bridge.recorder import Recorder
from bci_bridge.recording_reader import Break, scan_recording
from bci_bridge.segment import Logged
from bci_bridge.wire import Envelope, encode
from runtime.errors import RecordingError

PAYLOADS = (0, 2, 48, 1000, 4096)
"""Sizes of a message's payload in bytes, from none to beyond a page."""

MESSAGES = 36
SEGMENT_BYTES = 14_000


@dataclass(frozen=True)
class Frame:
    """One message as it was given to the recorder, and where it came to lie."""

    log_ns: int
    topic: str
    envelope: Envelope
    segment: str
    begin: int
    end: int


@dataclass(frozen=True)
class Recorded:
    """A recording on disk, in memory, and in the words of its writer."""

    folder: Path
    frames: list[Frame]
    """Position is order."""
    segments: dict[str, bytes]
    channels: dict[tuple[str, str], int]
    """Order of the frame whose chunk names a topic, by segment and topic."""

    def reset(self, segment: str) -> None:
        (self.folder / segment).write_bytes(self.segments[segment])


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of copies are not for a disk."""
    shared = Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="neuroflow-faults-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def record(folder: Path, dice: random.Random, *, is_killed: bool) -> Recorded:
    """Record some messages; where killed, as a process leaves them that is no more."""
    recorder = Recorder(folder, segment_bytes=SEGMENT_BYTES, sync_interval_s=0.001)
    said: list[tuple[int, str, Envelope]] = []
    for number in range(MESSAGES):
        topic, envelope = _message(number, dice)
        said.append((1000 + number, topic, envelope))
        recorder.append(topic, envelope, 1000 + number)
    killed = {path.name: path.read_bytes() for path in folder.glob("*.mcap")}
    recorder.close()
    if is_killed:
        for name, data in killed.items():
            (folder / name).write_bytes(data)
    segments = {p.name: p.read_bytes() for p in sorted(folder.glob("*.mcap"))}
    places = [
        (name, *place) for name, data in segments.items() for place in _places(data)
    ]
    if len(places) != len(said):
        raise ValueError(f"expected {len(said)} chunks, found {len(places)}")
    frames = [Frame(*what, *where) for what, where in zip(said, places, strict=True)]
    channels: dict[tuple[str, str], int] = {}
    for order, frame in enumerate(frames):
        channels.setdefault((frame.segment, frame.topic), order)
    return Recorded(folder, frames, segments, channels)


def _message(number: int, dice: random.Random) -> tuple[str, Envelope]:
    payload = dice.randbytes(PAYLOADS[number % len(PAYLOADS)])
    if number % 7 == 3:
        note = DecisionNote(stream="server", what="SERVER_STOPPED")
        return "out", encode(note, payload)
    if number % 5 == 4:
        event = Event(
            stream="stimulus", trial_id=f"t{number}", onset_s=number, duration_s=1
        )
        return "in/stimulus", encode(event)
    voxels = max(len(payload) // 2, 1)
    payload = payload or b"\1\2"
    volume = Volume(
        run="r", stream="scanner", sequence=number, volume_index=number,
        acquired_ns=number, dtype="i2", shape=(1, voxels // 8 or 1, min(voxels, 8)),
    )  # fmt: skip
    size = 2 * volume.shape[1] * volume.shape[2]
    record: Header = volume
    return "in/scanner", encode(record, payload[:size])


def _places(data: bytes) -> Iterator[tuple[int, int]]:
    """Say where the chunks of an undamaged segment lie; its own few lines, on purpose.

    So what is held against the reader does not come from the reader.
    """
    at = 8
    while at + 9 <= len(data):
        opcode, size = struct.unpack_from("<BQ", data, at)
        if opcode == 0x0F:
            return
        if opcode == 0x06:
            yield at, at + 9 + size
        at += 9 + size


@dataclass
class Tally:
    """What scans of damaged recordings gave."""

    wrong_frames: int = 0
    """Returned, but not what was written with that order."""
    intact_not_returned: int = 0
    lost_not_listed: int = 0
    refused_whole: int = 0
    """Scans that ended in an error instead of what could be read."""
    returned: int = 0
    lost: int = 0

    def scan(self, recorded: Recorded, touched: set[int]) -> str:
        """Scan a damaged recording; return what is wrong in words, or nothing."""
        items: list[Logged | Break] = []
        trouble = []
        try:
            items.extend(scan_recording(recorded.folder))
        except RecordingError as error:
            self.refused_whole += 1
            trouble.append(f"refused: {error}")
        logged = [item for item in items if isinstance(item, Logged)]
        self.returned += len(logged)
        wrong = [item.order for item in logged if not _is_written(recorded, item)]
        if wrong:
            self.wrong_frames += len(wrong)
            trouble.append(f"wrong: {wrong}")
        found = {item.order for item in logged}
        gone = [n for n in range(len(recorded.frames)) if n not in found]
        self.lost += len(gone)
        owed = [n for n in gone if n not in touched]
        if owed:
            self.intact_not_returned += len(owed)
            trouble.append(f"not returned: {owed}")
        silent = set(gone) - _listed(items, len(recorded.frames))
        if silent:
            self.lost_not_listed += len(silent)
            trouble.append(f"not listed: {sorted(silent)}")
        return "; ".join(trouble)


def _is_written(recorded: Recorded, item: Logged) -> bool:
    if not 0 <= item.order < len(recorded.frames):
        return False
    frame = recorded.frames[item.order]
    return (item.log_ns, item.topic, item.envelope) == (
        frame.log_ns,
        frame.topic,
        frame.envelope,
    )


def _listed(items: list[Logged | Break], count: int) -> set[int]:
    """Orders for which a scan says in their place that something is gone."""
    listed: set[int] = set()
    expected, is_broken = 0, False
    for item in items:
        if isinstance(item, Break):
            is_broken = is_broken or item.kind in ("LOST", "TORN")
            continue
        if is_broken:
            listed |= set(range(expected, min(item.order, count)))
        expected, is_broken = item.order + 1, False
    if is_broken:
        listed |= set(range(expected, count))
    return listed
