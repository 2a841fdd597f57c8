"""Siemens' mosaic: all slices of a volume as tiles of one square image.

The affine follows from the header of the whole mosaic: its position is that of a large
slice about the same centre, so that the first tile's is half the difference away
(Siemens' CSA header; the same is what nibabel and dcm2niix compute). Pure.
"""

import math

import numpy as np

from bci_bridge.sources.dicom_pixels import read_pixels, rescaled, scaling_of
from bci_bridge.sources.dicom_values import Elements
from bci_bridge.sources.siemens_csa import csa_values
from bci_bridge.sources.slices import MAX_SIDE, Plane, Stack, affine_of, plane_of
from runtime.arrays import Float64, Shaped
from runtime.errors import ScanError

_COUNT = "NumberOfImagesInMosaic"
_NORMAL = "SliceNormalVector"
_TIMES = "MosaicRefAcqTimes"


def is_mosaic(elements: Elements) -> bool:
    """Say whether an image's type names a mosaic."""
    return "MOSAIC" in elements.texts("ImageType")


def mosaic_stack(elements: Elements) -> Stack:
    """Read a mosaic's volume.

    Raises:
        ScanError: The tiles are no volume, or the header does not say how they lie.
    """
    csa = _csa(elements)
    slices = elements.whole(_COUNT) or int(_number(csa.get(_COUNT, ("0",))[0]))
    if not 1 <= slices <= MAX_SIDE:
        raise ScanError(f"mosaic: expected 1 to {MAX_SIDE} slices, found {slices}")
    image = read_pixels(elements)
    if len(image) != 1:
        raise ScanError(f"mosaic: expected one frame, found {len(image)}")
    tiles = tiled(image[0], slices)
    plane = plane_of(elements, elements, elements)
    wide = np.array(image.shape[1:]) - tiles.shape[1:]
    corner = Plane(
        plane.position + (plane.right * wide[1] + plane.down * wide[0]) / 2,
        plane.right,
        plane.down,
    )
    step = _step(elements, csa, plane)
    return Stack(
        rescaled(tiles, scaling_of(elements)).transpose(2, 1, 0),
        affine_of(corner, step),
        _times_s(elements, csa, slices),
    )


def tiled(
    image: Shaped[np.ndarray, "height width"], slices: int
) -> Shaped[np.ndarray, "slices rows columns"]:
    """Cut a mosaic into its tiles, row by row; a copy.

    Raises:
        ScanError: The image is no square of so many tiles.
    """
    side = math.isqrt(slices - 1) + 1
    height, width = image.shape
    if height % side or width % side:
        raise ScanError(
            f"mosaic: expected {side} x {side} tiles for {slices} slices,"
            f" found {height} x {width} pixels"
        )
    parts = image.reshape(side, height // side, side, width // side)
    whole = parts.swapaxes(1, 2).reshape(side * side, height // side, width // side)
    return whole[:slices]


def _csa(elements: Elements) -> dict[str, tuple[str, ...]]:
    header = elements.data("CSAImageHeaderInfo")
    if not header:
        return {}
    # That of the slices' direction stands nowhere else; the header is long.
    told = {_COUNT: elements.whole(_COUNT), _TIMES: elements.texts(_TIMES)}
    return csa_values(header, {_NORMAL, *(name for name in told if not told[name])})


def _step(
    elements: Elements, csa: dict[str, tuple[str, ...]], plane: Plane
) -> Float64[np.ndarray, " 3"]:
    distance = elements.number("SpacingBetweenSlices")
    if distance is None:
        distance = elements.number("SliceThickness")
    if distance is None or not 1e-3 < distance < 1e3:
        raise ScanError(f"SpacingBetweenSlices: expected mm, found {distance}")
    normal = plane.normal
    told = [_number(text) for text in csa.get(_NORMAL, ())]
    if len(told) == 3:
        along = float(normal @ np.array(told))
        if abs(abs(along) - 1) > 1e-3:
            raise ScanError("SliceNormalVector: expected it across the slices")
        # Siemens numbers the slices of some orientations against the cross product.
        normal = normal * math.copysign(1.0, along)
    return np.asarray(normal * distance, np.float64)


def _times_s(
    elements: Elements, csa: dict[str, tuple[str, ...]], slices: int
) -> tuple[float, ...] | None:
    told = elements.numbers(_TIMES, slices)
    if told is None:
        texts = csa.get(_TIMES, ())
        if len(texts) != slices:
            return None
        told = tuple(_number(text) for text in texts)
    first = min(told)
    return tuple((one - first) / 1000 for one in told)


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not abs(found) < 1e12:
        raise ScanError("CSA header: expected a number, found another text")
    return found
