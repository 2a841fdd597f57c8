"""Follow a log that another process writes: every whole message, once, in order.

The log is how the processes of a server learn of each other's work, so that any of them
can be killed and started again: what a process needs is in the files, not in a socket.
Reading costs two copies in memory; no disk is waited for.
"""

import contextlib
import os
import struct
from collections.abc import Iterator, Sequence
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

LOOK_EVERY: Final = 64
"""Of so many readings that find nothing in a segment one lists the folders: the first,
and then one in so many."""

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
        lost: Messages that the log's order counts and its segments do not hold.
        state: What a segment began with before which something cannot be read, so that
            a reader can go on from there; None where all can, or once the reader has
            taken it and says so.
        is_spilt: The segment being read is not in the log's own folder.
    """

    def __init__(self, folders: Sequence[Path], *, segment: int = 0) -> None:
        """Begin with a segment; the log may not exist yet.

        Args:
            folders: Where its segments are: its own folder, and its spill.
            segment: Number of the first segment that matters.
        """
        self.damaged, self.lost, self.is_spilt = 0, 0, False
        self._folders, self._number = tuple(folders), segment
        self._asked = segment
        # Place in the order of what comes next; None before anything has come.
        self._next_order: int | None = None
        self.state: Logged | None = None
        self._lacks_state = False
        self._idle = 0
        self._beyond_gap: int | None = None
        self._fd: int | None = None
        self._at, self._tries = 0, 0

    @property
    def segment(self) -> int:
        """Number of the segment from which `read` gave its last messages."""
        return self._number

    @property
    def unread(self) -> int:
        """Messages of which it is known that they were logged and cannot be read."""
        # What is damaged is missing from the order, too, once something comes after.
        return max(self.lost, self.damaged)

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
                if not self._is_across_a_gap():
                    return []
                continue
            # What is left here, if anything, is what a killed writer left unfinished.
            self.close()
            self._number, self._idle, self._beyond_gap = following, 0, None

    def read_through(self) -> Iterator[list[Logged]]:
        """Yield all that there is to its end, also beyond what is damaged.

        For a log whose writer is dead: `read` stops at a damaged chunk for some time,
        because it may still be in the making.
        """
        idle = 0
        while idle <= TRIES:
            if logged := self.read():
                idle = 0
                yield logged
            else:
                idle += 1

    def close(self) -> None:
        """Close the file; `read` goes on with the next segment."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def _following(self) -> int | None:
        """Find the next segment that has begun, if one has.

        Asked before every read, so the log is not listed: its segments are numbered one
        after the other, and where old ones are removed, the oldest go first. A spill
        beside a log leaves gaps.
        """
        if self._beyond_gap is not None:
            return self._beyond_gap
        if not self._is_spilt_to():
            if self._is_there(self._number + 1):
                return self._number + 1
            if self._is_there(self._number):
                return None
        return self._later()

    def _is_across_a_gap(self) -> bool:
        """Look now and then whether the log goes on beyond numbers that are not there.

        Those of a spill that is gone, for instance, or of a segment that was lost.
        """
        self._idle += 1
        if self._idle % LOOK_EVERY == 1:
            self._beyond_gap = self._later()
        return self._beyond_gap is not None

    def _later(self) -> int | None:
        found = self._next_listed()
        # A number that is beyond the next proves that those before it will not come any
        # more: the writer gives them in order. But one may have come into a folder that
        # was listed before; a second look shows it.
        while found is not None and found > self._number + 1:
            again = self._next_listed()
            if again == found:
                break
            found = again
        return found

    def _next_listed(self) -> int | None:
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
                for one in found:
                    self._count(one)
                    if one.topic != PREFACE:
                        logged.append(one)
            self._tries, at = 0, end
        self._at += at
        return logged, at > 0

    def _count(self, one: Logged) -> None:
        is_state = one.topic == PREFACE
        if self._next_order is None:
            # Not the beginning of the segment that was asked for, because that cannot
            # be read, or was removed: what came before is not known, and not missed.
            self._lacks_state = not is_state or self._number != self._asked
        elif one.order > self._next_order:
            # A lower one is another server's that counts anew, as without any state.
            self.lost += one.order - self._next_order
            self._lacks_state = True
        # What begins a segment has no place of its own: it names that of the next.
        self._next_order = one.order + (not is_state)
        # The next state makes up for what is lacking, also where messages lie between.
        # It stands until the reader takes it: a segment may hold nothing else.
        if is_state and self._lacks_state:
            self.state, self._lacks_state = one, False

    def _data(self) -> bytes:
        if self._fd is None:
            return b""
        data = os.pread(self._fd, READ_BYTES, self._at)
        if len(data) >= RECORD_BYTES:
            size = RECORD_BYTES + int.from_bytes(data[1:RECORD_BYTES], "little")
            if len(data) < size <= LONGEST_BYTES:
                data = os.pread(self._fd, size, self._at)
        return data
