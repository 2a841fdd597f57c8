"""The log: messages of a rig in one total order, as MCAP.

One chunk per message and one write per chunk, so that a killed process loses nothing
that it has written; a thread syncs to disk off the hot path, so that a power cut loses
at most what was not yet acknowledged as durable. Segments of at most 64 MiB keep a look
at the tail cheap; the same thread chains their hashes (`bci_bridge.chain`).

A disk that is full, read-only or fails degrades the recording and nothing else: the log
goes on in a spill folder in memory, of which only the newest segments are kept, because
others follow the log (`bci_bridge.tail`) and must not be left without it. A log that
has begun goes on there also where its writer has just been replaced.

`bci_bridge.recording_reader` reads it back; any MCAP tool can, too.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

from bci_bridge.chain_file import Chainer
from bci_bridge.histogram import Histogram
from bci_bridge.recording_folder import (
    check_room,
    has_begun,
    locked,
    not_writable,
    segments_of,
)
from bci_bridge.segment import ending
from bci_bridge.segment_file import SegmentFile
from bci_bridge.segment_name import segment_name
from bci_bridge.wire import Envelope
from runtime.errors import BackendError, UsageError

SEGMENT_BYTES: Final = 64 << 20
SPILL_SEGMENTS: Final = 8
"""Kept in memory while the disk fails: as many bytes as these have at most."""

SYNC_INTERVAL_S: Final = 0.2
"""Pause between two syncs; well below the second that may be lost to a power cut."""

INHERITED: Final = 2
"""Newest segments that a process that was killed may not have synced: it syncs every
`SYNC_INTERVAL_S`, and does not fill two in that time."""

RETRY_NS: Final = 5_000_000_000
"""After a failed write the disk is tried again this much later."""

TRIAL: Final = ".trial"
"""By this the disk is tried again. No segment's name: whoever follows a log takes the
next segment as a sign that the one before is whole."""

PREFACE: Final = "state"
"""Topic of the message that begins a segment; it has no place in the order."""


class Recorder:
    """Appends messages to a folder of segments.

    Attributes:
        state: ON, or DEGRADED once a message could not be written to its folder.
        durable: Messages that are safe from a loss of power; not more than `appended`.
        syncs: How long the disk of its folder took, sync by sync; those of the spill,
            which is memory, are left out.
    """

    def __init__(
        self,
        folder: Path,
        *,
        spill: Path | None = None,
        first_order: int = 0,
        preface: Callable[[], Envelope] | None = None,
        keeps_all: bool = True,
        segment_bytes: int = SEGMENT_BYTES,
        sync_interval_s: float = SYNC_INTERVAL_S,
        reserve_bytes: int | None = None,
        is_degraded: bool = False,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Take the folder for this process alone.

        Args:
            folder: Where the segments go; made where it is missing.
            spill: Where they go while the folder cannot be written.
            first_order: Place of the next message in the order that the folder holds.
            preface: Gives what every segment begins with, so that its reader needs no
                other segment.
            keeps_all: False keeps the newest segments only, as a spill does.
            segment_bytes: A segment that has reached this size is finished.
            sync_interval_s: Pause between two syncs.
            reserve_bytes: What the disk must have room for at the beginning of a log;
                None stands for one segment. A log that goes on takes what there is,
                and begins in its spill where there is nothing.
            is_degraded: What is in the folder lacks something of the run already.
            clock_ns: Measures the syncs; called by their thread alone.

        Raises:
            UsageError: If another process records there; if it cannot be entered; of a
                log that begins, or has no spill, also if it cannot be written or its
                disk has too little room.
        """
        self.state: Literal["ON", "DEGRADED"] = "DEGRADED" if is_degraded else "ON"
        # What another process wrote before is in the log, but perhaps not on its disk.
        self.durable, self._appended = 0, first_order
        self._written = first_order
        self.syncs, self._clock_ns = Histogram(), clock_ns
        self._folder, self._spill, self._preface = folder, spill, preface
        self._keeps_all = keeps_all
        self._segment_bytes, self._sync_interval_s = segment_bytes, sync_interval_s
        self._segment: SegmentFile | None = None
        self._number = -1
        self._retry_ns: int | None = None
        self._retired: list[SegmentFile] = []
        self._guard = threading.Lock()
        self._is_dirty, self._is_closing = threading.Event(), threading.Event()
        self._lock_fd = locked(folder)
        try:
            goes_on = first_order > 0 or has_begun(folder)
            if keeps_all and not goes_on:
                reserve = segment_bytes if reserve_bytes is None else reserve_bytes
                check_room(folder, reserve)
            self._chainer = Chainer(folder, is_kept=keeps_all)
            # A segment that is chained and gone leaves its number: another in its place
            # would look like a changed one, and never be chained.
            self._number = self._chainer.last
            self._inherited = list(segments_of(folder).values())[-INHERITED:]
            try:
                self._open_segment(folder, preface)
            except OSError:
                if spill is None or not goes_on:
                    raise
                self._give_up_segment(-RETRY_NS)
                self._open_segment(spill, preface)
        except OSError as error:
            os.close(self._lock_fd)
            raise UsageError(not_writable(folder, error)) from error
        except UsageError:
            os.close(self._lock_fd)
            raise
        if first_order:
            self._is_dirty.set()
        self._thread = threading.Thread(target=self._sync_loop, name="recorder-sync")
        self._thread.start()

    @property
    def appended(self) -> int:
        """Place in the order of the next message."""
        return self._appended

    @property
    def segment_number(self) -> int:
        """Number of the segment being written, or of the next one."""
        return self._number

    def append(self, topic: str, envelope: Envelope, log_ns: int) -> bool:
        """Write one message; a failure changes `state` instead of raising.

        Args:
            topic: ``in/STREAM``, ``note``, ``out``, ``run`` or ``refused/STREAM``.
            envelope: The message as it travels.
            log_ns: Instant on the server's monotonic clock.

        Returns:
            Whether it could be written anywhere.
        """
        order, is_written = self._appended, False
        for segment in self._places(log_ns):
            try:
                segment.append(topic, order, log_ns, envelope)
            except OSError:
                self._give_up_segment(log_ns)
            else:
                self._written, is_written = order + 1, True
                break
        self._appended += 1
        self._is_dirty.set()
        return is_written

    def append_or_raise(self, topic: str, envelope: Envelope, log_ns: int) -> None:
        """Write what others must find in the log, or it was never said.

        Raises:
            BackendError: It could be written nowhere.
        """
        if not self.append(topic, envelope, log_ns):
            raise BackendError(
                "log: expected room on the disk or in memory, found neither. "
                "Make room for the recording"
            )

    def close(self) -> None:
        """Finish the segment, sync it and release the folder."""
        try:
            self._finish_segment()
        except OSError:
            self._give_up_segment(0)
        self._is_closing.set()
        self._is_dirty.set()
        self._thread.join()
        os.close(self._lock_fd)

    def rotate(self, log_ns: int) -> None:
        """Begin another segment where one is due.

        With a preface this is for the owner to call, at an instant at which that says
        exactly what the log holds: one that knew a message not yet written would, after
        a crash, keep it from ever being written. Without one, `append` does it.
        """
        self._rotate(log_ns, self._preface)

    def _rotate(self, log_ns: int, preface: Callable[[], Envelope] | None) -> None:
        segment = self._segment
        is_due = self._retry_ns is None or log_ns >= self._retry_ns
        if segment is not None and segment.is_spilt and is_due:
            # Tried first: a spill that is left every few seconds for nothing would soon
            # have lost its oldest segments, which someone may still have to read.
            is_due = self._is_back()
            self._retry_ns = None if is_due else log_ns + RETRY_NS
        if segment is not None and (
            segment.good_bytes >= self._segment_bytes or (segment.is_spilt and is_due)
        ):
            with contextlib.suppress(OSError):
                self._finish_segment()
            self._retire_segment()
        if self._segment is None and is_due:
            try:
                self._open_segment(self._folder, preface)
            except OSError:
                self._give_up_segment(log_ns)
        if self._segment is None and self._spill is not None:
            # The next message will say where it cannot be written either.
            with contextlib.suppress(OSError):
                self._open_segment(self._spill, preface)

    def _is_back(self) -> bool:
        """Say whether the disk has room again for what a log that begins asks for."""
        trial = self._folder / TRIAL
        try:
            check_room(self._folder, self._segment_bytes)
            trial.unlink(missing_ok=True)
            os.close(SegmentFile(trial, is_spilt=False).fd)
            trial.unlink()
        except (OSError, UsageError):
            return False
        return True

    def _places(self, log_ns: int) -> Iterator[SegmentFile]:
        """Give where a message can go, from the best place to the last resort."""
        if self._preface is None or self._segment is None:
            # In the middle of a message, so without preface: whoever reads goes back.
            self._rotate(log_ns, None)
        if self._segment is not None:
            yield self._segment
        if self._spill is not None and (
            self._segment is None or not self._segment.is_spilt
        ):
            try:
                self._open_segment(self._spill, None)
            except OSError:
                return
            if self._segment is not None:
                yield self._segment

    def _open_segment(
        self, folder: Path, preface: Callable[[], Envelope] | None
    ) -> None:
        taken = [self._number]
        for place in (self._folder, self._spill):
            # A disk that is gone: what was read of it at the beginning still counts.
            with contextlib.suppress(OSError):
                if place is not None:
                    taken += segments_of(place)
        self._number = max(taken) + 1
        is_spilt = folder == self._spill
        if is_spilt or not self._keeps_all:
            self._forget_oldest(folder)
        segment = SegmentFile(folder / segment_name(self._number), is_spilt=is_spilt)
        with self._guard:
            self._segment = segment
        if preface is not None:
            try:
                segment.append(PREFACE, self._appended, 0, preface())
            except OSError:
                self._cut_segment()
                raise

    def _forget_oldest(self, folder: Path) -> None:
        """Make room for one more; by bytes, as each death leaves a short segment."""
        left = (SPILL_SEGMENTS - 1) * self._segment_bytes
        for path in reversed(segments_of(folder).values()):
            # The last message of each may exceed its size.
            left -= min(path.stat().st_size, self._segment_bytes)
            if left < 0:
                path.unlink(missing_ok=True)

    def _finish_segment(self) -> None:
        if self._segment is not None:
            self._segment.write([ending()])
            self._retire_segment()

    def _retire_segment(self) -> None:
        with self._guard:
            if self._segment is not None:
                self._retired.append(self._segment)
            self._segment = None

    def _give_up_segment(self, log_ns: int) -> None:
        self.state = "DEGRADED"
        self._retry_ns = log_ns + RETRY_NS
        self._cut_segment()

    def _cut_segment(self) -> None:
        segment = self._segment
        if segment is not None:
            # Half a chunk at its end would make it look damaged; it is not. A disk that
            # cannot even be cut leaves it, as a killed process does.
            with contextlib.suppress(OSError):
                os.ftruncate(segment.fd, segment.good_bytes)
            self._retire_segment()

    def _sync_loop(self) -> None:
        while not (self._is_closing.is_set() and not self._is_dirty.is_set()):
            self._is_dirty.wait(0 if self._chainer.step() else None)
            self._is_dirty.clear()
            self._sync()
            self._is_closing.wait(self._sync_interval_s)
        self._sync()
        self._chainer.finish()

    def _sync(self) -> None:
        with self._guard:
            retired, self._retired = self._retired, []
            # Duplicated, because the writer may retire and this thread close it.
            segment = self._segment
            current = os.dup(segment.fd) if segment else None
            written = self._written
        try:
            self._sync_inherited()
            for old in retired:
                self._sync_one(old.fd, is_spilt=old.is_spilt)
            if segment is not None and current is not None:
                self._sync_one(current, is_spilt=segment.is_spilt)
        except OSError:
            self.state = "DEGRADED"
        finally:
            for old in retired:
                # A disk may say only now that it has lost something.
                with contextlib.suppress(OSError):
                    os.close(old.fd)
                self._chainer.add(old.path)
            if current is not None:
                os.close(current)
        if self.state == "ON":
            self.durable = written

    def _sync_inherited(self) -> None:
        while self._inherited:
            fd = os.open(self._inherited[0], os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._sync_one(fd, is_spilt=False)
            finally:
                os.close(fd)
            self._inherited.pop(0)

    def _sync_one(self, fd: int, *, is_spilt: bool) -> None:
        began_ns = self._clock_ns()
        try:
            os.fdatasync(fd)
        finally:
            # A disk that fails after half a minute has taken half a minute.
            if not is_spilt:
                self.syncs = self.syncs.with_one(self._clock_ns() - began_ns)
