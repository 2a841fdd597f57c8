"""The folder in which engines are kept: of this user alone, and written whole.

Several processes write to it at once, in containers too, where two have one number: a
file that is being written has a name by chance and is locked, so that whoever comes
later can tell what a dead writer left behind. Knows nothing of engines.
"""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, final

SECRET: Final = "secret"  # noqa: S105  # a file's name
SECRET_BYTES: Final = 32

Say = Callable[[str], None]


@final
class PrivateFolder:
    """A folder of files that only this user reads and writes."""

    def __init__(self, path: Path, say: Say) -> None:
        """Name a folder; it is made when it is first asked for.

        Args:
            path: Of this user alone.
            say: Called with a line where a secret had to be made anew.
        """
        self.path, self._say = path, say

    def check(self) -> None:
        """Make the folder, or refuse one that others can reach.

        Raises:
            OSError: It cannot be made, is no folder, or is open to others.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.path.lstat()
        mode = stat.S_IMODE(found.st_mode)
        if not stat.S_ISDIR(found.st_mode):
            # What it points to may be moved by whoever it belongs to.
            raise OSError(
                0, "a link to a folder (put a folder there, or set XDG_CACHE_HOME)"
            )
        if found.st_uid != os.getuid():
            raise OSError(
                0,
                f"a folder of user {found.st_uid}, not of {os.getuid()} "
                "(set XDG_CACHE_HOME)",
            )
        if mode & 0o077:
            raise OSError(
                0, f"a folder of mode {mode:04o} and user {found.st_uid} (chmod 700 it)"
            )

    def secret(self) -> bytes:
        """Return this user's secret, made at the first use and where it is damaged.

        Raises:
            OSError: It cannot be read or made, or others can read it.
        """
        return self._sound_secret() or self._new_secret()

    def _sound_secret(self) -> bytes | None:
        try:
            with opened(self.path / SECRET) as file:
                data = file.read(SECRET_BYTES + 1)
        except FileNotFoundError:
            return None
        # A power cut leaves a file of the right length with nothing in it, too.
        return data if len(data) == SECRET_BYTES and any(data) else None

    def _new_secret(self) -> bytes:
        path = self.path / SECRET
        with self._alone():
            # Another process may have made it meanwhile.
            if found := self._sound_secret():
                return found
            if os.path.lexists(path):
                self._say(
                    f"engine cache: {path}: expected {SECRET_BYTES} random bytes, "
                    "found it damaged; making another: what it vouched for is not "
                    "believed, and built anew"
                )
                path.unlink(missing_ok=True)
            with _until_named(self._made(SECRET)) as (file, temporary):
                file.write(secrets.token_bytes(SECRET_BYTES))
                _sync(file)
                # Whoever comes first wins: a link fails where the name is taken.
                with contextlib.suppress(FileExistsError):
                    path.hardlink_to(temporary)
            _sync_folder(self.path)
        found = self._sound_secret()
        if found is None:
            raise OSError(0, "no secret, though one was just made")
        return found

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let nobody else in meanwhile, where the file system knows locks."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        descriptor = os.open(self.path, flags)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[BinaryIO]:
        """Write a file that has its name when it is whole and on the disk, or never.

        What writers that died left behind is removed first.

        Raises:
            OSError: It cannot be written.
        """
        # Made and locked in one step, as far as a sweep can see.
        with self._alone():
            self._sweep()
            made = self._made(name)
        with _until_named(made) as (file, temporary):
            yield file
            _sync(file)
            temporary.replace(self.path / name)

    def _made(self, name: str) -> tuple[BinaryIO, Path]:
        temporary = self.path / f".{name}.{secrets.token_hex(8)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.fdopen(os.open(temporary, flags, 0o600), "w+b")
        with contextlib.suppress(OSError):
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file, temporary

    def _sweep(self) -> None:
        for pattern in (".*.engine.*", f".{SECRET}.*"):
            for path in self.path.glob(pattern):
                with contextlib.suppress(OSError):
                    _remove_left(path)


@contextlib.contextmanager
def _until_named(made: tuple[BinaryIO, Path]) -> Iterator[tuple[BinaryIO, Path]]:
    file, temporary = made
    try:
        with file:
            yield file, temporary
    finally:
        # However it ends: Ctrl-C, too, would leave the size of an engine behind.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _remove_left(path: Path) -> None:
    """Remove a file that nobody writes any more.

    Raises:
        OSError: Somebody does, or nobody can say.
    """
    with opened(path) as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def opened(path: Path) -> BinaryIO:
    """Open a plain file of this user that nobody else can reach.

    Raises:
        OSError: It is something else.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.fdopen(os.open(path, flags), "rb")
    found = os.fstat(file.fileno())
    is_own = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()
    if not is_own or found.st_mode & 0o077:
        file.close()
        raise OSError(0, "a file that others can reach, or no plain one")
    return file
