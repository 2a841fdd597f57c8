"""A run's volumes as one NIfTI file, written volume by volume.

The header is nibabel's (extra `scanner`); the voxels are put in their places as they
come, so that a run of any length needs the memory of one volume.
"""

import gzip
import math
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np

from bci_bridge.exports.facts import RunFacts
from runtime.arrays import Float64, Shaped
from runtime.errors import RecordingError
from runtime.image_file import nibabel

LONGEST: Final = 32_767
"""Volumes that NIfTI-1 can count; beyond, the file is NIfTI-2."""

OFFSETS: Final = {1: 352, 2: 544}
"""Where the voxels begin, by version."""

_COPY_BYTES: Final = 1 << 20


class NiftiWriter:
    """One run's file.

    Attributes:
        is_placed: The header holds the run's affine.
    """

    def __init__(self, file: Path, run: RunFacts) -> None:
        """Write the header.

        Args:
            file: Where to write; its folder must exist.
            run: The run, with at least one volume.

        Raises:
            BackendError: nibabel is missing.
            RecordingError: There is no room for the voxels.
        """
        self._run, self._dtype = run, run.dtype
        affine = usable_affine(run)
        self.is_placed = affine is not None
        header, offset = _header(run, affine)
        self._offset = offset
        self._volume_bytes = math.prod(run.start.shape) * self._dtype.itemsize
        needed = offset + run.count * self._volume_bytes
        free = shutil.disk_usage(file.parent).free
        if needed > free:
            raise RecordingError(
                f"run {run.name}: expected {needed} free bytes for its volumes, "
                f"found {free}. Export to another disk."
            )
        self._file = file.open("wb")
        header.write_to(self._file)
        # What is not written stays a hole of the file, and reads as zeros.
        self._file.truncate(needed)

    def __enter__(self) -> "NiftiWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._fill()
        finally:
            self._file.close()

    def write(self, index: int, voxels: Shaped[np.ndarray, "x y z"]) -> None:
        """Put a volume in its place."""
        self._file.seek(self._offset + index * self._volume_bytes)
        self._file.write(voxels.astype(self._dtype, copy=False).tobytes(order="F"))

    def _fill(self) -> None:
        if np.issubdtype(self._dtype, np.floating):
            nothing = np.full(self._run.start.shape, np.nan, self._dtype)
            for index in self._run.missing:
                self.write(index, nothing)


def usable_affine(run: RunFacts) -> Float64[np.ndarray, "4 4"] | None:
    """Give the run's affine if it is one, and invertible."""
    if run.start.affine is None:
        return None
    affine = np.array(run.start.affine, np.float64).reshape(4, 4)
    if not np.array_equal(affine[3], [0, 0, 0, 1]):
        return None
    with np.errstate(over="ignore"):
        # A header of NIfTI-1 holds 32 bits, and those of both must be possible.
        if not np.isfinite(affine.astype(np.float32)).all():
            return None
    return affine if np.linalg.matrix_rank(affine[:3, :3]) == 3 else None


def compress(source: Path, target: Path) -> None:
    """Write a file's gzip beside it and remove the file.

    No name and no time goes into it: equal volumes give equal bytes.
    """
    with (
        source.open("rb") as plain,
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
    ):
        shutil.copyfileobj(plain, packed, _COPY_BYTES)
    source.unlink()


def _header(
    run: RunFacts, affine: Float64[np.ndarray, "4 4"] | None
) -> tuple[Any, int]:
    """Make the header; nibabel has no types."""
    nib = nibabel()
    version = 1 if run.count <= LONGEST else 2
    header = (nib.Nifti1Header if version == 1 else nib.Nifti2Header)(endianness="<")
    header.set_data_dtype(run.dtype)
    header.set_data_shape((*run.start.shape, run.count))
    header.set_data_offset(OFFSETS[version])
    header.set_slope_inter(1, 0)
    header.set_xyzt_units("mm", "sec")
    header.set_zooms((1, 1, 1, run.start.tr_s))
    if affine is not None:
        header.set_qform(affine, code="scanner", strip_shears=True)
        header.set_sform(affine, code="scanner")
        if not np.allclose(header.get_qform(), affine, rtol=1e-4, atol=1e-4):
            # A rotation cannot say what a shear does: the matrix alone is right.
            header.set_qform(None, code="unknown")
    return header, OFFSETS[version]
