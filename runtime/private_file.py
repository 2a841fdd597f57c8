"""Small files that decide who is trusted: read only if private, written whole.

A secret is created readable by its owner alone, and refused where others can read it; a
list of who is trusted is refused where others can write it. Knows nothing of what the
files mean.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from runtime.errors import ArtifactError

OTHERS_READ: Final = 0o077
OTHERS_WRITE: Final = 0o022


def read_private(file: Path, forbidden: int, *, max_bytes: int) -> bytes:
    """Read a key file, or one byte more than allowed where it is longer.

    Args:
        file: A plain file.
        forbidden: `OTHERS_READ`, `OTHERS_WRITE`, or 0 for what anybody may change.
        max_bytes: The caller refuses what is longer.

    Raises:
        ArtifactError: If it is missing, no plain file, or open to others.
    """
    # One descriptor for check and content: what was checked is what is read.
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ArtifactError(
            f"{file}: expected a key file, found: {error.strerror}"
        ) from error
    with os.fdopen(descriptor, "rb") as opened:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ArtifactError(f"{file}: expected a plain file, found another kind")
        if found.st_mode & forbidden:
            is_secret = forbidden == OTHERS_READ
            what, remedy = ("readable", "600") if is_secret else ("writable", "go-w")
            raise ArtifactError(
                f"{file}: expected a file {what} by its owner alone, found mode "
                f"{stat.S_IMODE(found.st_mode):04o}. Run: chmod {remedy} {file}"
            )
        return opened.read(max_bytes + 1)


def refuse_open_folder(folder: Path) -> None:
    """Refuse a folder of keys into which others could put theirs.

    Raises:
        ArtifactError: If it is missing or others can write it.
    """
    try:
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError as error:
        raise ArtifactError(
            f"{folder}: expected a folder of keys, found: {error.strerror}"
        ) from error
    if mode & OTHERS_WRITE:
        raise ArtifactError(
            f"{folder}: expected a folder writable by its owner alone, found mode "
            f"{mode:04o}. Run: chmod go-w {folder}"
        )


def replace_whole(file: Path, data: bytes, mode: int) -> None:
    """Write a file so that whoever reads it sees all of it or what was there before.

    Raises:
        ArtifactError: If it cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, flags, mode), "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(file)
    except OSError as error:
        # Of a name that is too long, or where nothing may be written, this fails too.
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ArtifactError(
            f"{file}: expected a place to write, found: {error.strerror}"
        ) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let nobody else who asks for it into a folder meanwhile; wait for who is.

    Raises:
        OSError: It cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
