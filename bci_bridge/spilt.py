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
from bci_bridge.recording_reader import Break, scan_recording
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
        """List by log the segments that are in memory alone."""
        return {log: tuple(self._in(log)) for log in (INPUTS, OUTCOMES)}

    def scan(self, log: str) -> Iterator[Logged | Break]:
        """Read a log of the recording, wherever its segments are.

        Raises:
            RecordingError: If there is no segment, or one is no MCAP file.
        """
        spill = None if self.folder is None else self.folder / log
        return scan_recording(self.recording / log, spill)

    def told(self) -> str:
        """Say in one line what is in memory alone; empty where nothing is."""
        count = sum(map(len, self.segments.values()))
        if not count:
            return ""
        return (
            f"{self.recording}: expected all of it on its disk, found {count} segments "
            f"in memory alone, in {self.folder}. Replay and export read them there; no "
            "chain vouches for them, and they are gone when this machine starts anew."
        )

    def _in(self, log: str) -> Iterator[Path]:
        if self.folder is None:
            return
        for path in segments_of(self.folder / log).values():
            # One that its server has forgotten meanwhile, or has only just begun.
            with contextlib.suppress(OSError):
                if path.stat().st_size:
                    yield path


def spilt_of(recording: Path) -> Spilt:
    """Find what memory holds of a recording.

    That is told by the name of its log, which is drawn at random, and by its place: a
    copy of a folder has the same name, and may have gone its own way since.

    Args:
        recording: The folder that a server wrote.
    """
    log = recording / INPUTS
    for folder in sorted(memory_root().glob("neuroflow-*")):
        # Another user's, one that goes at this moment, or a log without a name.
        with contextlib.suppress(OSError):
            if _belongs(folder, log):
                return Spilt(recording, folder, is_written=_is_held(folder))
    return Spilt(recording)


def _belongs(folder: Path, log: Path) -> bool:
    found = folder.lstat()
    is_same_user = found.st_uid == (log / ".lock").stat().st_uid
    if not stat.S_ISDIR(found.st_mode) or not is_same_user:
        return False
    name, place = owner_of(folder)
    if not name or name != name_of(log) or place is None:
        return False
    # A disk may be mounted elsewhere by now.
    return not place.exists() or place.samefile(log)


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
