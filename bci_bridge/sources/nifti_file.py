"""One NIfTI file (.nii or .nii.gz), read from its beginning, volume by volume.

nibabel reads the header; voxels are read here, as many bytes as the header announces
and no more, so that a compressed file never inflates beyond that. Only single files of
versions 1 and 2; the pair .hdr/.img is another format. nibabel comes from the extra
`scanner`.
"""

import contextlib
import gzip
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Final

import numpy as np

from bci_bridge.header import MAX_PAYLOAD_BYTES, MAX_SIDE
from bci_bridge.sources.volume import Geometry, to_ras
from bci_bridge.sources.voxels import to_wire
from runtime.arrays import Float64, Shaped
from runtime.errors import BackendError, ScanError

_MAX_OFFSET: Final = 1 << 20
"""Where voxels begin at the latest: what lies before are header extensions."""
_MAX_TIMES: Final = 100_000
_LONGEST_S: Final = 20.0
"""A TR beyond this, in a header without a unit of time, is in milliseconds."""
_SECONDS: Final = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_CHUNK: Final = 1 << 20

_SILENT: Final = logging.getLogger("neuroflow.nifti")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


@dataclass(frozen=True, slots=True, eq=False)
class NiftiHeader:
    """What the header of a file says."""

    shape: tuple[int, int, int]
    """As stored, before reorientation."""
    times: int
    dtype: np.dtype[Any]
    scale: tuple[float, float] | None
    """Slope and intercept; None where voxels are as stored."""
    affine: Float64[np.ndarray, "4 4"] = field(repr=False)
    """Of the stored axes."""
    tr_s: float
    """NaN where the header does not tell it."""
    slice_times_s: tuple[float, ...] | None
    slice_axis: int
    offset: int
    """Where the voxels begin."""

    @property
    def volume_bytes(self) -> int:
        """Size of one volume in the file, inflated."""
        return math.prod(self.shape) * self.dtype.itemsize

    def stored(self, data: bytes) -> Shaped[np.ndarray, "a b c"]:
        """Read one volume's bytes, in the order of its file."""
        stored = np.frombuffer(data, self.dtype).reshape(self.shape, order="F")
        if self.scale is None:
            return stored
        slope, intercept = self.scale
        # What comes out beyond float32 is refused, in a line of ours.
        with np.errstate(over="ignore", invalid="ignore"):
            return stored * np.float64(slope) + np.float64(intercept)

    def volume(self, data: bytes) -> tuple[Shaped[np.ndarray, "x y z"], Geometry]:
        """Read one volume's bytes.

        Returns:
            Voxels in RAS+, of a dtype of the wire: as stored where the header does not
            scale them, else float32; and their geometry.

        Raises:
            ScanError: The affine has no inverse, or the values do not fit.
        """
        turned, affine, old_of = to_ras(self.stored(data), self.affine)
        slice_axis, times_s = old_of.index(self.slice_axis), self.slice_times_s
        if (
            times_s is not None
            and affine[slice_axis, slice_axis]
            * self.affine[slice_axis, self.slice_axis]
            < 0
        ):
            times_s = times_s[::-1]
        x, y, z = turned.shape
        geometry = Geometry((x, y, z), affine, self.tr_s, times_s, slice_axis)
        return to_wire(turned), geometry


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BufferedIOBase]:
    """Open a file for `read_header` and `read_exactly`, inflating it if compressed."""
    if path.name.lower().endswith(".gz"):
        with gzip.open(path, "rb") as unzipped:
            yield unzipped
    else:
        with path.open("rb") as plain:
            yield plain


def read_header(stream: BufferedIOBase) -> NiftiHeader:
    """Read the header, and go on to where the voxels begin.

    Raises:
        EOFError: The file is not whole.
        ScanError: It is no NIfTI file, or one of a size or kind that is not sent.
        BackendError: nibabel is missing.
    """
    header, n_read = _parsed(stream)
    n_dims = int(header["dim"][0])
    dims = [int(size) for size in header["dim"][1 : n_dims + 1]]
    if not 3 <= n_dims <= 7 or any(size != 1 for size in dims[4:]):
        raise ScanError(f"expected 3 or 4 dimensions, found {n_dims}: {dims}")
    x, y, z, times = (*dims, 1)[:4]
    if not all(1 <= side <= MAX_SIDE for side in (x, y, z)):
        raise ScanError(f"expected sides of 1 to {MAX_SIDE}, found {[x, y, z]}")
    if not 1 <= times <= _MAX_TIMES:
        raise ScanError(f"expected 1 to {_MAX_TIMES} volumes, found {times}")
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ScanError(f"expected real voxels of up to 64 bits, found {dtype}")
    if x * y * z * dtype.itemsize > 2 * MAX_PAYLOAD_BYTES:
        raise ScanError(
            f"expected volumes of up to {MAX_PAYLOAD_BYTES >> 20} MiB, "
            f"found {[x, y, z]} of {dtype}"
        )
    offset = _offset(header)
    if not n_read <= offset <= _MAX_OFFSET:
        raise ScanError(f"expected voxels from byte {n_read + 4} on, found {offset}")
    read_exactly(stream, offset - n_read)
    slice_times_s, slice_axis = _slice_times_s(header)
    return NiftiHeader(
        shape=(x, y, z),
        times=times,
        dtype=dtype,
        scale=_scale(header),
        affine=_affine(header),
        tr_s=_tr_s(header),
        slice_times_s=slice_times_s,
        slice_axis=slice_axis,
        offset=offset,
    )


