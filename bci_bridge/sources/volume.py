"""What every way out of a scanner ends in: one volume in RAS+, with its geometry.

RAS+ as in NIfTI: the first axis runs to the patient's right, the second to the front,
the third upwards, each to within 45 degrees. Pure: no file, no socket, no clock.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from runtime.arrays import Float64, Shaped
from runtime.errors import ScanError

_ROWS: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Where the voxels of a run are, and when; fixed by the run's first volume."""

    shape: tuple[int, int, int]
    """Voxels along x, y and z, after reorientation to RAS+."""
    affine: Float64[np.ndarray, "4 4"]
    """Voxel indices to millimetres, RAS+."""
    tr_s: float
    """Repetition time."""
    slice_times_s: tuple[float, ...] | None = None
    """When each slice was acquired after the volume's start; None where untold."""
    slice_axis: int = 2
    """The axis of the reoriented volume along which slices were acquired."""


@dataclass(frozen=True, slots=True, eq=False)
class ScannedVolume:
    """One acquisition, as any scanner's software delivers it.

    It holds no patient's name, identifier, date of birth or the like: whoever parses a
    file drops them there.
    """

    series: str
    """Tells one run of the scanner from the next; a restarted run has another. Empty
    where a source joined in the middle of a series that it was not told."""
    number: int
    """Zero-based count of acquisitions in the series, discarded ones included."""
    voxels: Shaped[np.ndarray, "x y z"] = field(repr=False)
    """C order, RAS+; one of `runtime.preprocess.mask.VOLUME_DTYPES`."""
    geometry: Geometry
    acquired_s: float | None = None
    """Start of acquisition, the scanner's seconds of its day; None if untold."""
    first: int = 0
    """What its source counts as number 0, for whoever goes on with the series."""


def to_ras(
    voxels: Shaped[np.ndarray, "a b c"], affine: Float64[np.ndarray, "4 4"]
) -> tuple[
    Shaped[np.ndarray, "x y z"], Float64[np.ndarray, "4 4"], tuple[int, int, int]
]:
    """Turn and flip axes so that they run to the right, to the front and upwards.

    No voxel is interpolated. Each world axis goes to the voxel axis that is nearest to
    it, the clearest first.

    Args:
        voxels: Any order of axes.
        affine: Its voxel indices to RAS+ millimetres.

    Returns:
        The same voxels in C order, the affine of their new indices, and for each new
        axis the old one it was.

    Raises:
        ScanError: The affine has no inverse.
    """
    directions = np.array(affine[:3, :3], dtype=np.float64)
    lengths = np.linalg.norm(directions, axis=0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(directions)) <= 1e-9 * (
        lengths.prod()
    ):
        raise ScanError("affine: expected one with an inverse, found one without")
    cosines = directions / lengths
    # For each new (world) axis the old (voxel) axis; the largest cosine chooses first.
    old_of: list[int] = [-1, -1, -1]
    left = np.abs(cosines)
    for _ in range(3):
        world, nearest = np.unravel_index(int(np.argmax(left)), left.shape)
        old_of[int(world)] = int(nearest)
        left[world, :] = left[:, nearest] = -1.0
    change = np.zeros((4, 4))
    change[3, 3] = 1.0
    slices = []
    for new, old in enumerate(old_of):
        is_flipped = cosines[new, old] < 0
        change[old, new] = -1.0 if is_flipped else 1.0
        change[old, 3] = voxels.shape[old] - 1 if is_flipped else 0.0
        slices.append(slice(None, None, -1 if is_flipped else 1))
    turned = _in_c_order(voxels.transpose(old_of)[tuple(slices)])
    return turned, affine @ change, (old_of[0], old_of[1], old_of[2])


def _in_c_order(turned: Shaped[np.ndarray, "x y z"]) -> Shaped[np.ndarray, "x y z"]:
    if turned.flags.c_contiguous:
        return turned
    made = np.empty(turned.shape, turned.dtype)
    # A few rows at a time stay in the processor's nearest cache.
    for begin in range(0, turned.shape[1], _ROWS):
        made[:, begin : begin + _ROWS] = turned[:, begin : begin + _ROWS]
    return made
