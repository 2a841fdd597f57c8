"""NIfTI: a recorded 4-D file that plays itself, and a folder that fills with volumes.

A recording's volume i comes at the end of its acquisition, ``(i + 1) * TR``, as a
scanner's would, or at once.

In a folder each file is a volume. Its number is the last run of digits in its name,
what comes before is its series: ``rest_0001.nii.gz`` is number 1 of ``rest_``. A file
counts when it is whole: a compressed one when it inflates to what its header announces
and its checksum is right, a plain one when it is as long as announced and has not
changed between two looks. One that never becomes whole is refused.
"""

import re
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Final

from bci_bridge.sources.folder import Folder, Seen
from bci_bridge.sources.nifti_file import (
    TORN,
    NiftiHeader,
    opened,
    read_exactly,
    read_header,
)
from bci_bridge.sources.source import Arrival, Exhausted, Refused
from bci_bridge.sources.volume import ScannedVolume
from runtime.errors import ScanError, UsageError

TORN_S: Final = 10.0
"""A file that has not changed for this long, and is not whole, is torn."""

_NAME: Final = re.compile(r"(.*?)(\d{1,9})(\D*)\.nii(\.gz)?", re.IGNORECASE | re.DOTALL)


class RecordedNifti:
    """A 4-D file in the scanner's place.

    Attributes:
        volumes: How many it holds.
    """

    def __init__(
        self,
        path: Path,
        speed: float | None = 1.0,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Read the header.

        Args:
            path: A .nii or .nii.gz file.
            speed: 1 is real time; None is as fast as it is asked.
            clock_s: Monotonic clock.
            sleep: Lets time pass.

        Raises:
            ScanError: It is no such file.
            UsageError: The speed is not positive.
            BackendError: nibabel is missing.
        """
        if speed is not None and not speed > 0:
            raise UsageError(f"--speed: expected more than 0, found {speed:g}")
        self._path, self._speed = path, speed
        self._clock_s, self._sleep = clock_s, sleep
        self._stack = ExitStack()
        self._begin_s: float | None = None
        self._next: ScannedVolume | None = None
        self._n_read = 0
        try:
            self._stream: BufferedIOBase = self._stack.enter_context(opened(path))
            self._header: NiftiHeader = read_header(self._stream)
        except OSError as error:
            self._stack.close()
            raise ScanError(
                f"{path}: expected a NIfTI file, found {error.strerror or error}"
            ) from error
        except TORN as error:
            self._stack.close()
            raise ScanError(f"{path}: expected a whole file, found {error}") from error
        except ScanError as error:
            self._stack.close()
            raise ScanError(f"{path}: {error}") from error
        self.volumes = self._header.times

    def poll(self, wait_s: float) -> Arrival | None:
        """Give the next volume when it is due, at last `Exhausted`."""
        if self._begin_s is None:
            self._begin_s = self._clock_s()
        if self._next is None:
            if self._n_read == self.volumes:
                return Exhausted()
            try:
                self._next = self._read()
            except (OSError, *TORN) as error:
                found = self._n_read
                self._n_read = self.volumes
                return Refused(
                    self._path.name,
                    f"expected {self.volumes} whole volumes, found {found} ({error}). "
                    "Copy the file again",
                )
            except ScanError as error:
                self._n_read = self.volumes
                return Refused(self._path.name, str(error))
        if self._speed is not None and self._header.tr_s > 0:
            due_s = self._begin_s + self._n_read * self._header.tr_s / self._speed
            left_s = due_s - self._clock_s()
            if left_s > 0:
                self._sleep(min(left_s, wait_s))
            if left_s > wait_s:
                return None
        volume, self._next = self._next, None
        return volume

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def _read(self) -> ScannedVolume:
        data = read_exactly(self._stream, self._header.volume_bytes)
        voxels, geometry = self._header.volume(data)
        self._n_read += 1
        return ScannedVolume(self._path.name, self._n_read - 1, voxels, geometry)


@dataclass(slots=True)
class _Look:
    """What a look found, since when it is so, and why it cannot be read as it is."""

    seen: Seen
    since_s: float
    why: str = ""


class NiftiFolder:
    """A folder into which 3-D files come, one a volume."""

    def __init__(
        self,
        folder: Path,
        *,
        pattern: str = "*.nii*",
        first_number: int | None = None,
        is_new_only: bool = False,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Look at the folder.

        Args:
            folder: Where the files come.
            pattern: Shell pattern of their names; case does not matter.
            first_number: The number of the first acquisition in its name; by default 0
                or 1, whichever comes first.
            is_new_only: Leave out what is there already.
            clock_s: Monotonic clock.
            sleep: Lets time pass.

        Raises:
            ScanError: There is no such folder.
        """
        self._folder = Folder(
            folder, pattern.lower(), is_new_only=is_new_only, clock_s=clock_s
        )
        self._first_number = first_number
        self._firsts: dict[str, int] = {}
        self._clock_s, self._sleep = clock_s, sleep
        self._waiting: deque[Seen] = deque()
        self._looks: dict[str, _Look] = {}

    def poll(self, wait_s: float) -> Arrival | None:
        """Give the next whole file's volume, in the order of names.

        Raises:
            ScanError: The folder is gone; or counting begins neither at 0 nor at 1.
        """
        end_s = self._clock_s() + wait_s
        while True:
            while self._waiting:
                arrival = self._tried(self._waiting.popleft())
                if arrival is not None:
                    return arrival
            left_s = end_s - self._clock_s()
            pause_s = self._folder.wait_s()
            if pause_s > 0:
                if left_s <= 0:
                    return None
                self._sleep(min(pause_s, left_s))
                continue
            self._waiting.extend(sorted(self._folder.look(), key=_in_order))
            if left_s <= 0 and not self._waiting:
                return None

    def close(self) -> None:
        """Nothing is held."""

    def _tried(self, seen: Seen) -> Arrival | None:
        """Read a file that has changed, or that may be torn for good."""
        name, now_s = seen.path.name, self._clock_s()
        look = self._looks.get(name)
        is_settled = look is not None and look.seen == seen
        if look is None or not is_settled:
            look = self._looks[name] = _Look(seen, now_s)
        is_compressed = name.lower().endswith(".gz")
        if not look.why and (is_compressed or is_settled):
            try:
                volume = self._volume(seen.path)
            except (OSError, *TORN) as error:
                look.why = f"expected a whole file, found {error}"
            except ScanError as error:
                return self._refused(seen, str(error))
            else:
                self._finish(seen)
                return volume
        if now_s - look.since_s < TORN_S:
            return None
        return self._refused(seen, look.why)

    def _volume(self, path: Path) -> ScannedVolume:
        matched = _NAME.fullmatch(path.name)
        if matched is None:
            raise ScanError("expected a number in its name, found none")
        with opened(path) as stream:
            header = read_header(stream)
            if header.times != 1:
                raise ScanError("expected one volume in a file, found several")
            data = read_exactly(stream, header.volume_bytes)
            if stream.read(1):
                raise ScanError("expected as many bytes as announced, found more")
        voxels, geometry = header.volume(data)
        series, number = matched[1] or "volumes", int(matched[2])
        return ScannedVolume(
            series, number - self._first_of(series, number), voxels, geometry
        )

    def _first_of(self, series: str, number: int) -> int:
        first = self._first_number
        if first is None:
            first = self._firsts.get(series)
        if first is None:
            if number > 1:
                raise ScanError(
                    "expected a series that begins with number 0 or 1, found one that "
                    "does not. Say with --first-number where it began"
                )
            first = self._firsts[series] = number
        if number < first:
            raise ScanError(f"expected numbers from {first} on, found a lower one")
        return first

    def _refused(self, seen: Seen, why: str) -> Refused:
        self._finish(seen)
        return Refused(seen.path.name, why)

    def _finish(self, seen: Seen) -> None:
        self._looks.pop(seen.path.name, None)
        self._folder.finish(seen.path)


def _in_order(seen: Seen) -> tuple[str, int, str]:
    matched = _NAME.fullmatch(seen.path.name)
    if matched is None:
        return seen.path.name, 0, ""
    return matched[1], int(matched[2]), seen.path.name
