"""The bundle's voxels of each volume of a run, wherever the head lies.

Without motion correction they are the mask's; with it, those of the bundle's reference
found again in the volume. One way for training, serving and replay. Pure.
"""

from typing import final

import numpy as np
from msgspec import UNSET, UnsetType

from runtime.answers import RunGeometry
from runtime.arrays import Bool, Float32
from runtime.errors import ConfigError, TensorMismatchError
from runtime.preprocess.mask import VoxelMask
from runtime.preprocess.motion import MotionCorrection
from runtime.preprocess.motion_report import VolumeMotion
from runtime.preprocess.motion_settings import Motion
from runtime.preprocess.reference import Reference
from runtime.preprocess.register import Grid

Voxels = Float32[np.ndarray, " voxels"]


def require_geometry(mask: VoxelMask, run: RunGeometry) -> None:
    """Refuse a run whose volumes are not those of the mask.

    Raises:
        TensorMismatchError: Another shape.
    """
    if run.shape != mask.shape:
        raise TensorMismatchError(
            f"run {run.run_id}", expected=f"volumes {mask.shape}", found=str(run.shape)
        )


@final
class VoxelSource:
    """Takes the volumes of one run; memory for one volume's voxels is taken here."""

    def __init__(
        self,
        mask: VoxelMask,
        motion: Motion | UnsetType,
        run: RunGeometry,
        reference: Reference | None,
    ) -> None:
        """Allocate for the run.

        Args:
            mask: The bundle's voxels.
            motion: The estimator's.
            run: Its shape may be another than the mask's where motion is corrected and
                its affine is known.
            reference: The bundle's; needed where motion is corrected.

        Raises:
            TensorMismatchError: The run's volumes do not fit the mask.
            ConfigError: No reference, or a grid that motion cannot be told on.
        """
        self._mask = mask
        self._voxels = np.empty(mask.voxels, dtype=np.float32)
        self._correction: MotionCorrection | None = None
        self.motion: VolumeMotion | None = None
        """Of the last volume taken; None before, and without motion correction."""
        if motion is UNSET:
            require_geometry(mask, run)
            return
        if reference is None:
            raise ConfigError(
                "motion: expected a reference volume beside the mask, found none. "
                "Export the bundle again, or leave motion unset"
            )
        if run.affine is None:
            require_geometry(mask, run)
        affine = (
            reference.affine
            if run.affine is None
            else np.array(run.affine, dtype=np.float64).reshape(4, 4)
        )
        self._correction = MotionCorrection(
            reference, Grid(run.shape, affine), mask, motion
        )

    def take(self, volume: np.ndarray) -> Voxels:
        """Return the voxels of a volume; valid until the next.

        Raises:
            TensorMismatchError: Another shape or dtype, or values that are not finite;
                nothing has changed.
            ScanError: The first volume does not show the bundle's reference, or too
                little of its mask; nothing has changed.
        """
        if self._correction is None:
            return self._mask.select(volume, out=self._voxels)
        self.motion = self._correction.correct(volume, self._voxels)
        return self._voxels

    @property
    def is_outside(self) -> Bool[np.ndarray, " voxels"] | None:
        """Voxels that the run never showed; None where that cannot be."""
        return None if self._correction is None else self._correction.is_outside

    def quality(self) -> dict[str, float]:
        """Return the measures of the last volume's motion by name."""
        return {} if self.motion is None else self.motion.quality()

    def degraded(self) -> tuple[str, ...]:
        """Return what was not as it should be with the last volume."""
        return () if self.motion is None else self.motion.degraded()
