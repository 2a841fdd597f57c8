"""A folder for one process alone; the kernel ends the lock with the process."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from runtime.errors import UsageError


def locked_folder(
    folder: Path, not_usable: Callable[[OSError], str], taken: str
) -> int:
    """Make a folder and take it; return the descriptor that holds the lock.

    Args:
        folder: For its owner's eyes alone, where it is made here.
        not_usable: Says that it cannot be written.
        taken: Says that another process has it.

    Raises:
        UsageError: Either.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(not_usable(error)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise UsageError(taken) from error
    return fd
