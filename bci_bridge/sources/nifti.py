"""NIfTI: a recorded 4-D file that plays itself, and a folder that fills with volumes.

In a folder each file is a volume. Its number is the last run of digits in its name,
what comes before is its series: ``rest_0001.nii.gz`` is number 1 of ``rest_``. A
compressed file is whole when it inflates to what its header announces and its checksum
is right, a plain one when it is as long as announced and has not changed between two
looks.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from bci_bridge.printable import printable
from bci_bridge.sources.folder import Folder
from bci_bridge.sources.folder_source import FolderSource
from bci_bridge.sources.natural import natural
from bci_bridge.sources.nifti_file import opened, read_exactly, read_header
from bci_bridge.sources.past import Past, Turns
from bci_bridge.sources.recorded import TORN, Recorded, check_speed
from bci_bridge.sources.volume import ScannedVolume
from runtime.arrays import Float64, Shaped
from runtime.errors import ScanError

_NAMELESS: Final = "volumes"
"""The series of files whose names begin with their number."""
_AGAIN: Final = (
    "start `send` again with it, another --run, and --from-start, which sends what is "
    "there (of several series, those that a --pattern names)"
)
_NAME: Final = re.compile(r"(.*?)(\d{1,9})(\D*)\.nii(\.gz)?", re.IGNORECASE | re.DOTALL)


def recorded_nifti(
    path: Path,
    speed: float | None = 1.0,
    *,
    tr_s: float | None = None,
    clock_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Recorded:
    """Open a 4-D file and read its header.

    Args:
        path: A .nii or .nii.gz file.
        speed: 1 is real time; None is as fast as it is asked.
        tr_s: Overrules the file's TR.
        clock_s: Monotonic clock.
        sleep: Lets time pass.

    Raises:
        ScanError: It is no such file.
        UsageError: The speed is not positive.
        BackendError: nibabel is missing.
    """
    check_speed(speed)
    with ExitStack() as stack:
        with _explained(path):
            stream = stack.enter_context(opened(path))
            header = read_header(stream)
        kept = stack.pop_all()

    def read() -> Iterator[ScannedVolume]:
        for number in range(header.times):
            data = read_exactly(stream, header.volume_bytes)
            voxels, geometry = header.volume(data)
            yield ScannedVolume(printable(path.name), number, voxels, geometry)

    return Recorded(
        path.name,
        header.times,
        read(),
        speed,
        tr_s=tr_s,
        on_close=kept.close,
        clock_s=clock_s,
        sleep=sleep,
    )


def nifti_folder(
    folder: Path,
    *,
    pattern: str = "*",
    first_number: int | None = None,
    is_new_only: bool = False,
    past: Past | None = None,
    clock_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> FolderSource:
    """Watch a folder into which 3-D files come, one a volume.

    Args:
        folder: Where the files come.
        pattern: Shell pattern of their names; case does not matter.
        first_number: The number of the first acquisition in its name; by default 0 or
            1, whichever comes first.
        is_new_only: Leave out what is there already.
        past: What an earlier process did, whose files and numbers are kept to.
        clock_s: Monotonic clock.
        sleep: Lets time pass.

    Raises:
        ScanError: There is no such folder.
    """
    past = past or Past()
    watched = Folder(
        folder,
        (".nii", ".nii.gz"),
        pattern=pattern,
        is_new_only=is_new_only,
        left=past.left,
        clock_s=clock_s,
    )
    volumes = _Volumes(first_number, past)
    return FolderSource(watched, volumes, clock_s=clock_s, sleep=sleep)


def first_volume(
    path: Path,
) -> tuple[Shaped[np.ndarray, "a b c"], Float64[np.ndarray, "4 4"]]:
    """Read the first volume of a file as it is stored, and its affine.

    Raises:
        ScanError: It is no such file.
        BackendError: nibabel is missing.
    """
    with _explained(path), opened(path) as stream:
        header = read_header(stream)
        return header.stored(read_exactly(stream, header.volume_bytes)), header.affine


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except TORN as error:
        raise ScanError(f"{path}: expected a whole file, found {error}") from error
    except OSError as error:
        raise ScanError(
            f"{path}: expected a NIfTI file, found {error.strerror or error}"
        ) from error
    except ScanError as error:
        raise ScanError(f"{path}: {error}") from error


def _series(matched: re.Match[str]) -> str:
    return printable(matched[1] or _NAMELESS)


class _Volumes:
    """3-D files, numbered in their names."""

    has_companions = False

    def __init__(self, first_number: int | None, past: Past) -> None:
        self._first_number = first_number
        self._turns = Turns(past)
        self._firsts: dict[str, int] = {}
        if past.series and past.first is not None:
            self._firsts[past.series] = past.first

    def must_settle(self, path: Path) -> bool:
        return not path.name.lower().endswith(".gz")

    def order(self, path: Path) -> tuple[Any, ...] | None:
        matched = _NAME.fullmatch(path.name)
        if matched is None:
            return True, natural(path.name), 0, ""
        series, number = _series(matched), int(matched[2])
        turn = self._turns.of(series)
        if turn is None:
            return None
        if number == 0:
            # It may be torn, or whole only after the next: counting begins with it.
            self._firsts.setdefault(series, 0)
        return turn, natural(matched[1]), number, path.name

    def volumes(self, path: Path) -> list[ScannedVolume]:
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
        series, number = _series(matched), int(matched[2])
        first = self._first_of(series, number)
        return [ScannedVolume(series, number - first, voxels, geometry, first=first)]

    def _first_of(self, series: str, number: int) -> int:
        first = self._first_number
        if first is None:
            first = self._firsts.get(series)
        if first is None:
            if number > 1:
                raise ScanError(
                    "expected a series that begins with number 0 or 1, found one that "
                    f"does not. Say with --first-number where it began: {_AGAIN}"
                )
            first = self._firsts[series] = number
        if number < first:
            raise ScanError(self._too_low(first, number))
        return first

    def _too_low(self, first: int, number: int) -> str:
        if self._first_number is not None:
            return (
                f"expected numbers from {first} on, as --first-number says, found "
                f"{number}. If the run begins below {first}, say with --first-number "
                f"where: {_AGAIN}"
            )
        return (
            f"expected numbers from {first} on, because that one came first, found "
            f"{number}. The volumes of this series are numbered {first - number} too "
            f"low. Say --first-number {number}: {_AGAIN}"
        )
