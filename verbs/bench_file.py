"""The file of `bench --json`: refused before the work, and never left half written."""

import tempfile
from pathlib import Path

from runtime.errors import ArtifactError
from runtime.private_file import replace_whole
from verbs.sealed_places import refuse_inside


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
        if _is_replaced(file):
            # What `replace_whole` does: a file beside it, of a name that is as long.
            whole = file.resolve()
            with tempfile.NamedTemporaryFile(
                dir=whole.parent, prefix=f".{whole.name}."
            ):
                pass
        else:
            with file.open("ab"):
                pass
    except OSError as error:
        raise ArtifactError(
            f"{file}: expected a file that can be written, found: {error.strerror}"
        ) from error


def keep(file: Path, data: bytes) -> None:
    """Write it whole; where that fails, what was there before is there still.

    Raises:
        ArtifactError: It cannot be written.
    """
    if _is_replaced(file):
        # Where a link leads, and not in the link's place.
        replace_whole(file.resolve(), data, 0o666)
        return
    try:
        file.write_bytes(data)
    except OSError as error:
        raise ArtifactError(
            f"{file}: expected a place to write, found: {error.strerror}"
        ) from error


def _is_replaced(file: Path) -> bool:
    """Say whether another file may take its place: not that of a device or a pipe."""
    return file.is_file() or not file.exists()
