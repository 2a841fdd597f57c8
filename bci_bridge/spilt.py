"""What this machine's memory holds of a recording that its disk did not take.

A server that stops or is killed leaves it there, and the next one at the path goes on
with it (`bci_bridge.places`, `bci_bridge.leftovers`). Whoever reads the recording back
finds it here. Nothing is changed, and nothing held for longer than a look.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bci_bridge.leftovers import SERVER, name_of, owner_of
from bci_bridge.places import INPUTS, OUTCOMES, memory_root
from bci_bridge.recording_folder import segments_of
from bci_bridge.recording_reader import Break, read_recording, scan_recording
from bci_bridge.segment import Logged


@dataclass(frozen=True, slots=True)
class Spilt:
    """What belongs to a recording beside its own folder."""

    recording: Path
    folder: Path | None = None
    """Of its server, in memory; None where there is none on this machine."""
    is_written: bool = False
    """A server that lives records there."""

    @property
    def segments(self) -> dict[str, tuple[Path, ...]]:
        """List by log the segments that are in memory alone, and are read there."""
        return {
            log: tuple(path for path, is_taken in self._in(log) if not is_taken)
            for log in (INPUTS, OUTCOMES)
        }

    @property
    def is_read_whole(self) -> bool:
        """Memory holds what the disk lacks, and all of that is read."""
        return any(self.segments.values()) and not self.passed_over

    @property
    def passed_over(self) -> int:
        """Count segments in memory whose numbers the disk has given again.

        As where the disk was mounted elsewhere, and a server went on there.
        """
        return sum(
            is_taken for log in (INPUTS, OUTCOMES) for _, is_taken in self._in(log)
        )

    def scan(self, log: str) -> Iterator[Logged | Break]:
        """Read a log of the recording, wherever its segments are.

        Raises:
            RecordingError: If there is no segment, or one is no MCAP file.
        """
        return scan_recording(self.recording / log, self._memory(log))

    def read(self, log: str) -> Iterator[Logged]:
        """Read a log of the recording in which nothing may be damaged.

        Raises:
            RecordingError: If there is no segment, or one is damaged.
        """
        return read_recording(self.recording / log, self._memory(log))

    def told(self) -> list[str]:
        """Say in a line each what is in memory alone, and what is not read there."""
        lines = []
        if count := sum(map(len, self.segments.values())):
            lines.append(
                f"{self.recording}: expected all of it on its disk, found {count} "
                f"segments in memory alone, in {self.folder}. Replay, export and "
                "calibration read them there; no chain vouches for them, and they are "
                "gone when this machine starts anew."
            )
        if count := self.passed_over:
            lines.append(
                f"{self.recording}: expected one segment of each number, found {count} "
                f"in memory, in {self.folder}, whose numbers its disk has too. They "
                "are not read; keep them by copying that folder."
            )
        return lines

    def _memory(self, log: str) -> Path | None:
        return None if self.folder is None else self.folder / log

    def _in(self, log: str) -> Iterator[tuple[Path, bool]]:
        """Yield what memory has of a log, and whether the disk has its number."""
        memory = self._memory(log)
        if memory is None:
            return
        taken = segments_of(self.recording / log)
        for number, path in segments_of(memory).items():
            # One that its server has forgotten meanwhile, or has only just begun.
            with contextlib.suppress(OSError):
                if path.stat().st_size:
                    yield path, number in taken


def spilt_of(recording: Path) -> Spilt:
    """Find what memory holds of a recording.

    That is told by the name of its log, which is drawn at random, and by its place: a
    copy of a folder has the same name, and may have gone its own way since.

    Args:
        recording: The folder that a server wrote.
    """
    log, elsewhere = recording / INPUTS, Spilt(recording)
    for folder in sorted(memory_root().glob("neuroflow-*")):
        # Another user's, one that goes at this moment, or a log without a name.
        with contextlib.suppress(OSError):
            place = _place_of(folder, log)
            if place is None:
                continue
            found = Spilt(recording, folder, is_written=_is_held(folder))
            if place.exists():
                return found
            # Of the place where the disk was mounted then.
            elsewhere = found
    return elsewhere


def _place_of(folder: Path, log: Path) -> Path | None:
    """Return where the log was whose memory this is; None where it is another's."""
    found = folder.lstat()
    is_same_user = found.st_uid == (log / ".lock").stat().st_uid
    if not stat.S_ISDIR(found.st_mode) or not is_same_user:
        return None
    name, place = owner_of(folder)
    if not name or name != name_of(log) or place is None:
        return None
    # A disk may be mounted elsewhere by now.
    return place if not place.exists() or place.samefile(log) else None


def _is_held(folder: Path) -> bool:
    """Say whether a server lives there; one that begins waits out this look."""
    fd = os.open(folder / SERVER, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
