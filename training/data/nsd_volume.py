"""Reads one volume of the dataset: a mask, or labels of regions."""

import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Shaped

from runtime.errors import BackendError, RecordingError


def read_volume(
    file: Path, what: str
) -> tuple[Shaped[np.ndarray, "x y z"], Float64[np.ndarray, "4 4"]]:
    """Read a NIfTI volume and its affine.

    Args:
        file: The file.
        what: What it is, for messages.

    Raises:
        RecordingError: It is missing, damaged or not of three dimensions.
        BackendError: nibabel is missing.
    """
    try:
        import nibabel as nib
        from nibabel.filebasedimages import ImageFileError
    except ImportError as error:
        raise BackendError(
            "nibabel: expected the extra scanner, found it missing. "
            "Install neuroflow-rt[scanner]"
        ) from error
    if not file.is_file():
        raise RecordingError(f"{file}: expected the {what}, found no file")
    try:
        image = nib.load(file)
        volume = np.asarray(image.dataobj)
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise RecordingError(
            f"{file}: expected a whole NIfTI {what}, found it cut or damaged ({error})"
        ) from error
    if volume.ndim != 3:
        raise RecordingError(
            f"{file}: shape: expected three dimensions, found {list(volume.shape)}"
        )
    return volume, np.asarray(image.affine, dtype=np.float64)
