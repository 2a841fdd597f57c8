"""A temporary folder that goes with its process, however that ends.

A process that is killed removes nothing. Each such folder is therefore locked for as
long as its process lives, and whoever makes one removes those that nobody holds: the
kernel takes a lock from the dead.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Final, final

from runtime.errors import ArtifactError

PREFIX: Final = "neuroflow-copy-"
"""Begins the name of every such folder, and of nothing else."""


@final
class HeldFolder:
    """A folder of this process alone, with mode 0700, below the system's temporary one.

    Removed by `remove`, with this object or at the interpreter's end; after a kill by
    the next process that makes one.
    """

    def __init__(self) -> None:
        """Remove what the dead left behind, then make a folder and hold it.

        Raises:
            ArtifactError: No folder can be made.
        """
        try:
            root = Path(tempfile.gettempdir())
            remove_left_behind(root)
            self.path, lock = _made(root)
        except OSError as error:
            raise ArtifactError(
                "temporary folder: expected a place to write, found "
                f"{(error.strerror or str(error)).lower()}. Set TMPDIR to another."
            ) from error
        self.remove = weakref.finalize(self, _remove, self.path, lock, os.getpid())

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()


def remove_left_behind(root: Path) -> None:
    """Remove this user's folders below `root` that no process holds any more."""
    with os.scandir(root) as entries:
        found = [Path(one.path) for one in entries if one.name.startswith(PREFIX)]
    for path in found:
        with contextlib.suppress(OSError):
            lock = _opened(path)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def _made(root: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        try:
            lock = _opened(path)
        except FileNotFoundError:
            continue  # taken for left behind, in the instant before it was held
        # A file system without locks leaves its folders to whoever cleans up there.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(lock)):
                return path, lock
        os.close(lock)


def _opened(path: Path) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags)


def _remove(path: Path, lock: int, owner: int) -> None:
    # A copy of the process holds the folder as well, but it is not the copy's.
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
    os.close(lock)
