"""What a server that was killed left in memory: whose it is, and when it can go.

Its folder is found by the path of its recording, where another recording may have begun
since; what the folder holds must not be taken for that one's. So a log that begins gets
a name of its own, drawn at random: it stands in the log's lock file, and in the folder.
"""

import contextlib
import fcntl
import itertools
import os
import re
import secrets
import shutil
import stat
from pathlib import Path
from typing import Final

from bci_bridge.recording_folder import has_begun, segments_of

SERVER: Final = "server"
"""In the folder of a server; locked for as long as one of its processes lives."""

_OWNER: Final = "owner"
"""In the same folder: name and place of the log that it belongs to."""

_UNRECORDED: Final = re.compile(r"neuroflow-[a-z0-9_]{8}")
"""A folder that nobody finds again: its server kept nothing beyond the moment."""


def is_spilt(moment: Path) -> bool:
    """Say whether a folder holds what its recording lacks."""
    return any(path.stat().st_size for path in _segments(moment))


def _segments(moment: Path) -> list[Path]:
    return [path for log in moment.glob("*") for path in segments_of(log).values()]


def claimed(moment: Path, log: Path) -> str:
    """Make a folder that of a log, whoever's it was; this process holds both.

    Args:
        moment: The folder of the server.
        log: The log of the recording's inputs.

    Returns:
        One line where the folder held what another recording lacks; it is set aside.

    Raises:
        OSError: The folder cannot be written, or the log not be read.
    """
    name, is_new = name_of(log), not has_begun(log)
    owner, _ = owner_of(moment)
    # Neither has a name where an earlier version made both.
    is_foreign = is_new or owner != name
    told = _set_aside(moment) if is_foreign and is_spilt(moment) else ""
    if is_new or not name:
        name = _named(log)
    (moment / _OWNER).write_bytes(name + b"\n" + os.fsencode(log))
    return told


def clear_dead(root: Path) -> None:
    """Remove the folders of servers that are dead, where nobody can miss anything.

    That is where a server kept nothing, or where the recording has no need of what is
    there and is gone. What a recording lacks stays: its disk may only be away.

    Args:
        root: Where the folders of all servers are.
    """
    for folder in root.glob("neuroflow-*"):
        # Another user's, one without a lock, or one whose server lives.
        with contextlib.suppress(OSError):
            _clear_if_dead(folder)


def _clear_if_dead(folder: Path) -> None:
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        return
    fd = os.open(folder / SERVER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _can_go(folder):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(fd)


def _can_go(folder: Path) -> bool:
    if _UNRECORDED.fullmatch(folder.name):
        return True
    name, log = owner_of(folder)
    if log is None or is_spilt(folder):
        return False
    return not os.path.lexists(log) or name_of(log) != name


def owner_of(moment: Path) -> tuple[bytes, Path | None]:
    """Give the name and the place of the log that a folder of the moment belongs to."""
    try:
        name, _, log = (moment / _OWNER).read_bytes().partition(b"\n")
    except FileNotFoundError:
        return b"", None
    return name, Path(os.fsdecode(log))


def name_of(log: Path) -> bytes:
    """Give the name that was drawn for a log; empty where it has none."""
    try:
        return (log / ".lock").read_bytes()
    except FileNotFoundError:
        return b""


def _named(log: Path) -> bytes:
    """Give a log its name; none where its disk takes nothing."""
    name = secrets.token_hex(16).encode()
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with os.fdopen(os.open(log / ".lock", flags, 0o600), "wb") as file:
            file.write(name)
    except OSError:
        return b""
    return name


def _set_aside(moment: Path) -> str:
    for number in itertools.count(1):
        aside = moment.with_name(f"{moment.name}.{number}")
        with contextlib.suppress(FileExistsError):
            aside.mkdir(mode=0o700)
            break
    for log in {path.parent for path in _segments(moment)}:
        log.rename(aside / log.name)
        log.mkdir()
    return (
        f"{moment}: expected what this recording lacks, found what another one at the "
        f"same path did. That is now in {aside}. Remove it once it is not needed."
    )
