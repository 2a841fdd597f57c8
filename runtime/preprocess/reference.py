"""The volume that a bundle's motion refers to, from a calibration run's first ones.

Pure: the same volumes give the same bits.
"""

from dataclasses import dataclass, field
from typing import Final, final

import numpy as np

from runtime.arrays import Float32, Float64, Shaped
from runtime.errors import ScanError
from runtime.preprocess.mask import VoxelMask
from runtime.preprocess.motion_settings import Motion
from runtime.preprocess.register import Grid, Registration
from runtime.preprocess.resample import VolumeReader

REFERENCE_VOLUMES: Final = 10
"""Averaged; the noise that is left is a third of one volume's."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The volume that poses are told against, on the grid of the bundle's mask."""

    volume: Float32[np.ndarray, "x y z"] = field(repr=False)
    affine: Float64[np.ndarray, "4 4"]
    """Voxel indices to millimetres, RAS+."""

    @property
    def grid(self) -> Grid:
        """Shape and place."""
        x, y, z = self.volume.shape
        return Grid((x, y, z), self.affine)


def reference_from_volumes(
    volumes: Shaped[np.ndarray, "times x y z"], grid: Grid, settings: Motion
) -> Reference:
    """Return the mean of the first volumes, each registered to the first of all.

    Args:
        volumes: A run; the first `REFERENCE_VOLUMES` are used.
        grid: Of the volumes.
        settings: The bundle's.

    Raises:
        ScanError: A volume does not fit the first.
        ConfigError: The grid has no inverse.
        TensorMismatchError: The first shows no head.
    """
    first = volumes[0].astype(np.float32)
    registration = Registration(first, grid, grid, fwhm_mm=settings.fwhm_mm)
    everywhere = VoxelMask.from_volume(np.ones(grid.shape, dtype=np.bool_))
    reader = VolumeReader(grid, grid, everywhere, settings.interpolation)
    total = first.astype(np.float64).ravel()
    matrix, taken = np.eye(4), volumes[:REFERENCE_VOLUMES]
    for number, volume in enumerate(taken[1:], 1):
        registration.load(volume)
        alignment = registration.align(matrix)
        if not alignment.is_found:
            raise ScanError(
                f"reference: expected volumes of one head that lies still, found "
                f"volume {number} unlike the first "
                f"(correlation {alignment.correlation:.2f}). Begin with another run"
            )
        matrix = alignment.matrix
        total += reader.read(volume, matrix)
    mean = (total / len(taken)).astype(np.float32)
    return Reference(mean.reshape(grid.shape), grid.affine)