def read_exactly(stream: BufferedIOBase, n_bytes: int) -> bytes:
    """Read so many bytes.

    Raises:
        EOFError: There are fewer.
    """
    parts, left = [], n_bytes
    while left > 0:
        part = stream.read(min(left, _CHUNK))
        if not part:
            raise EOFError(f"expected {n_bytes} bytes, found {n_bytes - left}")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _parsed(stream: BufferedIOBase) -> tuple[Any, int]:
    """Give nibabel's header and its length in bytes."""
    try:
        from nibabel import nifti1, nifti2
        from nibabel.spatialimages import HeaderDataError
    except ImportError as error:
        raise BackendError(
            "nibabel: expected it for NIfTI files, found none installed. "
            "Install the extra `scanner`."
        ) from error
    block = read_exactly(stream, 4)
    size = {int.from_bytes(block, order) for order in ("little", "big")}
    if 348 in size:
        kind = nifti1.Nifti1Header
        block += read_exactly(stream, 344)
        magic = block[344:348]
        is_single = magic == b"n+1\0"
    elif 540 in size:
        kind = nifti2.Nifti2Header
        block += read_exactly(stream, 536)
        is_single = block[4:8] == b"n+2\0"
    else:
        raise ScanError("expected a NIfTI file, found none")
    if not is_single:
        raise ScanError("expected NIfTI in a single file, found another kind")
    try:
        header = kind(block, check=False)
        # What nibabel mends on loading, it mends here, without a word.
        header.check_fix(logger=_SILENT, error_level=40)
    except (HeaderDataError, ValueError, OverflowError) as error:
        raise ScanError(f"expected a NIfTI header, found: {error}") from error
    return header, len(block)


def _offset(header: Any) -> int:
    try:
        return int(header.get_data_offset())
    except (ValueError, OverflowError) as error:
        # Version 1 holds it as a float.
        raise ScanError(f"expected where voxels begin, found: {error}") from error


def _scale(header: Any) -> tuple[float, float] | None:
    from nibabel.spatialimages import HeaderDataError

    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as error:
        raise ScanError(f"expected a slope and intercept, found: {error}") from error
    if slope is None or (slope, intercept) == (1.0, 0.0):
        return None
    return float(slope), float(intercept or 0.0)


def _affine(header: Any) -> Float64[np.ndarray, "4 4"]:
    from nibabel.spatialimages import HeaderDataError

    try:
        with np.errstate(invalid="ignore"):
            return np.array(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise ScanError(f"expected a NIfTI affine, found: {error}") from error


def _time_unit(header: Any) -> str:
    try:
        return str(header.get_xyzt_units()[1])
    except KeyError:
        return "not one of NIfTI's"


def _unit_s(header: Any, value: float) -> float:
    unit = _time_unit(header)
    if unit == "unknown":
        return 1e-3 if value > _LONGEST_S else 1.0
    return _SECONDS.get(unit, math.nan)


def _tr_s(header: Any) -> float:
    value = float(header["pixdim"][4])
    if not (math.isfinite(value) and value > 0):
        return math.nan
    if int(header["dim"][0]) == 3 and _time_unit(header) == "unknown":
        return math.nan  # what libraries leave there in a header without a time axis
    return value * _unit_s(header, value)


def _slice_times_s(header: Any) -> tuple[tuple[float, ...] | None, int]:
    from nibabel.spatialimages import HeaderDataError

    axis = header.get_dim_info()[2]
    try:
        with np.errstate(invalid="ignore"):
            times = header.get_slice_times()
    except (HeaderDataError, ValueError, KeyError):
        return None, 2 if axis is None else int(axis)
    unit_s = _unit_s(header, float(header["pixdim"][4]))
    if any(time is None or not math.isfinite(time) for time in times):
        return None, int(axis)
    return tuple(float(time) * unit_s for time in times), int(axis)
