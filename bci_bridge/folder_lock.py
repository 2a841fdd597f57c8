"""A folder for one process alone; the kernel ends the lock with the process."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from runtime.errors import UsageError

TAKES_NOTHING: Final = {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO}
"""What a disk says that may still be read."""


def locked_folder(folder: Path, taken: str) -> int:
    """Make a folder and take it; return the descriptor that holds the lock.

    Args:
        folder: For its owner's eyes alone, where it is made here.
        taken: Says that another process has it.

    Raises:
        OSError: It cannot be made or entered.
        UsageError: Another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = _opened(folder)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise UsageError(taken) from error
    return fd


def _opened(folder: Path) -> int:
    file = folder / ".lock"
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in TAKES_NOTHING:
            raise
    # A lock needs no room, only something to hold.
    try:
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
