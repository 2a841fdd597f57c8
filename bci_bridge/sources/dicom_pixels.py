"""Pixels of a DICOM file as an array, sizes held against bytes before anything else.

Pure. What is read is uncompressed: one sample of 16 bits per pixel.
"""

from typing import Any, Final

import numpy as np

from bci_bridge.sources.dicom_values import Elements, IncompleteError
from runtime.arrays import Shaped
from runtime.errors import ScanError

MAX_SIDE: Final = 8192
"""Rows or columns: a mosaic of 1,024 slices of 256 x 256 is that wide."""
MAX_FRAMES: Final = 1 << 17


def read_pixels(elements: Elements) -> Shaped[np.ndarray, "frames rows columns"]:
    """Return the stored pixels, a read-only view of the file's bytes.

    Raises:
        IncompleteError: There are fewer bytes than announced.
        ScanError: Sizes are impossible, or the pixels are not of 16 bits.
    """
    rows = _size(elements, "Rows", MAX_SIDE)
    columns = _size(elements, "Columns", MAX_SIDE)
    frames = 1
    if elements.whole("NumberOfFrames") is not None:
        frames = _size(elements, "NumberOfFrames", MAX_FRAMES)
    samples = elements.whole("SamplesPerPixel")
    bits = elements.whole("BitsAllocated")
    if bits != 16 or samples not in (1, None):
        raise ScanError(
            f"pixels: expected one sample of 16 bits, found {samples} of {bits} bits"
        )
    data = elements.pixels
    expected = 2 * rows * columns * frames
    if len(data) < expected:
        raise IncompleteError(
            f"PixelData: expected {expected} bytes, found {len(data)}"
        )
    if len(data) > expected:
        raise ScanError(f"PixelData: expected {expected} bytes, found {len(data)}")
    kind = "<i2" if elements.whole("PixelRepresentation") == 1 else "<u2"
    return np.frombuffer(data, kind).reshape(frames, rows, columns)


def rescaled(
    stored: Shaped[np.ndarray, "..."], scaling: tuple[float, float]
) -> Shaped[np.ndarray, "..."]:
    """Return the values that stored pixels stand for (PS3.3, C.11.1).

    Args:
        stored: Whole numbers.
        scaling: Slope and intercept; 1 and 0 leave the numbers as they are.

    Returns:
        The same array, or float32.
    """
    slope, intercept = scaling
    if (slope, intercept) == (1.0, 0.0):
        return stored
    values: np.ndarray[Any, Any] = stored * slope + intercept
    return values.astype(np.float32)


def scaling_of(elements: Elements) -> tuple[float, float]:
    """Return slope and intercept of a file or a frame; 1 and 0 where untold.

    Raises:
        ScanError: They are no numbers that a voxel in float32 could have.
    """
    slope = elements.number("RescaleSlope")
    intercept = elements.number("RescaleIntercept")
    found = (1.0 if slope is None else slope, intercept or 0.0)
    if found[0] == 0 or max(map(abs, found)) > 1e30:
        raise ScanError(
            f"RescaleSlope: expected a number other than 0, found {found[0]:g}"
        )
    return found


def _size(elements: Elements, name: str, most: int) -> int:
    found = elements.whole(name)
    if found is None or not 1 <= found <= most:
        raise ScanError(f"{name}: expected 1 to {most}, found {found}")
    return found
