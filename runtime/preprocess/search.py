"""Where a head may be after it was laid down anew: registration from scratch.

Coarse to fine. At the coarsest smoothness many starts are followed, since Gauss-Newton
finds only the nearest of several places; the best few are refined. Pure.
"""

from typing import Final, final

import numpy as np

from runtime.arrays import Float32, Shaped
from runtime.preprocess.register import Alignment, Grid, Registration
from runtime.preprocess.rigid import Matrix, Point, centre_of, matrix_from_pose

COARSE_FWHM_MM: Final = 20.0
MIDDLE_FWHM_MM: Final = 10.0
COARSE_SPACING_MM: Final = 9.0
TURN_DEG: Final = 12.0
"""Between starts about each axis; a coarse step reaches further than half of it."""
KEPT: Final = 3
"""Places that are refined."""


@final
class Search:
    """Finds a reference wherever it lies in a volume.

    Args:
        reference: As of `Registration`.
        grid: Of the reference.
        volumes: Grid of the volumes to come.

    Raises:
        TensorMismatchError: The reference shows no head.
    """

    def __init__(
        self, reference: Float32[np.ndarray, "x y z"], grid: Grid, volumes: Grid
    ) -> None:
        self._centre_mm = centre_of(grid.affine, grid.shape)
        self._middle_mm = middle_of_mass(reference, grid)
        self._volumes = volumes
        self._coarse, self._fine = (
            Registration(
                reference,
                grid,
                volumes,
                fwhm_mm=fwhm_mm,
                spacing_mm=COARSE_SPACING_MM,
                order=1,
            )
            for fwhm_mm in (COARSE_FWHM_MM, MIDDLE_FWHM_MM)
        )

    def find(self, volume: Shaped[np.ndarray, "x y z"], start: Matrix) -> Alignment:
        """Return the best place found, good enough to start a fine registration.

        Args:
            volume: On the grid of the volumes.
            start: Where the head was; one of the places looked at.
        """
        self._coarse.load(volume)
        tried = [self._coarse.align(s) for s in self._starts(volume, start)]
        tried.sort(key=_merit, reverse=True)
        self._fine.load(volume)
        refined = [self._fine.align(alignment.matrix) for alignment in tried[:KEPT]]
        return max(refined, key=_merit)

    def _starts(
        self, volume: Shaped[np.ndarray, "x y z"], start: Matrix
    ) -> list[Matrix]:
        lifted = volume.astype(np.float32)
        shift = middle_of_mass(lifted, self._volumes) - self._middle_mm
        starts = [start]
        for translation in (np.zeros(3), shift):
            for axis in range(3):
                for turn in (-TURN_DEG, TURN_DEG):
                    pose = np.zeros(6)
                    pose[:3], pose[3 + axis] = translation, turn
                    starts.append(matrix_from_pose(pose, self._centre_mm))
            pose = np.concatenate((translation, np.zeros(3)))
            starts.append(matrix_from_pose(pose, self._centre_mm))
        return starts


def middle_of_mass(volume: Float32[np.ndarray, "x y z"], grid: Grid) -> Point:
    """Return the mean place of what is brighter than the volume's mean, in mm."""
    is_bright = volume > volume.mean(dtype=np.float64)
    if not is_bright.any():
        return centre_of(grid.affine, grid.shape)
    middle = np.argwhere(is_bright).mean(axis=0)
    return np.asarray(grid.affine[:3, :3] @ middle + grid.affine[:3, 3])


def _merit(alignment: Alignment) -> float:
    """Higher is better; a place where little of the head is seen explains little."""
    return alignment.correlation * min(1.0, alignment.inside + 0.25)
