"""The log: every input and every outcome of a rig in one total order, as MCAP.

One chunk per message and a write per chunk, so that a killed process loses nothing; a
thread syncs to disk off the hot path, so that a power cut loses at most what was not
yet acknowledged as durable. Segments of at most 64 MiB keep a look at the tail cheap.
A disk that is full or gone degrades the recording and nothing else.

`bci_bridge.recording_reader` reads it back; any MCAP tool can, too.
"""

import fcntl
import os
import threading
from pathlib import Path
from typing import Final, Literal

from mcap.writer import CompressionType, IndexType, Writer

from bci_bridge.wire import Envelope
from runtime.errors import UsageError

SEGMENT_BYTES: Final = 64 << 20
SYNC_INTERVAL_S: Final = 0.2
"""Pause between two syncs; well below the second that may be lost to a power cut."""

RETRY_NS: Final = 5_000_000_000
"""After a failed write the disk is tried again this much later."""

ENCODING: Final = "neuroflow1"
"""Message encoding: header length as little-endian u32, header frame, payload."""


class _Sink:
    """What the MCAP writer writes into: gathers, then writes all or raises."""

    def __init__(self, fd: int) -> None:
        self.fd, self.good_bytes = fd, 0
        self._parts: list[bytes] = []
        self._position = 0

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        left = memoryview(b"".join(self._parts))
        self._parts.clear()
        while left:
            # A full disk shortens a write without an exception; the next one raises.
            left = left[os.write(self.fd, left) :]
        self.good_bytes = self._position


class Recorder:
    """Appends messages to a folder of segments.

    Attributes:
        state: ON, or DEGRADED once a message could not be written.
        durable: Messages that are safe from a loss of power; not more than `appended`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        sync_interval_s: float = SYNC_INTERVAL_S,
    ) -> None:
        """Take the folder for this process alone.

        Raises:
            UsageError: If it cannot be written, or another process records there.
        """
        self.state: Literal["ON", "DEGRADED"] = "ON"
        self.durable = 0
        self._appended = self._written = 0
        self._folder, self._segment_bytes = folder, segment_bytes
        self._sync_interval_s = sync_interval_s
        self._sink: _Sink | None = None
        self._retry_ns: int | None = None
        self._retired: list[int] = []
        self._guard = threading.Lock()
        self._is_dirty, self._is_closing = threading.Event(), threading.Event()
        self._lock_fd = _locked(folder)
        try:
            self._open_segment()
        except OSError as error:
            os.close(self._lock_fd)
            raise UsageError(_not_writable(folder, error)) from error
        self._thread = threading.Thread(target=self._sync_loop, name="recorder-sync")
        self._thread.start()

    @property
    def appended(self) -> int:
        """Messages given to `append` so far."""
        return self._appended

    def append(self, topic: str, envelope: Envelope, log_ns: int) -> None:
        """Write one message; a failure changes `state` instead of raising.

        Args:
            topic: ``in/STREAM``, ``out`` or ``refused/STREAM``.
            envelope: The message as it travels.
            log_ns: Instant on the server's monotonic clock.
        """
        order = self._appended
        self._appended += 1
        try:
            if self._sink is None:
                if self._retry_ns is not None and log_ns < self._retry_ns:
                    return
                self._open_segment()
            elif self._sink.good_bytes >= self._segment_bytes:
                self._finish_segment()
                self._open_segment()
            self._write(topic, envelope, log_ns, order)
            self._written = order + 1
        except OSError:
            self._give_up_segment(log_ns)
        self._is_dirty.set()

    def close(self) -> None:
        """Finish the segment, sync it and release the folder."""
        try:
            if self._sink is not None:
                self._finish_segment()
        except OSError:
            self._give_up_segment(0)
        self._is_closing.set()
        self._is_dirty.set()
        self._thread.join()
        os.close(self._lock_fd)

    def _write(self, topic: str, envelope: Envelope, log_ns: int, order: int) -> None:
        channel = self._channels.get(topic)
        if channel is None:
            channel = self._writer.register_channel(topic, ENCODING, 0)
            self._channels[topic] = channel
        size = len(envelope.header).to_bytes(4, "little")
        self._writer.add_message(
            channel_id=channel,
            log_time=max(log_ns, 0),
            publish_time=max(log_ns, 0),
            sequence=order & 0xFFFFFFFF,
            data=size + envelope.header + envelope.payload,
        )
        if self._sink is not None:
            self._sink.flush()

    def _open_segment(self) -> None:
        taken = [int(path.stem) for path in self._folder.glob("[0-9]*.mcap")]
        path = self._folder / f"{max(taken, default=-1) + 1:06d}.mcap"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        sink = _Sink(fd)
        self._channels: dict[str, int] = {}
        self._writer = Writer(
            sink,
            chunk_size=1,
            compression=CompressionType.NONE,
            index_types=IndexType.CHUNK,
        )
        try:
            self._writer.start(profile="", library="neuroflow-rt")
            sink.flush()
        except OSError:
            os.close(fd)
            raise
        with self._guard:
            self._sink = sink

    def _finish_segment(self) -> None:
        if self._sink is None:
            return
        self._writer.finish()
        self._sink.flush()
        with self._guard:
            self._retired.append(self._sink.fd)
            self._sink = None

    def _give_up_segment(self, log_ns: int) -> None:
        self.state = "DEGRADED"
        self._retry_ns = log_ns + RETRY_NS
        sink = self._sink
        if sink is None:
            return
        with self._guard:
            self._retired.append(sink.fd)
            self._sink = None
        # Half a chunk at the end would make the segment look damaged; it is not.
        os.ftruncate(sink.fd, sink.good_bytes)

    def _sync_loop(self) -> None:
        while not (self._is_closing.is_set() and not self._is_dirty.is_set()):
            self._is_dirty.wait()
            self._is_dirty.clear()
            self._sync()
            self._is_closing.wait(self._sync_interval_s)
        self._sync()

    def _sync(self) -> None:
        with self._guard:
            retired, self._retired = self._retired, []
            # Duplicated, because the writer may retire and this thread close it.
            current = None if self._sink is None else os.dup(self._sink.fd)
            written = self._written
        try:
            for fd in retired:
                os.fdatasync(fd)
            if current is not None:
                os.fdatasync(current)
        except OSError:
            self.state = "DEGRADED"
        finally:
            for fd in [*retired, *([] if current is None else [current])]:
                os.close(fd)
        if self.state == "ON":
            self.durable = written


def _not_writable(folder: Path, error: OSError) -> str:
    return (
        f"recording {folder}: expected a folder to write to, "
        f"found {error.strerror or error}"
    )


def _locked(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UsageError(_not_writable(folder, error)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise UsageError(
            f"recording {folder}: expected a free folder, found one that another "
            "server records to. Stop that server or name another folder."
        ) from error
    return fd
