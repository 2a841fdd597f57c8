"""What a sender has not yet got rid of, on disk: it survives the sender's SIGKILL.

A folder of segments, append only. A message is written, by one call, before it is sent
for the first time; what is in the system's page cache outlives the process, so nothing
is synced: a power cut on the sender's own machine may take what the server did not have
either. A segment goes when the server has all of it on disk. A torn tail, and whatever
follows damage, is cut when the spool is opened: what is left is what was written,
without a gap. A full disk changes `state` and raises nothing.

One process holds a spool; the lock ends with it, however it ends. The bytes are told in
`bci_bridge.spool_format`, sending in `bci_bridge.delivery`.
"""

import contextlib
import errno
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from msgspec import UNSET, structs

from bci_bridge.folder_lock import locked_folder
from bci_bridge.header import Role
from bci_bridge.messages import RunStart
from bci_bridge.spool_format import (
    Note,
    Progress,
    message_bytes,
    note_bytes,
    record_at,
)
from bci_bridge.wire import Envelope
from runtime.errors import ArtifactError, UsageError

SEGMENT_BYTES: Final = 16 << 20
"""A segment that has grown to this is followed by another."""


@dataclass(slots=True, eq=False)
class _Segment:
    path: Path
    fd: int
    next: int
    """Sequence that was due when the segment began."""
    good_bytes: int = 0


