"""Values of a volume between its voxels, at many points, with memory taken once.

`scipy.ndimage.map_coordinates` of order 1 and 3 in mode ``mirror`` within the grid;
points beyond it get the value at the nearest point of its surface, and are told apart.
Pure.
"""

from typing import Final, final

import numpy as np

from runtime.arrays import Float32, Float64
from runtime.preprocess.axis_filter import MARGIN

CHUNK: Final = 8192
"""Points worked on at a time, so that every intermediate stays in cache."""
EDGE_VOXELS: Final = 0.5
"""A voxel reaches this far beyond its middle; so does the field of view."""


@final
class PointSampler:
    """Samples volumes of one shape at a fixed number of points."""

    def __init__(self, shape: tuple[int, int, int], points: int, order: int) -> None:
        """Allocate.

        Args:
            shape: Voxels along x, y and z of the volumes.
            points: How many.
            order: 1, linear in the voxels; or 3, cubic in spline coefficients that
                have `MARGIN` more on every side.
        """
        self._last = np.array(shape, dtype=np.float64)[:, None] - 1.0
        self._order, self._margin = order, 0 if order == 1 else MARGIN
        padded = [size + 2 * self._margin for size in shape]
        self._strides = (padded[1] * padded[2], padded[2], 1)
        self.values = np.empty(points, dtype=np.float32)
        """What `at` wrote last."""
        self.is_inside = np.empty(points, dtype=np.bool_)
        """Points of the last call within the field of view."""
        size = min(CHUNK, points)
        taps = order + 1
        self._weights = np.empty((3, taps, size), dtype=np.float32)
        self._index = np.empty(size, dtype=np.intp)
        self._shifted = np.empty(size, dtype=np.intp)
        self._taken = np.empty(size, dtype=np.float32)
        self._line = np.empty(size, dtype=np.float32)
        self._plane = np.empty(size, dtype=np.float32)

    def at(
        self,
        volume: Float32[np.ndarray, "i j k"],
        points: Float64[np.ndarray, "3 points"],
    ) -> Float32[np.ndarray, " points"]:
        """Return the values at points given in voxels; valid until the next call."""
        flat = volume.reshape(-1)
        for start in range(0, self.values.size, CHUNK):
            part = slice(start, start + CHUNK)
            self._chunk(flat, points[:, part], part)
        return self.values

    def _chunk(
        self,
        flat: Float32[np.ndarray, " voxels"],
        points: Float64[np.ndarray, "3 chunk"],
        part: slice,
    ) -> None:
        held = np.clip(points, 0.0, self._last)
        beyond = np.abs(points - held).max(axis=0)
        np.less_equal(beyond, EDGE_VOXELS, out=self.is_inside[part])
        base = np.minimum(np.floor(held), self._last - 1.0)
        n = base.shape[1]
        fraction = (held - base).astype(np.float32)
        weights = self._weights[:, :, :n]
        (_cubic if self._order == 3 else _linear)(fraction, weights)
        cell = base.astype(np.intp)
        # The first tap of a cubic lies a voxel before the cell, which the margin adds.
        sx, sy, sz = self._strides
        index = self._index[:n]
        np.multiply(cell[0], sx, out=index)
        index += cell[1] * sy
        index += cell[2] * sz
        out, taken = self.values[part], self._taken[:n]
        line, plane, shifted = self._line[:n], self._plane[:n], self._shifted[:n]
        taps = self._order + 1
        for i in range(taps):
            for j in range(taps):
                np.add(index, i * sx + j * sy, out=shifted)
                for k in range(taps):
                    # Every index is within bounds; "clip" spares take its buffer.
                    flat.take(shifted, out=taken, mode="clip")
                    if k == 0:
                        np.multiply(taken, weights[2, 0], out=line)
                    else:
                        taken *= weights[2, k]
                        line += taken
                    if k + 1 < taps:
                        shifted += sz
                line *= weights[1, j]
                if j == 0:
                    plane[:] = line
                else:
                    plane += line
            plane *= weights[0, i]
            if i == 0:
                out[:] = plane
            else:
                out += plane


def _linear(
    fraction: Float32[np.ndarray, "3 chunk"],
    weights: Float32[np.ndarray, "3 taps chunk"],
) -> None:
    weights[:, 1] = fraction
    np.subtract(1.0, fraction, out=weights[:, 0])


def _cubic(
    fraction: Float32[np.ndarray, "3 chunk"],
    weights: Float32[np.ndarray, "3 taps chunk"],
) -> None:
    """Write the cubic B-spline at the four nearest coefficients; they sum to 1."""
    one, sixth, two_thirds = np.float32(1.0), np.float32(1 / 6), np.float32(2 / 3)
    rest = one - fraction
    weights[:, 0] = rest * rest * rest * sixth
    weights[:, 3] = fraction * fraction * fraction * sixth
    weights[:, 1] = two_thirds - fraction * fraction * (one - fraction / 2)
    weights[:, 2] = two_thirds - rest * rest * (one - rest / 2)
