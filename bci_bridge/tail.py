"""Follow a log that another process writes: every whole message, once, in order.

The log is how the processes of a server learn of each other's work, so that any of them
can be killed and started again: what a process needs is in the files, not in a socket.
Reading costs two copies in memory; no disk is waited for.
"""

import contextlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bci_bridge.header import MAX_PAYLOAD_BYTES
from bci_bridge.recorded_file import descriptor_of, open_recorded
from bci_bridge.recorder import PREFACE
from bci_bridge.recording_folder import segments_of
from bci_bridge.segment import (
    CHUNK,
    MAGIC,
    RECORD_BYTES,
    Logged,
    logged_from_chunk,
    records,
)
from bci_bridge.segment_name import segment_name
from runtime.errors import PeerError

READ_BYTES: Final = 8 << 20
"""Taken at once, unless one message is longer."""

LONGEST_BYTES: Final = MAX_PAYLOAD_BYTES + (1 << 20)
"""No chunk is longer; a length beyond is damage."""

TRIES: Final = 3
"""A chunk whose CRC is wrong is read this often: it may still be in the making."""


def segments_in(folders: Sequence[Path]) -> dict[int, Path]:
    """List the segments of a log by number, wherever they had to go."""
    return {
        number: path
        for folder in folders
        for number, path in segments_of(folder).items()
    }


def preface_of(path: Path) -> Logged | None:
    """Read what a segment begins with; None where that is missing or damaged."""
    try:
        with open_recorded(path, str(path)) as file:
            data = file.read(READ_BYTES)
    except FileNotFoundError:
        return None
    if not data.startswith(MAGIC):
        return None
    for opcode, begin, end in records(data, len(MAGIC)):
        if opcode == CHUNK:
            try:
                (first,) = logged_from_chunk(data[begin:end])
            except (PeerError, ValueError, struct.error):
                return None
            return first if first.topic == PREFACE else None
    return None


class Tail:
    """Where one reader stands in a log.

    Attributes:
        damaged: Chunks that were passed over because they cannot be read.
        is_spilt: The segment being read is not in the log's own folder.
    """

    def __init__(self, folders: Sequence[Path], *, segment: int = 0) -> None:
        """Begin with a segment; the log may not exist yet.

        Args:
            folders: Where its segments are: its own folder, and its spill.
            segment: Number of the first segment that matters.
        """
        self.damaged, self.is_spilt = 0, False
        self._folders, self._number = tuple(folders), segment
        self._fd: int | None = None
        self._at, self._tries = 0, 0

    @property
    def segment(self) -> int:
        """Number of the segment from which `read` gave its last messages."""
        return self._number

    def read(self) -> list[Logged]:
        """Return what is new; at most about `READ_BYTES`, so ask until it is empty."""
        while True:
            # Asked before the file is read: what a writer that has moved on wrote last
            # is complete by then.
            following = self._following()
            if self._fd is not None or self._open():
                logged, has_moved = self._more(is_written=following is None)
                if logged:
                    return logged
                if has_moved:
                    continue
            if following is None:
                return []
            # What is left here, if anything, is what a killed writer left unfinished.
            self.close()
            self._number = following

    def close(self) -> None:
        """Close the file; `read` goes on with the next segment."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def _following(self) -> int | None:
        """Find the next segment that has begun, if one has.

        Asked before every read, so the log is not listed: its segments are numbered one
        after the other, and where old ones are removed, the oldest go first. Only a
        spill beside a log leaves gaps.
        """
        if not self._is_spilt_to():
            if self._is_there(self._number + 1):
                return self._number + 1
            if self._is_there(self._number):
                return None
        later = [n for n in segments_in(self._folders) if n > self._number]
        return min(later, default=None)

    def _is_spilt_to(self) -> bool:
        for folder in self._folders[1:]:
            with contextlib.suppress(FileNotFoundError):
                if os.listdir(folder):
                    return True
        return False

    def _is_there(self, number: int) -> bool:
        # Not pathlib, which takes a microsecond for each part of a path.
        return os.path.exists(f"{self._folders[0]}/{segment_name(number)}")

    def _open(self) -> bool:
        for folder in self._folders:
            try:
                segment = folder / segment_name(self._number)
                self._fd = descriptor_of(segment, str(segment))
            except FileNotFoundError:
                continue
            self._at, self.is_spilt = len(MAGIC), folder != self._folders[0]
            return True
        return False

    def _more(self, *, is_written: bool) -> tuple[list[Logged], bool]:
        """Read on in this segment; also say whether that got anywhere.

        Args:
            is_written: A writer may still be at it.
        """
        logged: list[Logged] = []
        data, at = self._data(), 0
        for opcode, begin, end in records(data, 0):
            if opcode == CHUNK:
                try:
                    found = logged_from_chunk(memoryview(data)[begin:end])
                except (PeerError, ValueError, struct.error):
                    if is_written and self._tries < TRIES:
                        self._tries += 1
                        break
                    self.damaged += 1
                    found = []
                logged += [one for one in found if one.topic != PREFACE]
            self._tries, at = 0, end
        self._at += at
        return logged, at > 0

    def _data(self) -> bytes:
        if self._fd is None:
            return b""
        data = os.pread(self._fd, READ_BYTES, self._at)
        if len(data) >= RECORD_BYTES:
            size = RECORD_BYTES + int.from_bytes(data[1:RECORD_BYTES], "little")
            if len(data) < size <= LONGEST_BYTES:
                data = os.pread(self._fd, size, self._at)
        return data
