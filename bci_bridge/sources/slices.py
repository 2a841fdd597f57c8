"""Slices in space: from their positions to one volume's voxels and affine.

Patient coordinates of DICOM run to the left, the back and the head (PS3.3,
C.7.6.2.1.1); affines here are RAS+, as everywhere else. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from bci_bridge.sources.dicom_pixels import rescaled
from bci_bridge.sources.dicom_values import Elements
from bci_bridge.sources.volume import Geometry, ScannedVolume, to_ras
from runtime.arrays import Float64, Shaped
from runtime.errors import ScanError

EVEN: Final = 0.01
"""Relative deviation of slice distances; consoles round positions to micrometres."""
TO_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])

MAX_SIDE: Final = 1024
"""Voxels along an axis of one volume, as on the wire."""


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """Where the pixels of a slice lie."""

    position: Float64[np.ndarray, " 3"]
    """Centre of its first pixel, mm, left, back, head."""
    right: Float64[np.ndarray, " 3"]
    """From a column to the next, mm."""
    down: Float64[np.ndarray, " 3"]
    """From a row to the next, mm."""

    @property
    def normal(self) -> Float64[np.ndarray, " 3"]:
        """A unit vector across the slice."""
        across = np.cross(self.right, self.down)
        return np.asarray(across / np.linalg.norm(across), np.float64)

    @property
    def depth(self) -> float:
        """Where along its normal it lies, mm."""
        return float(self.position @ self.normal)


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """A volume as a scanner has it: columns, rows and slices."""

    voxels: Shaped[np.ndarray, "columns rows slices"] = field(repr=False)
    affine: Float64[np.ndarray, "4 4"]
    """Its voxel indices to millimetres, RAS+."""
    slice_times_s: tuple[float, ...] | None = None
    """Of each slice, after the volume's start."""


def plane_of(position: Elements, orientation: Elements, measures: Elements) -> Plane:
    """Read a slice's plane; the three are one and the same in a classic file.

    Raises:
        ScanError: One of them is absent, or spans no plane.
    """
    place = position.numbers("ImagePositionPatient", 3)
    cosines = orientation.numbers("ImageOrientationPatient", 6)
    spacing = measures.numbers("PixelSpacing", 2)
    for name, found in (
        ("ImagePositionPatient", place),
        ("ImageOrientationPatient", cosines),
        ("PixelSpacing", spacing),
    ):
        if found is None:
            raise ScanError(f"{name}: expected one, found none")
    if place is None or cosines is None or spacing is None:
        raise ScanError("plane: expected one, found none")
    right, down = np.array(cosines[:3]), np.array(cosines[3:])
    # Rounded to six digits and more by consoles; 1e-3 is a twentieth of a degree.
    is_square = (
        abs(np.linalg.norm(right) - 1) < 1e-3
        and abs(np.linalg.norm(down) - 1) < 1e-3
        and abs(right @ down) < 1e-3
    )
    if not is_square:
        raise ScanError(
            "ImageOrientationPatient: expected two unit vectors at right angles,"
            " found others"
        )
    if not all(1e-3 < step < 1e3 for step in spacing):
        raise ScanError(f"PixelSpacing: expected millimetres, found {spacing}")
    if max(map(abs, place)) > 1e5:
        raise ScanError("ImagePositionPatient: expected millimetres, found others")
    return Plane(np.array(place), right * spacing[1], down * spacing[0])


def affine_of(
    plane: Plane, step: Float64[np.ndarray, " 3"]
) -> Float64[np.ndarray, "4 4"]:
    """Return column, row and slice to millimetres, RAS+.

    Args:
        plane: The first slice.
        step: From a slice to the next, mm, left, back, head.
    """
    affine = np.eye(4)
    for axis, column in enumerate((plane.right, plane.down, step, plane.position)):
        affine[:3, axis] = column
    return np.asarray(TO_RAS @ affine, np.float64)


