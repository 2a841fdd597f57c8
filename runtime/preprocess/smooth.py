"""Smoothing within the mask: a Gaussian that never looks at voxels not decoded.

Voxels outside the mask weigh nothing and the weights left are scaled to one, so that a
constant stays a constant up to the mask's edge. One dense matrix an axis, over the
mask's own box. Pure.
"""

import math
from collections.abc import Sequence
from typing import Final, final

import numpy as np

from runtime.arrays import Float32, Float64, Shaped
from runtime.errors import ConfigError
from runtime.preprocess.mask import VoxelMask, require_voxels
from runtime.preprocess.timing import require_positive

SIGMAS_PER_FWHM: Final = 1.0 / (2.0 * math.sqrt(2.0 * math.log(2.0)))

Voxels = Float32[np.ndarray, " voxels"]


def voxel_sizes_mm(affine: Shaped[np.ndarray, "4 4"]) -> tuple[float, float, float]:
    """Return the sides of a voxel, in mm: the lengths of an affine's columns."""
    x, y, z = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    return float(x), float(y), float(z)


@final
class MaskSmoothing:
    """Smooth the voxels of a mask.

    Args:
        mask: Which voxels there are.
        voxel_mm: Sides of a voxel.
        fwhm_mm: Full width at half maximum of the Gaussian.

    Raises:
        ConfigError: A length is not positive.
    """

    def __init__(
        self, mask: VoxelMask, voxel_mm: Sequence[float], fwhm_mm: float
    ) -> None:
        require_positive("smoothing_fwhm_mm", fwhm_mm)
        places = np.unravel_index(mask.indices, mask.shape)
        first = [int(axis.min()) for axis in places]
        moved = tuple(axis - a for axis, a in zip(places, first, strict=True))
        self._box = tuple(int(axis.max()) + 1 for axis in moved)
        if len(voxel_mm) != 3:
            raise ConfigError(f"voxel_mm: expected 3 lengths, found {len(voxel_mm)}")
        self._matrices = tuple(
            _gaussian(side, size_mm, fwhm_mm)
            for side, size_mm in zip(self._box, voxel_mm, strict=True)
        )
        self._inside = np.ravel_multi_index(moved, self._box)
        self._volume = np.zeros(self._box)
        weights = self._smoothed(np.ones(mask.voxels))
        self._gain = 1.0 / weights

    def __call__(self, voxels: Voxels, out: Voxels | None = None) -> Voxels:
        """Return the voxels smoothed.

        Args:
            voxels: In any unit; finite.
            out: Written and returned instead of a new array; may be `voxels`.

        Raises:
            TensorMismatchError: Another number of voxels or dtype.
        """
        require_voxels("voxels", voxels, self._inside.size)
        smoothed = self._smoothed(voxels) * self._gain
        if out is None:
            return smoothed.astype(np.float32)
        require_voxels("out", out, self._inside.size)
        out[:] = smoothed
        return out

    def _smoothed(
        self, voxels: Shaped[np.ndarray, " voxels"]
    ) -> Float64[np.ndarray, " voxels"]:
        x, y, z = self._matrices
        # What lies outside the mask is zero from the start, and stays so.
        self._volume.reshape(-1)[self._inside] = voxels
        along_z = self._volume @ z
        along_y = y @ along_z
        along_x = x @ along_y.reshape(self._box[0], -1)
        return np.take(along_x, self._inside)


def _gaussian(
    side: int, size_mm: float, fwhm_mm: float
) -> Float64[np.ndarray, "side side"]:
    require_positive("voxel_mm", size_mm)
    places_mm = np.arange(side) * size_mm
    distances = np.subtract.outer(places_mm, places_mm) / (fwhm_mm * SIGMAS_PER_FWHM)
    return np.asarray(np.exp(-0.5 * np.square(distances)))
