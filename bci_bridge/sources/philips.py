"""Philips PAR/REC: pairs of a volume each, as they are exported live, or of a run.

A pair of one dynamic is volume ``Acquisition nr - 1``, as real-time tools count; in a
scan of several dynamics it is the dynamic that counts. The series is the folder that
the pair lies in, because the export makes one for each measurement, together with what
comes before the number in its name. Phase and other images that are interleaved with
the magnitude are left out.

Voxels are displayed values, ``DV = PV * slope + intercept``, as nibabel gives them by
default: the scanner chooses the slope anew for each image, so stored values (PV) of two
volumes do not compare.
"""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from bci_bridge.printable import printable
from bci_bridge.sources.folder import Folder
from bci_bridge.sources.folder_source import FolderSource
from bci_bridge.sources.natural import natural
from bci_bridge.sources.par_header import ParHeader, ParImage, read_par
from bci_bridge.sources.past import Past, Turns
from bci_bridge.sources.recorded import Recorded, check_speed
from bci_bridge.sources.volume import Geometry, ScannedVolume, to_ras
from bci_bridge.sources.voxels import to_wire
from runtime.arrays import Shaped
from runtime.errors import ScanError

Scaling = Literal["dv", "fp", "pv"]
"""Displayed, floating point (``DV / (slope * scale_slope)``) and stored values."""

MAX_PAR_BYTES: Final = 64 << 20
MAX_REC_BYTES: Final = 4 << 30
_TRAILING_NUMBER: Final = re.compile(r"\d*\.par$", re.IGNORECASE)


