"""The file of `bench --json`: refused before the work, and never left half written."""

import contextlib
import errno
import stat
import tempfile
from pathlib import Path
from typing import Final

from runtime.errors import ArtifactError
from runtime.private_file import replace_whole
from verbs.sealed_places import refuse_inside

_NOT_BESIDE: Final = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EBUSY,
    errno.ENAMETOOLONG,
)
"""A folder takes no file beside one that can be written, or not in its place: that of
another user, or a file that is mounted."""


def check_writable(file: Path) -> None:
    """Refuse, before anything is measured, a file that cannot be written.

    Raises:
        ArtifactError: It is a folder, its folder is not there, one may not, or it
            would lie in a folder that lists its files, which nobody could open then.
    """
    folder = file.absolute().parent
    if not folder.is_dir():
        raise ArtifactError(
            f"{file}: expected a folder to write it into, found none. Make it."
        )
    refuse_inside(file)
    try:
        if file.exists():
            with file.open("ab"):
                pass
        else:
            # What `replace_whole` does: a file beside it, of a name that is as long.
            whole = file.resolve()
            with tempfile.NamedTemporaryFile(
                dir=whole.parent, prefix=f".{whole.name}."
            ):
                pass
    except OSError as error:
        raise ArtifactError(
            f"{file}: expected a file that can be written, found: {error.strerror}. "
            "Name another."
        ) from error


def keep(file: Path, data: bytes) -> None:
    """Write it whole; where that fails, what was there before is there still.

    Only where its folder takes no other file is one that is there written over.

    Raises:
        ArtifactError: It cannot be written.
    """
    try:
        if file.is_file():
            # Where a link leads, and not in the link's place.
            _replace(file.resolve(), data)
        elif file.exists():
            # A device or a pipe, whose place no file may take.
            file.write_bytes(data)
        else:
            replace_whole(file.resolve(), data, 0o666)
    except OSError as error:
        raise ArtifactError(
            f"{file}: expected a place to write, found: {error.strerror}"
        ) from error


def _replace(file: Path, data: bytes) -> None:
    mode = stat.S_IMODE(file.stat().st_mode)
    try:
        replace_whole(file, data, mode)
    except ArtifactError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _NOT_BESIDE:
            raise
        file.write_bytes(data)
    else:
        # What the umask took from it; some shares have no modes, and the file is there.
        with contextlib.suppress(OSError):
            file.chmod(mode)