class Spool:
    """The messages of one stream of one run.

    Attributes:
        held: Whose messages these are; None where there is nothing.
        progress: What they add up to, with all that has left the disk.
        next: Sequence of the next message.
        state: ON, or DEGRADED once a message could not be written.
        cut_bytes: What opening had to cut: a torn tail, or what follows damage.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Take the folder for this process alone, and read what an earlier one left.

        Raises:
            UsageError: If it cannot be used, or another process has it.
        """
        self.held: Note | None = None
        self.progress = Progress()
        self.next = self.cut_bytes = 0
        self.state: Literal["ON", "DEGRADED"] = "ON"
        self._folder, self._segment_bytes = folder, segment_bytes
        self._segments: deque[_Segment] = deque()
        # Segment, offset and length of each message that is still on disk.
        self._places: deque[tuple[_Segment, int, int]] = deque()
        self._lock_fd: int | None = None
        try:
            self._lock_fd = locked_folder(
                folder,
                f"spool {folder}: expected a free spool, found one that another sender "
                "has. Stop that sender or name another folder.",
            )
            self._load()
        except OSError as error:
            self.close()
            raise UsageError(_not_usable(folder, error)) from error

    @property
    def first(self) -> int:
        """Sequence of the oldest message on disk; `next` where there is none."""
        return self.next - len(self._places)

    @property
    def is_unfinished(self) -> bool:
        """It holds messages of a run whose end is not at the server."""
        return self.held is not None and not self.held.is_finished and self.next > 0

    def begin(
        self, start: RunStart, role: Role, stream: str, new_lease: Callable[[], str]
    ) -> str:
        """Begin a run, or go on with it where the spool holds it.

        Args:
            start: How the run is announced; one that is gone on with stays announced
                as it was.
            role: The sender's.
            stream: Name of the stream.
            new_lease: Draws a secret for a new run.

        Returns:
            The secret of the stream's lease.

        Raises:
            UsageError: If the spool holds another run that is not finished.
        """
        held = self.held
        if self.is_unfinished and held is not None:
            _check_same(self._folder, held, start, stream)
            return held.lease
        lease = new_lease()
        self.held = Note(start=start, role=role, stream=stream, lease=lease)
        self.progress, self.next = Progress(), 0
        self._places.clear()
        self._replace_segments()
        return lease

    def append(self, envelope: Envelope) -> bool:
        """Write the message that has sequence `next`; say whether it is on disk."""
        parts = message_bytes(envelope)
        try:
            if self.state != "ON":
                return False
            if self._segments[-1].good_bytes >= self._segment_bytes:
                self._open_segment()
            segment, begin = self._write(parts)
        except OSError:
            self.state = "DEGRADED"
            return False
        self._places.append((segment, begin, sum(map(len, parts))))
        self.next += 1
        self.progress.add(envelope.record)
        return True

    def read(self, sequence: int) -> Envelope:
        """Read a message that is still on disk.

        Raises:
            ArtifactError: If the disk does not give back what was written.
        """
        segment, begin, nbytes = self._places[sequence - self.first]
        try:
            data = os.pread(segment.fd, nbytes, begin)
        except OSError:
            data = b""
        found = record_at(memoryview(data), 0)
        if found is None or not isinstance(found[0], Envelope):
            raise ArtifactError(
                f"spool {self._folder}: expected message {sequence} as it was written, "
                f"found {segment.path.name} damaged"
            )
        return found[0]

    def settle(self, sequence: int) -> None:
        """Delete the segments that hold only messages below a sequence."""
        while len(self._segments) > 1 and self._segments[1].next <= sequence:
            segment = self._segments.popleft()
            while self._places and self._places[0][0] is segment:
                self._places.popleft()
            _discard(segment)

    def mark_begun(self) -> None:
        """Put on record that the server knows the run."""
        if self.held is None or self.held.is_begun:
            return
        self.held = structs.replace(self.held, is_begun=True)
        if self.state == "ON":
            try:
                self._write(note_bytes(self._note()))
            except OSError:
                self.state = "DEGRADED"

    def finish(self) -> None:
        """Put on record that nothing is left to send, and free the disk."""
        if self.held is not None:
            self.held = structs.replace(self.held, is_finished=True)
            self._places.clear()
            self._replace_segments()

    def forget(self) -> None:
        """Delete all that it holds, delivered or not."""
        self.held, self.progress, self.next = None, Progress(), 0
        self._places.clear()
        while self._segments:
            _discard(self._segments.popleft())

    def close(self) -> None:
        """Let go of the folder; what is in it stays."""
        for segment in self._segments:
            os.close(segment.fd)
        self._segments.clear()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _note(self) -> Note:
        if self.held is None:
            raise UsageError(f"spool {self._folder}: expected a run, found none begun")
        return structs.replace(self.held, next=self.next, progress=self.progress)

    def _replace_segments(self) -> None:
        """Begin a segment that makes all earlier ones superfluous."""
        old = len(self._segments)
        try:
            self._open_segment()
        except OSError:
            self.state = "DEGRADED"
        for _ in range(old):
            _discard(self._segments.popleft())

    def _open_segment(self) -> None:
        taken = [int(path.stem) for path in self._folder.glob("[0-9]*.*")]
        path = self._folder / f"{max(taken, default=-1) + 1:08d}.spool"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._segments.append(_Segment(path, fd, self.next))
        try:
            self._write(note_bytes(self._note()))
        except OSError:
            _discard(self._segments.pop())
            raise

    def _write(self, parts: list[bytes]) -> tuple[_Segment, int]:
        segment, nbytes = self._segments[-1], sum(map(len, parts))
        begin = segment.good_bytes
        if os.writev(segment.fd, parts) != nbytes:
            # A full disk shortens a write without an exception.
            with contextlib.suppress(OSError):
                os.ftruncate(segment.fd, begin)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        segment.good_bytes = begin + nbytes
        return segment, begin

    def _load(self) -> None:
        for path in sorted(self._folder.glob("[0-9]*.spool")):
            fd = os.open(path, os.O_RDWR | os.O_APPEND)
            segment = _Segment(path, fd, self.next)
            self._segments.append(segment)
            data = path.read_bytes()
            # What follows damage does not follow what is left, and is not taken.
            self._read_segment(segment, memoryview(data))
            self.cut_bytes += len(data) - segment.good_bytes
            if segment.good_bytes:
                os.ftruncate(fd, segment.good_bytes)
            else:
                _discard(self._segments.pop())

    def _read_segment(self, segment: _Segment, data: memoryview) -> None:
        while (found := record_at(data, segment.good_bytes)) is not None:
            record, end = found
            if isinstance(record, Note):
                if not self._is_taken(segment, record):
                    return
            elif not self._follows(segment, record):
                return
            else:
                begin = segment.good_bytes
                self._places.append((segment, begin, end - begin))
                self.next += 1
                self.progress.add(record.record)
            segment.good_bytes = end

    def _is_taken(self, segment: _Segment, note: Note) -> bool:
        is_other = self.held is None or self.held.lease != note.lease
        if not (is_other or note.is_finished) and note.next != self.next:
            return False
        if is_other or note.is_finished:
            # The run before this one, or all of this one, is at the server.
            while self._segments[0] is not segment:
                _discard(self._segments.popleft())
            self._places.clear()
            self.next = segment.next = note.next
        self.held, self.progress = note, note.progress
        return True

    def _follows(self, segment: _Segment, envelope: Envelope) -> bool:
        record, held = envelope.record, self.held
        return (
            held is not None
            and segment.good_bytes > 0
            and (record.run, record.stream, record.sequence)
            == (held.start.run, held.stream, self.next)
        )


def _discard(segment: _Segment) -> None:
    os.close(segment.fd)
    with contextlib.suppress(OSError):
        segment.path.unlink()


def _check_same(folder: Path, held: Note, start: RunStart, stream: str) -> None:
    name = held.start.run
    if (name, held.stream) != (start.run, stream):
        raise UsageError(
            f"spool {folder}: expected run {start.run!r} of stream {stream!r}, found "
            f"run {name!r} of stream {held.stream!r} unfinished. Go on with that run, "
            "end it with bci_bridge.unfinished.finish_spool, or delete the folder to "
            "give up what the server does not have."
        )
    if held.start.confound_names is UNSET:
        # As earlier versions announced every run; the volumes show theirs themselves.
        start = structs.replace(start, confound_names=UNSET)
    changed = [
        field
        for field in start.__struct_fields__
        if getattr(start, field) != getattr(held.start, field)
    ]
    if changed:
        raise UsageError(
            f"spool {folder}: expected run {name!r} as it was announced, found other "
            f"{', '.join(changed)}. Go on with what it was, or name the run anew."
        )


def _not_usable(folder: Path, error: OSError) -> str:
    return (
        f"spool {folder}: expected a folder to write to, "
        f"found {error.strerror or error}"
    )
