"""NIfTI images on disk, read with nibabel, from the extra `scanner`."""

import math
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np

from runtime.arrays import Float64, Shaped
from runtime.errors import BackendError, RecordingError
from runtime.preprocess.mask import VoxelMask

IMAGE_ENDINGS: Final = (".nii.gz", ".nii")

SAME_PLACE: Final = 0.1
"""How far voxels of two images may be apart, in sides of a voxel: headers in
quaternions and in float32 round by far less, another space is off by more."""

_TIME_UNIT: Final = 0x38
_TIME_UNITS_S: Final = {8: 1.0, 16: 1e-3, 24: 1e-6}
"""Seconds, milliseconds and microseconds, by what `_TIME_UNIT` leaves of a header's
``xyzt_units`` (nifti1.h, XYZT_TO_TIME). The rest is unknown, or no time."""

DAMAGE: Final = (OSError, EOFError, ValueError, zlib.error)
"""What reading a torn or damaged image raises."""


def nibabel() -> Any:
    """Return the library, which has no types.

    Raises:
        BackendError: It is missing.
    """
    try:
        import nibabel as nib
    except ImportError as error:
        raise BackendError(
            "nibabel: expected the extra scanner, found it missing. "
            "Install neuroflow-rt[scanner]"
        ) from error
    return nib


def image_stem(file: Path) -> str:
    """Return an image's name without ``.nii`` or ``.nii.gz``."""
    return file.name.removesuffix(".gz").removesuffix(".nii")


def one_image(folder: Path, stem: str) -> Path:
    """Return ``STEM.nii.gz`` of a folder, or ``STEM.nii`` where only that is there.

    Raises:
        RecordingError: Both are.
    """
    zipped, plain = (folder / f"{stem}{ending}" for ending in IMAGE_ENDINGS)
    if not plain.is_file():
        return zipped
    if zipped.is_file():
        raise RecordingError(
            f"{plain}: expected one file of this image, found {zipped.name} beside it. "
            "Remove one of the two"
        )
    return plain


def open_image(file: Path, dimensions: int) -> Any:
    """Open an image's header; nibabel has no types.

    Raises:
        RecordingError: The file is missing, damaged, or has other dimensions.
        BackendError: nibabel is missing.
    """
    nib = nibabel()
    if not file.is_file():
        raise RecordingError(f"{file}: expected a file, found none")
    try:
        image = nib.load(file)
    except (nib.filebasedimages.ImageFileError, *DAMAGE) as error:
        raise RecordingError(
            f"{file}: expected a NIfTI image, found a torn or damaged file ({error}). "
            "Copy it again"
        ) from error
    if len(image.shape) != dimensions:
        raise RecordingError(
            f"{file}: expected {dimensions} dimensions, found {list(image.shape)}"
        )
    return image


def shape_of(image: Any) -> tuple[int, int, int]:
    """Return an image's voxels along x, y and z."""
    x, y, z = (int(size) for size in image.shape[:3])
    return x, y, z


def header_tr_s(image: Any) -> float | None:
    """Return the seconds between an image's volumes; None where its header tells none.

    That is so where ``pixdim[4]`` is 0 or its unit is not known, and where it is 1 s:
    programs that join volumes of three dimensions leave that, whatever the time was.
    """
    unit_s = _TIME_UNITS_S.get(int(image.header["xyzt_units"]) & _TIME_UNIT)
    step = float(image.header["pixdim"][4])
    if unit_s is None or not (math.isfinite(step) and step > 0) or step * unit_s == 1:
        return None
    return step * unit_s


def read_volume(
    file: Path,
) -> tuple[Shaped[np.ndarray, "x y z"], Float64[np.ndarray, "4 4"]]:
    """Read an image of three dimensions and its affine.

    Raises:
        RecordingError: It is missing, damaged or not of three dimensions.
        BackendError: nibabel is missing.
    """
    image = open_image(file, dimensions=3)
    try:
        volume = np.asarray(image.dataobj).reshape(shape_of(image))
    except DAMAGE as error:
        raise RecordingError(
            f"{file}: expected a whole image, found a torn or damaged file ({error}). "
            "Copy it again"
        ) from error
    return volume, np.asarray(image.affine, dtype=np.float64)


def read_mask(file: Path) -> tuple[VoxelMask, Float64[np.ndarray, "4 4"]]:
    """Read a mask, which is where an image is above 0, and its affine.

    Raises:
        RecordingError: As of `read_volume`, or a value is not finite, or none is
            above 0.
        BackendError: nibabel is missing.
    """
    volume, affine = read_volume(file)
    if volume.dtype.kind == "f" and (bad := np.argwhere(~np.isfinite(volume))).size:
        x, y, z = bad[0].tolist()
        raise RecordingError(
            f"{file}: expected finite values, found {volume[x, y, z]:g} at voxel "
            f"[{x}, {y}, {z}], and {len(bad) - 1} more"
        )
    if not (volume > 0).any():
        raise RecordingError(f"{file}: expected at least one voxel above 0, found none")
    return VoxelMask.from_volume(volume > 0), affine


def require_same_space(
    file: Path,
    affine: Float64[np.ndarray, "4 4"],
    shape: tuple[int, ...],
    wanted: Float64[np.ndarray, "4 4"],
    other: Path,
) -> None:
    """Refuse an image whose voxels lie elsewhere than another's.

    Args:
        file: The image.
        affine: From its voxels to mm.
        shape: Of its three axes, and of the other's.
        wanted: From the other's voxels to mm.
        other: The other's file.

    Raises:
        RecordingError: A corner of the image is more than `SAME_PLACE` off.
    """
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    apart = wanted - affine
    off = np.linalg.norm(corners @ apart[:3, :3].T + apart[:3, 3], axis=1).max()
    side = np.linalg.norm(wanted[:3, :3], axis=0).min()
    if not off <= SAME_PLACE * side:
        raise RecordingError(
            f"{file}: affine: expected the space of {other}, found voxels up to "
            f"{off:.3g} mm from where that has them. Resample one of the two"
        )
