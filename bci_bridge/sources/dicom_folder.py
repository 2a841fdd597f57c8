"""A folder into which a console exports DICOM files, or the folder of its day.

What a file holds is read from the file: names mean nothing, and folders below are
looked into, because consoles make one for a patient, an examination and a series.
"""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bci_bridge.sources.dicom_elements import HEAD_BYTES, MAX_FILE_BYTES, read_order
from bci_bridge.sources.dicom_receiver import DicomReceiver
from bci_bridge.sources.dicom_values import IncompleteError
from bci_bridge.sources.folder import Folder
from bci_bridge.sources.folder_source import FolderSource
from bci_bridge.sources.past import Left, Past, Turns
from bci_bridge.sources.source import Arrival
from runtime.errors import ScanError

LEVELS: Final = 3
"""Patient, examination, series."""
UNFINISHED: Final = (".filepart", ".part", ".partial", ".tmp", "~")
"""Ends of names that copying programs give a file until it is whole."""


class DicomFolder:
    """A source of what is in a folder.

    Args:
        folder: Where the files come.
        receiver: What becomes of a file.
        pattern: Shell pattern of names; case does not matter.
        is_new_only: Leave out what is there already.
        past: What an earlier process did, whose files are kept to.
        clock_s: A clock that never steps.
        sleep: Lets time pass.

    Raises:
        ScanError: There is no such folder.
    """

    def __init__(
        self,
        folder: Path,
        receiver: DicomReceiver,
        *,
        pattern: str = "*",
        is_new_only: bool = False,
        past: Past | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        past = past or Past()
        watched = Folder(
            folder,
            ("",),
            pattern=pattern,
            levels=LEVELS,
            is_new_only=is_new_only,
            left=past.left,
            clock_s=clock_s,
        )
        form = _Files(receiver, past, clock_s)
        self._files = FolderSource(watched, form, clock_s=clock_s, sleep=sleep)
        self._receiver, self._clock_s = receiver, clock_s
        self._overdue: deque[Arrival] = deque()

    @property
    def n_there(self) -> int:
        """How many files were there when it began."""
        return self._files.n_there

    @property
    def left(self) -> Left:
        """Which files are not looked at."""
        return self._files.left

    def poll(self, wait_s: float) -> Arrival | None:
        """Give what the next whole file holds, or completes.

        Raises:
            ScanError: The folder is gone.
        """
        if not self._overdue:
            self._overdue.extend(self._receiver.overdue(self._clock_s()))
        return self._overdue.popleft() if self._overdue else self._files.poll(wait_s)

    def close(self) -> None:
        """Nothing is held."""


class _Files:
    """DICOM files, in the order of their series' and their own numbers."""

    has_companions = False

    def __init__(
        self, receiver: DicomReceiver, past: Past, clock_s: Callable[[], float]
    ) -> None:
        self._receiver, self._clock_s = receiver, clock_s
        self._turns = Turns(past)
        self._orders: dict[Path, tuple[str, int, int]] = {}

    def must_settle(self, path: Path) -> bool:
        del path
        return True

    def order(self, path: Path) -> tuple[Any, ...] | None:
        found = self._orders.get(path)
        if found is None:
            try:
                found = self._orders[path] = read_order(_read(path, HEAD_BYTES))
            except (OSError, EOFError, ScanError):
                # Not whole, or no image: whatever it is, it is looked at at last.
                return True, 1 << 32, 0, path.name
        series, number, image = found
        turn = self._turns.of(series)
        if turn is None:
            del self._orders[path]
            return None
        # Its own first: they also say whose images the others must be.
        return turn, number, image, path.name

    def volumes(self, path: Path) -> list[Arrival]:
        data = _read(path, MAX_FILE_BYTES + 1)
        try:
            found = self._receiver.take(data, path.name, self._clock_s())
        except IncompleteError as error:
            raise EOFError(str(error)) from error
        self._orders.pop(path, None)
        return [*found]


def _read(path: Path, most: int) -> bytes:
    if path.name.startswith(".") or path.name.lower().endswith(UNFINISHED):
        raise EOFError("the name of a file that is being written")
    with path.open("rb") as opened:
        return opened.read(most)
