"""Voxels of a reference read from a volume, wherever a rigid map puts them.

Only what is asked for is interpolated: a mask of 15,724 voxels costs a fraction of the
197,136 of its volume. Pure.
"""

from typing import final

import numpy as np

from runtime.arrays import Bool, Float32, Float64, Shaped
from runtime.preprocess.axis_filter import AxisFilter, cubic_coefficients
from runtime.preprocess.mask import VoxelMask
from runtime.preprocess.register import Grid
from runtime.preprocess.rigid import Matrix
from runtime.preprocess.sample import PointSampler


@final
class VolumeReader:
    """Reads the voxels of a mask where a rigid map puts them in a volume."""

    def __init__(
        self, grid: Grid, volumes: Grid, mask: VoxelMask, interpolation: str
    ) -> None:
        indices = np.stack(np.unravel_index(mask.indices, mask.shape))
        homogeneous = np.vstack((indices, np.ones(mask.voxels)))
        self._points_mm: Float64[np.ndarray, "4 voxels"] = grid.affine @ homogeneous
        self._to_voxels = np.linalg.inv(volumes.affine)
        is_cubic = interpolation == "cubic"
        self._filter = AxisFilter(
            *(cubic_coefficients(n) if is_cubic else np.eye(n) for n in volumes.shape)
        )
        order = 3 if is_cubic else 1
        self._sampler = PointSampler(volumes.shape, mask.voxels, order)

    @property
    def is_inside(self) -> Bool[np.ndarray, " voxels"]:
        """Voxels of the last read that lay in the field of view."""
        return self._sampler.is_inside

    @property
    def outside_voxels(self) -> int:
        """Voxels of the last read beyond the field of view."""
        return int(self._sampler.is_inside.size - self._sampler.is_inside.sum())

    def read(
        self, volume: Shaped[np.ndarray, "x y z"], matrix: Matrix
    ) -> Float32[np.ndarray, " voxels"]:
        """Return the voxels; valid until the next call.

        Args:
            volume: On the grid of the run's volumes.
            matrix: The reference's millimetres to the volume's.
        """
        to_voxels = (self._to_voxels @ matrix)[:3]
        places = np.einsum("ij,jn->in", to_voxels, self._points_mm)
        return self._sampler.at(self._filter(volume), places)
