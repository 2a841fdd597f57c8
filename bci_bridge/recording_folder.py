"""The folder of a log: what is in it, and whether a writer can take it."""

import os
from pathlib import Path

from bci_bridge.folder_lock import locked_folder
from bci_bridge.segment_name import is_stranger, segment_number
from runtime.errors import UsageError


def not_writable(folder: Path, error: OSError) -> str:
    """Say that a folder cannot be written."""
    return (
        f"recording {folder}: expected a folder to write to, "
        f"found {error.strerror or error}"
    )


def locked(folder: Path) -> int:
    """Make a folder and take it for this process alone; return the lock.

    Raises:
        UsageError: It cannot be made or entered, or another process records there.
    """
    try:
        return locked_folder(
            folder,
            f"recording {folder}: expected a free folder, found one that another "
            "server records to. Stop that server or name another folder.",
        )
    except OSError as error:
        raise UsageError(not_writable(folder, error)) from error


def segments_of(folder: Path) -> dict[int, Path]:
    """Find the segments of a log by number, in order; none where there is no folder."""
    numbers = {segment_number(name): name for name in _listed(folder)}
    return {
        number: folder / numbers[number]
        for number in sorted(number for number in numbers if number is not None)
    }


def strangers_in(folder: Path) -> tuple[str, ...]:
    """Name what passes for a segment there and is none, such as a copy of one."""
    return tuple(sorted(filter(is_stranger, _listed(folder))))


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def has_begun(folder: Path) -> bool:
    """Say whether a log has a segment: who writes now goes on with it."""
    return bool(segments_of(folder))


def lacking(folder: Path | None, state: str) -> str:
    """Say that not all of a recording could be written; empty where it could."""
    if state != "DEGRADED":
        return ""
    return (
        f"recording {folder}: expected all of it on its disk, found some in memory "
        "alone. Make room, or see that it can be written."
    )


def check_room(folder: Path, wanted_bytes: int) -> None:
    """Refuse a disk that would be full soon, now and not in an hour.

    Args:
        folder: Where segments will go; it need not exist yet.
        wanted_bytes: What must be free for this user.

    Raises:
        UsageError: There is less, or the disk does not say.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        found = os.statvfs(place)
    except OSError as error:
        raise UsageError(not_writable(folder, error)) from error
    free = found.f_bavail * found.f_frsize
    if free < wanted_bytes:
        raise UsageError(
            f"recording {folder}: expected {wanted_bytes / 1e6:.0f} MB of room, "
            f"found {free / 1e6:.0f} MB. Free some or name another folder."
        )