def philips_folder(
    folder: Path,
    *,
    scaling: Scaling = "dv",
    is_new_only: bool = False,
    past: Past | None = None,
    clock_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> FolderSource:
    """Watch a session's folder and the folders of its series in it.

    Args:
        folder: Where PAR/REC pairs come, directly or one folder further down.
        scaling: Which values are sent.
        is_new_only: Leave out what is there already.
        past: What an earlier process did, whose files are kept to.
        clock_s: Monotonic clock.
        sleep: Lets time pass.

    Raises:
        ScanError: There is no such folder.
    """
    past = past or Past()
    watched = Folder(
        folder,
        (".par",),
        levels=1,
        is_new_only=is_new_only,
        left=past.left,
        clock_s=clock_s,
    )
    return FolderSource(watched, _Pairs(scaling, past), clock_s=clock_s, sleep=sleep)


def recorded_philips(
    path: Path,
    speed: float | None = 1.0,
    *,
    scaling: Scaling = "dv",
    tr_s: float | None = None,
    clock_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Recorded:
    """Open one pair that holds a run.

    Args:
        path: The .par file; its .rec lies beside it.
        speed: 1 is real time; None is as fast as it is asked.
        scaling: Which values are sent.
        tr_s: Overrules the file's TR.
        clock_s: Monotonic clock.
        sleep: Lets time pass.

    Raises:
        ScanError: It is no such file.
        UsageError: The speed is not positive.
    """
    check_speed(speed)
    try:
        header = _header(path)
        rec = _rec_of(path)
    except EOFError as error:
        raise ScanError(f"{path}: expected a whole pair, found {error}") from error
    except OSError as error:
        raise ScanError(
            f"{path}: expected a PAR file, found {error.strerror or error}"
        ) from error
    except ScanError as error:
        raise ScanError(f"{path}: {error}") from error
    count = len({image.dynamic for image in header.images})
    volumes = _read(header, rec, printable(path.stem), scaling)
    return Recorded(
        path.name, count, volumes, speed, tr_s=tr_s, clock_s=clock_s, sleep=sleep
    )


class _Pairs:
    """Pairs as they are exported, a volume or more each."""

    has_companions = True

    def __init__(self, scaling: Scaling, past: Past) -> None:
        self._scaling = scaling
        self._turns = Turns(past)
        self._rec_was: dict[Path, tuple[int, int]] = {}

    def must_settle(self, path: Path) -> bool:
        del path
        return True

    def order(self, path: Path) -> tuple[Any, ...] | None:
        turn = self._turns.of(_series(path))
        if turn is None:
            return None
        return turn, natural(str(path.parent)), natural(path.name)

    def volumes(self, path: Path) -> list[ScannedVolume]:
        header = _header(path)
        rec = _rec_of(path)
        status = rec.stat()
        wanted = header.n_images * header.image_bytes
        if status.st_size < wanted:
            raise EOFError(f"{status.st_size} of {wanted} bytes in its REC file")
        is_settled = self._rec_was.get(path) == (status.st_size, status.st_mtime_ns)
        self._rec_was[path] = status.st_size, status.st_mtime_ns
        if not is_settled:
            raise EOFError("a REC file that is being written")
        del self._rec_was[path]
        return list(_read(header, rec, _series(path), self._scaling))


def _series(path: Path) -> str:
    prefix = _TRAILING_NUMBER.sub("", path.name)
    return printable(f"{path.parent.name}/{prefix}")


def _header(path: Path) -> ParHeader:
    with path.open("rb") as opened:
        data = opened.read(MAX_PAR_BYTES + 1)
    if len(data) > MAX_PAR_BYTES:
        raise ScanError(f"expected up to {MAX_PAR_BYTES >> 20} MiB, found more")
    return read_par(data.decode("latin-1"))


def _rec_of(path: Path) -> Path:
    for suffix in (".rec", ".REC", ".Rec"):
        rec = path.with_suffix(suffix)
        if rec.is_file() and not rec.is_symlink():
            return rec
    raise EOFError("no REC file beside it")


def _read(
    header: ParHeader, rec: Path, series: str, scaling: Scaling
) -> Iterator[ScannedVolume]:
    """Read the dynamics of a pair one by one.

    Raises:
        EOFError: The REC file is too short, or slices are missing.
        ScanError: It is too large, or values do not fit.
    """
    size = rec.stat().st_size
    if size > MAX_REC_BYTES:
        raise ScanError(f"expected up to {MAX_REC_BYTES >> 30} GiB, found {size} bytes")
    by_dynamic: dict[int, dict[int, ParImage]] = defaultdict(dict)
    for image in header.images:
        by_dynamic[image.dynamic][image.slice_number] = image
    slices = range(1, header.n_slices + 1)
    with rec.open("rb") as opened:
        for dynamic in sorted(by_dynamic):
            images = by_dynamic[dynamic]
            if sorted(images) != list(slices):
                raise EOFError(f"{len(images)} of {header.n_slices} slices")
            parts = []
            for number in slices:
                opened.seek(images[number].index * header.image_bytes)
                data = opened.read(header.image_bytes)
                if len(data) < header.image_bytes:
                    raise EOFError("a REC file that is too short")
                parts.append(_scaled(data, header, images[number], scaling))
            stored = np.stack(parts, axis=-1)
            voxels, affine, old_of = to_ras(stored, header.affine)
            x, y, z = voxels.shape
            is_scan_of_several = header.dynamics > 1 or len(by_dynamic) > 1
            number = dynamic if is_scan_of_several else header.acquisition
            yield ScannedVolume(
                series,
                number - 1,
                to_wire(voxels),
                Geometry((x, y, z), affine, header.tr_s, None, old_of.index(2)),
            )


def _scaled(
    data: bytes, header: ParHeader, image: ParImage, scaling: Scaling
) -> Shaped[np.ndarray, "columns rows"]:
    stored = np.frombuffer(data, f"<u{header.bits // 8}")
    stored = stored.reshape(header.rows, header.columns).T
    if scaling == "pv":
        return stored
    shown = stored * image.slope + image.intercept
    if scaling == "dv":
        return shown
    divisor = image.slope * image.scale_slope
    if divisor == 0:
        raise ScanError("expected slopes other than 0 for --scaling fp, found 0")
    return shown / divisor
