"""What both front ends begin with: a volume's voxels, found, judged and smoothed.

Pure: no clock, no socket, no model.
"""

from typing import Final

import numpy as np
from msgspec import UNSET

from runtime.answers import RunGeometry
from runtime.arrays import Float32
from runtime.errors import ConfigError
from runtime.estimator import BetaEstimator, VolumeEstimator
from runtime.preprocess.mask import VoxelMask
from runtime.preprocess.quality import SPIKE_RATIO, RunQuality, VolumeQuality
from runtime.preprocess.reference import Reference
from runtime.preprocess.smooth import MaskSmoothing
from runtime.voxel_source import VoxelSource

Voxels = Float32[np.ndarray, " voxels"]
SPIKE_NOT_USED: Final = "SPIKE_NOT_USED"
"""Said of a volume that the estimator's `spike_ratio` kept out of the run's sums."""


class Intake:
    """What both begin with: the voxels, judged as read from the volume, then smoothed.

    Attributes:
        quality: Of the last volume; None before the first.
    """

    def __init__(
        self,
        mask: VoxelMask,
        estimator: BetaEstimator | VolumeEstimator,
        run: RunGeometry,
        voxel_mm: tuple[float, float, float] | None,
        reference: Reference | None,
    ) -> None:
        """Allocate for the run.

        Raises:
            TensorMismatchError: The run's volumes do not fit the mask.
            ConfigError: Smoothing is asked for and the voxels' size is unknown, or
                motion and there is no reference.
        """
        self._source = VoxelSource(mask, estimator.motion, run, reference)
        self._drops = estimator.spike_ratio is not UNSET
        ratio = SPIKE_RATIO if estimator.spike_ratio is UNSET else estimator.spike_ratio
        self._measures = RunQuality(mask.voxels, ratio)
        self.quality: VolumeQuality | None = None
        self._smoothing: MaskSmoothing | None = None
        if estimator.smoothing_fwhm_mm is not UNSET:
            if voxel_mm is None:
                raise ConfigError(
                    "smoothing_fwhm_mm: expected the voxels' size in mm, found none. "
                    "Give the recording or the bundle an affine"
                )
            self._smoothing = MaskSmoothing(mask, voxel_mm, estimator.smoothing_fwhm_mm)

    def take(
        self, volume_index: int, volume: np.ndarray, unseen: Voxels | float
    ) -> Voxels:
        """Return the voxels of a volume; valid until the next.

        Args:
            volume_index: Acquisition index.
            volume: x, y, z.
            unseen: Stands for voxels that no volume of the run shows.

        Raises:
            TensorMismatchError: Another shape or dtype, or a decoded voxel that is not
                finite; nothing has changed.
            ScanError: Motion is corrected, and the run's first volume does not show
                the bundle's reference or mask; nothing has changed.
        """
        voxels = self._source.take(volume)
        outside = self._source.is_outside
        if outside is not None:
            np.copyto(voxels, unseen, where=outside)
        self.quality = self._measures.update(volume_index, voxels)
        if self._smoothing is not None:
            self._smoothing(voxels, out=voxels)
        return voxels

    @property
    def is_dropped(self) -> bool:
        """Whether the last volume stays out of the run's sums."""
        return self._drops and self.quality is not None and self.quality.is_spike

    def named(self) -> dict[str, float]:
        """Return the measures of the last volume by name."""
        measured = {} if self.quality is None else self.quality.named()
        return measured | self._source.quality()

    def confounds(self) -> dict[str, float]:
        """Return the pose of the last volume's head by name, where it is known."""
        motion = self._source.motion
        return {} if motion is None else motion.confounds()

    def degraded(self) -> tuple[str, ...]:
        """Return what was not as it should be with the last volume."""
        dropped = (SPIKE_NOT_USED,) if self.is_dropped else ()
        return (*dropped, *self._source.degraded())
