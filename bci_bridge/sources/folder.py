"""A folder into which a scanner's software puts file after file, looked at by name.

Without notifications, which network shares do not give. What a share does now and then
(an error, a listing that is old or incomplete) is waited out.
"""

import fnmatch
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bci_bridge.sources.past import Left
from runtime.errors import ScanError

PATIENCE_S: Final = 10.0
"""A folder that cannot be listed for this long is gone."""

MIN_INTERVAL_S: Final = 0.02
_LISTING_SHARE: Final = 5.0
"""Between two listings passes this many times what one took: shares can be slow."""
_LITTER: Final = ("thumbs.db", "desktop.ini")
"""What a desktop leaves in a folder that somebody looked into."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as one look found it."""

    path: Path
    size: int
    changed_ns: int


class Folder:
    """The plain files of a folder whose names fit; links are not followed.

    Attributes:
        left: The files that are never looked at.
    """

    def __init__(
        self,
        folder: Path,
        endings: tuple[str, ...],
        *,
        pattern: str = "*",
        levels: int = 0,
        is_new_only: bool = False,
        left: Left | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look once.

        Args:
            folder: Where to look.
            endings: What names must end in, in lower case; case does not matter.
                An empty one takes all.
            pattern: Shell pattern of names; case does not matter.
            levels: How many levels of folders in it are looked into, too.
            is_new_only: Leave out what is there now.
            left: What an earlier process left out, and this one does instead.
            clock_s: Monotonic clock.

        Raises:
            ScanError: There is no such folder.
        """
        self._folder, self._endings = folder, endings
        self._pattern = pattern.lower()
        self._levels, self._clock_s = levels, clock_s
        self._done: set[Path] = set()
        self._left: frozenset[str] = frozenset()
        # Whether it is said already of folders in it that may not be listed.
        self._closed: dict[Path, bool] = {}
        self._failing_since_s: float | None = None
        self._next_look_s = clock_s()
        try:
            there = list(self._listed(folder, levels))
        except OSError as error:
            raise ScanError(
                f"{folder}: expected a folder, found {error.strerror or error}"
            ) from error
        self._n_there = sum(
            not path.name.startswith(".") and _seen(path) is not None for path in there
        )
        if left is None:
            names = map(self._named, there) if is_new_only else ()
            self._done.update(there if is_new_only else ())
            left = Left(
                folder=place(folder, pattern),
                is_new_only=is_new_only,
                names=tuple(names),
            )
        self.left, self._left = left, frozenset(left.names)

    @property
    def n_there(self) -> int:
        """How many files were there at the first look, hidden ones not counted."""
        return self._n_there

    def finish(self, path: Path) -> None:
        """Never look at a file again."""
        self._done.add(path)

    def closed(self) -> list[Path]:
        """Name folders in it that may not be listed, each once."""
        found = [path for path, is_said in self._closed.items() if not is_said]
        self._closed.update(dict.fromkeys(found, True))
        return found

    def wait_s(self) -> float:
        """Say how long it is until `look` is due."""
        return max(self._next_look_s - self._clock_s(), 0.0)

    def look(self) -> list[Seen]:
        """List the files that are not finished with.

        Raises:
            ScanError: The folder has been gone for too long.
        """
        begin_s = self._clock_s()
        found = []
        try:
            for path in self._listed(self._folder, self._levels):
                seen = _seen(path)
                if seen is not None:
                    found.append(seen)
        except OSError as error:
            if self._failing_since_s is None:
                self._failing_since_s = begin_s
            if begin_s - self._failing_since_s > PATIENCE_S:
                raise ScanError(
                    f"{self._folder}: expected the folder that was there, found "
                    f"{error.strerror or error} for {PATIENCE_S:g} s. "
                    "Is the share still connected?"
                ) from error
        else:
            self._failing_since_s = None
        end_s = self._clock_s()
        pause_s = max(MIN_INTERVAL_S, _LISTING_SHARE * (end_s - begin_s))
        self._next_look_s = end_s + pause_s
        return found

    def _listed(self, folder: Path, levels: int) -> Iterator[Path]:
        with os.scandir(folder) as entries:
            listed = list(entries)
        for entry in listed:
            path = folder / entry.name
            if levels > 0 and entry.is_dir(follow_symlinks=False):
                try:
                    yield from self._listed(path, levels - 1)
                except PermissionError:
                    self._closed.setdefault(path, False)
                except (FileNotFoundError, NotADirectoryError):
                    continue  # renamed or deleted since it was listed
            elif path not in self._done and self._fits(entry.name.lower()):
                if self._is_left(path):
                    self._done.add(path)
                    continue
                yield path

    def _fits(self, name: str) -> bool:
        # Whoever copies a file may give it another ending until it is whole.
        return (
            name.endswith(self._endings)
            and fnmatch.fnmatchcase(name, self._pattern)
            and name not in _LITTER
        )

    def _is_left(self, path: Path) -> bool:
        return bool(self._left) and self._named(path) in self._left

    def _named(self, path: Path) -> str:
        return _digest(path.relative_to(self._folder).as_posix())


def place(folder: Path, pattern: str = "*") -> str:
    """Return a digest of a folder and of a pattern of names, as `Left.folder`."""
    return _digest(f"{folder.resolve()}/{pattern.lower()}")


def _digest(text: str) -> str:
    return hashlib.blake2b(os.fsencode(text), digest_size=8).hexdigest()


def _seen(path: Path) -> Seen | None:
    try:
        status = path.lstat()
    except OSError:
        return None  # renamed or deleted since it was listed
    if not stat.S_ISREG(status.st_mode):
        return None
    return Seen(path, status.st_size, status.st_mtime_ns)
