"""A folder of which each file holds a volume, or several: read once it is whole.

A file is tried when it is found and whenever it has changed. What it cannot be read as
yet, it may be read as later; a file that stays as it is for `TORN_S` and cannot be read
is torn, and refused.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from bci_bridge.sources.folder import Folder, Seen
from bci_bridge.sources.past import Left
from bci_bridge.sources.recorded import TORN
from bci_bridge.sources.source import Arrival, Reading, Refused
from runtime.errors import ScanError

TORN_S: Final = 10.0
"""A file that has not changed for this long, and is not whole, is torn."""


@runtime_checkable
class Format(Protocol):
    """How the files of a folder are read."""

    has_companions: bool
    """Whether a file is whole depends on others, too: it is tried at each look."""

    def must_settle(self, path: Path) -> bool:
        """Say whether a file counts only once it has stopped changing."""
        ...

    def order(self, path: Path) -> tuple[Any, ...] | None:
        """Give what sorts files found at once; None of a series that is over."""
        ...

    def volumes(self, path: Path) -> Iterable[Arrival]:
        """Read a file.

        Raises:
            EOFError: It is not whole; as may `zlib.error` and `OSError`.
            ScanError: It is whole, and no volume of this run.
        """
        ...


@dataclass(slots=True)
class _Look:
    """What a look found, since when it is so, and why it cannot be read as it is."""

    seen: Seen
    since_s: float
    why: str = ""


class FolderSource:
    """What the files of a folder hold, in the order of their names."""

    def __init__(
        self,
        folder: Folder,
        form: Format,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Watch a folder.

        Args:
            folder: Where the files come.
            form: How they are read.
            clock_s: Monotonic clock.
            sleep: Lets time pass.
        """
        self._folder, self._form = folder, form
        self._clock_s, self._sleep = clock_s, sleep
        self._ready: deque[Arrival] = deque()
        self._listed: deque[Seen] = deque()
        self._placed: list[tuple[tuple[Any, ...], Seen]] = []
        self._waiting: deque[Seen] = deque()
        self._looks: dict[Path, _Look] = {}
        self._has_passed_over = False

    @property
    def n_there(self) -> int:
        """How many files were there when it began."""
        return self._folder.n_there

    @property
    def left(self) -> Left:
        """Which files are not looked at."""
        return self._folder.left

    def poll(self, wait_s: float) -> Arrival | None:
        """Give the next whole file's next volume.

        Where the time is over before all files that were found are looked at, it says
        so (`Reading`).

        Raises:
            ScanError: The folder is gone.
        """
        end_s = self._clock_s() + wait_s
        while True:
            while self._waiting and not self._ready:
                self._ready.extend(self._tried(self._waiting.popleft()))
                if self._clock_s() > end_s:
                    break  # many files that hold nothing: the rest at the next look
            if self._ready:
                return self._ready.popleft()
            left_s = end_s - self._clock_s()
            if self._waiting or not self._has_sorted(end_s):
                return Reading()
            if self._waiting:
                continue
            pause_s = self._folder.wait_s()
            if pause_s > 0:
                if left_s <= 0:
                    return None
                self._sleep(min(pause_s, left_s))
                continue
            self._listed.extend(self._folder.look())
            self._ready.extend(
                Refused(
                    path.name,
                    "expected a folder that may be listed, found permission denied. "
                    "Let this user read it",
                )
                for path in self._folder.closed()
            )
            if left_s <= 0 and not self._listed and not self._ready:
                return None

    def close(self) -> None:
        """Nothing is held."""

    def _has_sorted(self, end_s: float) -> bool:
        """Put what was listed in order, or a part of it: that may take reading."""
        while self._listed:
            seen = self._listed.popleft()
            order = self._form.order(seen.path)
            if order is None:
                self._finish(seen)
                self._pass_over(seen)
            else:
                self._placed.append((order, seen))
            if self._listed and self._clock_s() > end_s:
                return False
        self._placed.sort(key=itemgetter(0))
        self._waiting.extend(seen for _, seen in self._placed)
        self._placed.clear()
        return True

    def _tried(self, seen: Seen) -> list[Arrival]:
        now_s = self._clock_s()
        look = self._looks.get(seen.path)
        is_settled = look is not None and look.seen == seen
        if look is None or not is_settled:
            look = self._looks[seen.path] = _Look(seen, now_s)
        is_new = not look.why or self._form.has_companions
        if is_new and (is_settled or not self._form.must_settle(seen.path)):
            try:
                volumes = list(self._form.volumes(seen.path))
            except MemoryError:
                return self._refused(seen, "expected what memory holds, found more")
            except (OSError, *TORN) as error:
                look.why = f"expected a whole file, found {error}"
            except ScanError as error:
                return self._refused(seen, str(error))
            else:
                self._finish(seen)
                return volumes
        if now_s - look.since_s < TORN_S:
            return []
        return self._refused(seen, look.why)

    def _pass_over(self, seen: Seen) -> None:
        if not self._has_passed_over:
            self._has_passed_over = True
            why = "of a series that is over: it and others like it are ignored"
            self._ready.append(Refused(seen.path.name, why))

    def _refused(self, seen: Seen, why: str) -> list[Arrival]:
        self._finish(seen)
        return [Refused(seen.path.name, why)]

    def _finish(self, seen: Seen) -> None:
        self._looks.pop(seen.path, None)
        self._folder.finish(seen.path)
