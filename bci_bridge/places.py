"""Where the processes of one server meet: its two logs, and a folder for the moment.

The recording has a log of inputs and a log of outcomes. Bells, the lock of the active
worker and what cannot be written to the recording are in a folder of memory that only
this user may enter; its name follows from the recording's path, so that a server that
is started again finds what the last one left there (`bci_bridge.leftovers`).
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bci_bridge.leftovers import SERVER, claimed, clear_dead, is_spilt
from bci_bridge.recording_folder import not_writable, strangers_in
from bci_bridge.segment_name import not_a_segment
from runtime.errors import UsageError

INPUTS: Final = "inputs"
OUTCOMES: Final = "outcomes"
MEMORY: Final = Path("/dev/shm")  # noqa: S108  # entered only after `_private`
PATIENCE_S: Final = 0.5
"""A folder may be held for a moment by a server that looks whether it can go."""


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one server."""

    recording: Path | None
    """None where nothing is kept beyond the moment."""
    moment: Path

    def log(self, name: str) -> Path:
        """Give the folder of a log."""
        return (self.moment if self.recording is None else self.recording) / name

    def spill(self, name: str) -> Path | None:
        """Give where a log goes on while its own folder cannot be written."""
        return None if self.recording is None else self.moment / name

    def folders(self, name: str) -> list[Path]:
        """List where the segments of a log may be."""
        spill = self.spill(name)
        return [self.log(name), *([] if spill is None else [spill])]

    @property
    def active(self) -> Path:
        """The lock that the worker holds which answers."""
        return self.moment / "active"

    def remove(self) -> None:
        """Remove what was for the moment, unless it holds what the recording lacks."""
        if self.recording is None or not is_spilt(self.moment):
            shutil.rmtree(self.moment, ignore_errors=True)


@contextlib.contextmanager
def held_places(
    recording: Path | None, tell: Callable[[str], None] = lambda _: None
) -> Iterator[Places]:
    """Make the folders, and keep every other server out of them.

    Args:
        recording: Where all is kept; None where nothing is.
        tell: Told in one line of what another recording lacks and was found here.

    Raises:
        UsageError: A folder cannot be made, belongs to another user, is another
            server's, or holds what passes for a segment and is none.
    """
    if recording is not None:
        require_segments_alone(recording)
    clear_dead(memory_root())
    places, fd = _locked_places(recording)
    try:
        if recording is not None:
            try:
                told = claimed(places.moment, places.log(INPUTS))
            except OSError as error:
                raise UsageError(not_writable(recording, error)) from error
            if told:
                tell(told)
        try:
            yield places
        finally:
            places.remove()
    finally:
        os.close(fd)


def require_segments_alone(recording: Path) -> None:
    """Refuse a recording with what passes for a segment and is none.

    To be asked before anything is recorded: what comes in later is not taken for a
    segment either, but stops no session, and is named by whoever checks the recording.

    Raises:
        UsageError: There is such a file.
    """
    for log in (INPUTS, OUTCOMES):
        for name in strangers_in(recording / log):
            raise UsageError(f"recording {recording}: {log}: {not_a_segment(name)}")


def _locked_places(recording: Path | None) -> tuple[Places, int]:
    until = time.monotonic() + PATIENCE_S
    while True:
        places = _made_places(recording)
        file = places.moment / SERVER
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Not one that was removed between the two.
            if os.path.samestat(os.fstat(fd), file.stat()):
                return places, fd
        except OSError as error:
            if time.monotonic() > until:
                os.close(fd)
                raise UsageError(
                    f"recording {recording}: expected a free folder, found one that "
                    "another server records to. Stop that server or name another "
                    "folder."
                ) from error
        os.close(fd)
        time.sleep(0.01)


def memory_root() -> Path:
    """Give where this machine keeps what is for the moment, in memory if it can."""
    return MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())


def _made_places(recording: Path | None) -> Places:
    root = memory_root()
    if recording is None:
        moment = Path(tempfile.mkdtemp(prefix="neuroflow-", dir=root))
    else:
        recording = recording.resolve()
        digest = hashlib.sha256(os.fsencode(recording)).hexdigest()[:16]
        moment = _private(root / f"neuroflow-{os.getuid()}-{digest}")
    places = Places(recording, moment)
    try:
        for name in (INPUTS, OUTCOMES):
            for folder in places.folders(name):
                folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        places.remove()
        raise UsageError(
            f"recording {recording}: expected a folder to write to, "
            f"found {error.strerror or error}"
        ) from error
    return places


def _private(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UsageError(
            f"{folder}: expected a folder to write to, found {error.strerror or error}"
        ) from error
    is_ours = found.st_uid == os.getuid() and stat.S_ISDIR(found.st_mode)
    if not is_ours or found.st_mode & 0o077:
        raise UsageError(
            f"{folder}: expected a folder that only this user may enter, found "
            "another. Remove it."
        )
    return folder
