"""Separable filters of a volume as one matrix an axis: smoothing, cubic splines.

A filter along an axis is a dense matrix, so smoothing, the coefficients of a spline
and the mirrored margin cost one product an axis together, with memory taken once.
Products are taken in blocks that a BLAS computes in one thread, so that the number of
its threads changes no bit and no engine is disturbed. Pure.
"""

import math
from typing import Final, final

import numpy as np

from runtime.arrays import Float32, Float64, Shaped
from runtime.errors import TensorMismatchError

MARGIN: Final = 1
"""Coefficients beyond the grid on either side that `cubic_coefficients` adds."""
MIN_VOXELS: Final = 4
"""An axis with fewer has no room for a cubic spline."""

BLOCK_PRODUCTS: Final = 2**17
"""Multiplications in a block; OpenBLAS keeps to one thread up to 2^18."""

AxisMatrix = Float64[np.ndarray, "_rows _voxels"]
FWHM_PER_SIGMA: Final = 2.0 * math.sqrt(2.0 * math.log(2.0))


def gaussian(voxels: int, sigma: float) -> AxisMatrix:
    """Return the matrix that smooths with a Gaussian, mirrored at the outer voxels.

    Args:
        voxels: Length of the axis.
        sigma: Standard deviation in voxels; 0 leaves the axis as it is.
    """
    if sigma <= 0.0:
        return np.eye(voxels)
    reach = math.ceil(4.0 * sigma)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((voxels, voxels))
    for row in range(voxels):
        np.add.at(matrix[row], _mirrored(row + offsets, voxels), weights)
    return np.asarray(matrix / weights.sum())


def cubic_coefficients(voxels: int) -> AxisMatrix:
    """Return the matrix from samples to cubic B-spline coefficients, with `MARGIN`.

    Unser et al. (1993), with mirror boundaries. Not by inverting the samples of the
    spline: LAPACK's inverse differs with the number of threads.
    """
    pole, last = math.sqrt(3.0) - 2.0, voxels - 1
    inner = np.eye(voxels)
    # Thévenaz et al. (2000), Box 2: once along the axis and once back.
    powers = pole ** np.arange(voxels) + pole ** (2 * last - np.arange(voxels))
    powers[[0, last]] = 1.0, pole**last
    inner[0] = powers / (1.0 - pole ** (2 * last))
    for row in range(1, voxels):
        inner[row] += pole * inner[row - 1]
    inner[last] = pole / (pole**2 - 1.0) * (inner[last] + pole * inner[last - 1])
    for row in range(last - 1, -1, -1):
        inner[row] = pole * (inner[row + 1] - inner[row])
    rows = _mirrored(np.arange(-MARGIN, voxels + MARGIN), voxels)
    return np.asarray(6.0 * inner[rows])


def slope(voxels: int) -> AxisMatrix:
    """Return the matrix from samples to the slope of their cubic spline, per voxel."""
    coefficients = cubic_coefficients(voxels)
    return np.asarray((coefficients[2:] - coefficients[:-2]) / 2.0)


def _mirrored(indices: np.ndarray, voxels: int) -> np.ndarray:
    period = max(2 * (voxels - 1), 1)
    folded = np.abs(indices) % period
    return np.asarray(np.minimum(folded, period - folded))


@final
class AxisFilter:
    """Three matrices for one shape of volume, with memory for the products."""

    def __init__(self, x: AxisMatrix, y: AxisMatrix, z: AxisMatrix) -> None:
        self._x, self._y, self._z = (
            np.ascontiguousarray(matrix, dtype=np.float32) for matrix in (x, y, z)
        )
        self.shape = (x.shape[1], y.shape[1], z.shape[1])
        """Voxels along x, y and z of the volumes taken."""
        columns, (i, j, k) = self.shape, (x.shape[0], y.shape[0], z.shape[0])
        self._input = np.empty(columns, dtype=np.float32)
        self._last = np.empty((columns[0], columns[1], k), dtype=np.float32)
        self._middle = np.empty((columns[0], j, k), dtype=np.float32)
        self._first = np.empty((i, j, k), dtype=np.float32)

    def __call__(
        self, volume: Shaped[np.ndarray, "x y z"]
    ) -> Float32[np.ndarray, "i j k"]:
        """Return the filtered volume; the same memory is returned by the next call.

        Raises:
            TensorMismatchError: Another shape.
        """
        if volume.shape != self.shape:
            raise TensorMismatchError(
                "volume", expected=f"{list(self.shape)}", found=f"{list(volume.shape)}"
            )
        np.copyto(self._input, volume, casting="same_kind")
        for part in blocks(self._input.shape[1], self._z.size):
            rows = self._input[:, part]
            np.matmul(rows, self._z.T, out=self._last[:, part])
        for part in blocks(self._last.shape[2], self._y.size):
            np.matmul(self._y, self._last[..., part], out=self._middle[..., part])
        middle, first = (a.transpose(1, 0, 2) for a in (self._middle, self._first))
        for part in blocks(middle.shape[2], self._x.size):
            np.matmul(self._x, middle[..., part], out=first[..., part])
        return self._first


def blocks(columns: int, matrix_size: int) -> list[slice]:
    """Divide the columns that a matrix is multiplied with into small products."""
    size = max(1, BLOCK_PRODUCTS // matrix_size)
    return [slice(start, start + size) for start in range(0, columns, size)]