def stacked(
    planes: Sequence[Plane],
    pixels: Sequence[Shaped[np.ndarray, "rows columns"]],
    scalings: Sequence[tuple[float, float]],
    thickness: float | None,
    times_s: Sequence[float] | None = None,
) -> Stack:
    """Put slices in the order of their positions, whatever order they came in.

    Args:
        planes: One each.
        pixels: As stored, of one size.
        scalings: Slope and intercept of each.
        thickness: Distance of slices, mm; needed only where there is one slice.
        times_s: When each was acquired, on any clock.

    Raises:
        ScanError: They are not parallel, or their distances are uneven: one is missing,
            or there twice.
    """
    first = planes[0]
    for plane in planes[1:]:
        if not (
            np.allclose(plane.right, first.right, atol=1e-4)
            and np.allclose(plane.down, first.down, atol=1e-4)
        ):
            raise ScanError("slices: expected parallel ones, found others")
    if len({each.shape for each in pixels}) > 1:
        raise ScanError("slices: expected one size, found several")
    positions = np.array([plane.position for plane in planes])
    order = np.argsort(positions @ first.normal, kind="stable")
    step = _step(positions[order], first.normal, thickness)
    if len(set(scalings)) == 1:
        joined = rescaled(np.stack([pixels[i] for i in order]), scalings[0])
    else:
        joined = np.stack(
            [rescaled(pixels[i], scalings[i]).astype(np.float32) for i in order]
        )
    times = None
    if times_s is not None:
        times = tuple(float(times_s[i] - min(times_s)) for i in order)
    affine = affine_of(planes[int(order[0])], step)
    return Stack(joined.transpose(2, 1, 0), affine, times)


def _step(
    positions: Float64[np.ndarray, "slices 3"],
    normal: Float64[np.ndarray, " 3"],
    thickness: float | None,
) -> Float64[np.ndarray, " 3"]:
    if len(positions) == 1:
        if thickness is None or not 1e-3 < thickness < 1e3:
            raise ScanError(f"SliceThickness: expected millimetres, found {thickness}")
        return np.asarray(normal * thickness, np.float64)
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    if usual <= 0 or gaps.min() < EVEN * usual:
        raise ScanError("slices: expected different positions, found two alike")
    if np.abs(gaps - usual).max() > EVEN * usual:
        raise ScanError(
            f"slices: expected even distances of {usual:.2f} mm,"
            f" found {gaps.min():.2f} to {gaps.max():.2f} mm. A slice is missing"
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    if np.linalg.norm(step - normal * usual) > EVEN * usual:
        raise ScanError("slices: expected one above the other, found a slanting stack")
    return np.asarray(step, np.float64)


def scanned(
    stack: Stack,
    *,
    series: str,
    number: int,
    tr_s: float,
    acquired_s: float | None,
) -> ScannedVolume:
    """Turn a volume to RAS+, its slice times with it.

    Raises:
        ScanError: It has no voxels, too many, or an affine without inverse.
    """
    if not all(1 <= side <= MAX_SIDE for side in stack.voxels.shape):
        raise ScanError(
            f"volume: expected 1 to {MAX_SIDE} voxels a side,"
            f" found {list(stack.voxels.shape)}"
        )
    voxels, affine, old_of = to_ras(stack.voxels, stack.affine)
    slice_axis = old_of.index(2)
    times = stack.slice_times_s
    # A slice that lies at larger indices than before has been turned over.
    if times is not None and affine[:3, slice_axis] @ stack.affine[:3, 2] < 0:
        times = times[::-1]
    if times is not None and max(times) >= tr_s:
        # Some sequences tell the times of a scan without multiband.
        times = None
    if times is not None:
        # Consoles write what they computed, to the last bit.
        times = tuple(round(one, 6) for one in times)
    if voxels.dtype.byteorder not in "=|":
        voxels = voxels.astype(voxels.dtype.newbyteorder("="))
    shape = (voxels.shape[0], voxels.shape[1], voxels.shape[2])
    geometry = Geometry(shape, affine, tr_s, times, slice_axis)
    return ScannedVolume(series, number, voxels, geometry, acquired_s)
