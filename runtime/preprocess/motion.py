"""Head motion of one run: volumes registered, decoded voxels read where they lie.

Only the mask's voxels are read from a volume, each where the registration says that
the reference's voxel lies. So the day's field of view and matrix may be others than the
reference's, and the number and order of voxels stay the bundle's.

A volume in which the reference is not found (the registration does not converge, or
explains too little) is searched from scratch, coarse to fine. Where that fails too, the
pose of the volume before stands in, and the report says so. Pure: no clock.
"""

from typing import Final, final

import numpy as np

from runtime.arrays import Bool, Float32, Shaped
from runtime.errors import ConfigError, ScanError, TensorMismatchError
from runtime.preprocess.axis_filter import MIN_VOXELS
from runtime.preprocess.mask import VoxelMask, require_finite, require_volume
from runtime.preprocess.motion_report import VolumeMotion
from runtime.preprocess.motion_settings import Motion
from runtime.preprocess.reference import Reference
from runtime.preprocess.register import (
    BRIGHT_PERCENTILE,
    HEAD_SHARE,
    MIN_CORRELATION,
    Alignment,
    Grid,
    Registration,
)
from runtime.preprocess.resample import VolumeReader
from runtime.preprocess.rigid import (
    Pose,
    centre_of,
    displacement_mm,
    matrix_from_pose,
    pose_from_matrix,
)
from runtime.preprocess.search import Search

STATE_VERSION: Final = 1
SUSTAINED: Final = 3
"""Volumes for which a large step must stay to be a new position of the head."""

State = dict[str, np.ndarray | int | float]


@final
class MotionCorrection:
    """The motion of one run's volumes; all memory is taken here.

    Args:
        reference: The bundle's.
        volumes: Grid of the run's volumes.
        mask: Which voxels of the reference are decoded.
        settings: The bundle's.

    Raises:
        ConfigError: A grid too thin, or without an inverse.
        TensorMismatchError: The reference is not of its grid, not finite, or shows no
            head.
    """

    def __init__(
        self,
        reference: Reference,
        volumes: Grid,
        mask: VoxelMask,
        settings: Motion,
    ) -> None:
        image, grid = reference.volume, reference.grid
        for name, shape in (("reference", grid.shape), ("volume", volumes.shape)):
            if min(shape) < MIN_VOXELS:
                raise ConfigError(
                    f"motion: {name}: expected at least {MIN_VOXELS} voxels along "
                    f"every axis, found {list(shape)}. Leave motion unset"
                )
        require_finite("reference", image)
        if grid.shape != mask.shape:
            raise TensorMismatchError(
                "reference",
                expected=f"{list(mask.shape)} as the mask",
                found=f"{list(grid.shape)}",
            )
        self._settings, self._volumes = settings, volumes
        self._centre_mm = centre_of(grid.affine, grid.shape)
        self._registration = Registration(
            image, grid, volumes, fwhm_mm=settings.fwhm_mm
        )
        self._search = Search(image, grid, volumes)
        bright = HEAD_SHARE * np.percentile(image, BRIGHT_PERCENTILE)
        self._is_head = mask.select(image) > bright
        self._reader = VolumeReader(grid, volumes, mask, settings.interpolation)
        self._pose: Pose = np.zeros(6)
        self._settled: Pose = np.zeros(6)
        self._away, self._is_started, self._overlap = 0, False, 0.0
        self._is_outside = np.zeros(mask.voxels, dtype=np.bool_)

    @property
    def is_outside(self) -> Bool[np.ndarray, " voxels"]:
        """Voxels that the run's first volume did not show; not to be written to."""
        return self._is_outside

    def correct(
        self,
        volume: Shaped[np.ndarray, "x y z"],
        out: Float32[np.ndarray, " voxels"],
    ) -> VolumeMotion:
        """Register a volume and read the decoded voxels from it.

        Args:
            volume: On the grid of the run's volumes, finite.
            out: Written: the mask's voxels in its order, in the volume's units.

        Raises:
            TensorMismatchError: Another shape or dtype, or values that are not finite.
            ScanError: No volume was registered yet and the reference is not found in
                this one, or it shows too little of the mask. Nothing has changed.
        """
        require_volume(volume, self._volumes.shape)
        require_finite("volume", volume)
        found = self._locate(volume)
        if not self._is_started:
            self._start(volume, found)
        is_registered = found.is_found
        pose = self._pose
        moved_mm = None
        if is_registered:
            pose = pose_from_matrix(found.matrix, self._centre_mm)
            moved_mm = displacement_mm(pose, self._pose) if self._is_started else None
        out[:] = self._reader.read(volume, matrix_from_pose(pose, self._centre_mm))
        is_repositioned = is_registered and self._settle(pose)
        self._pose, self._is_started = pose, True
        return VolumeMotion(
            pose=pose.copy(),
            framewise_displacement_mm=moved_mm,
            is_registered=is_registered,
            is_spike=moved_mm is not None and moved_mm > self._settings.spike_mm,
            is_repositioned=is_repositioned,
            correlation=found.correlation,
            overlap=self._overlap,
            outside_voxels=self._reader.outside_voxels,
        )

    def _locate(self, volume: Shaped[np.ndarray, "x y z"]) -> Alignment:
        """Register from the pose before; from scratch where that is in doubt."""
        start = matrix_from_pose(self._pose, self._centre_mm)
        self._registration.load(volume)
        near = self._registration.align(start)
        if self._is_started and near.is_found:
            pose = pose_from_matrix(near.matrix, self._centre_mm)
            if displacement_mm(pose, self._pose) < self._settings.reposition_mm:
                return near
        place = self._search.find(volume, start)
        far = self._registration.align(place.matrix)
        return max(near, far, key=lambda a: (a.is_found, a.correlation))

    def _start(
        self,
        volume: Shaped[np.ndarray, "x y z"],
        found: Alignment,
    ) -> None:
        """Hold the run's first volume against the reference.

        Raises:
            ScanError: It is another head, or too little of the mask is in it.
        """
        if not found.is_found:
            raise ScanError(
                "motion: expected the bundle's reference volume in this one, with a "
                f"correlation of at least {MIN_CORRELATION:g}, found "
                f"{found.correlation:.2f}. Check participant and sequence"
            )
        values = self._reader.read(volume, found.matrix)
        is_inside = self._reader.is_inside
        bright = HEAD_SHARE * np.percentile(volume, BRIGHT_PERCENTILE)
        is_shown = is_inside & (values > bright)
        # Where the reference is dark, so may be the day's volume.
        wanted = self._is_head if self._is_head.any() else np.ones_like(self._is_head)
        overlap = float(is_shown[wanted].mean())
        if overlap < self._settings.min_overlap:
            raise ScanError(
                f"motion: expected at least {self._settings.min_overlap:.0%} of the "
                f"mask's voxels in the day's volumes, found {overlap:.0%} "
                f"({is_inside.mean():.0%} in the field of view). Move the slices"
            )
        self._overlap = overlap
        self._is_outside = ~is_inside
        self._settled = pose_from_matrix(found.matrix, self._centre_mm)

    def _settle(self, pose: Pose) -> bool:
        """Follow slow drift; tell a large step that stays from one that does not."""
        if displacement_mm(pose, self._settled) < self._settings.reposition_mm:
            self._away, self._settled = 0, pose
            return False
        self._away += 1
        if self._away < SUSTAINED:
            return False
        self._away, self._settled = 0, pose
        return True

    def state(self) -> State:
        """Return what `resume` needs to go on bit for bit; arrays are copies."""
        return {
            "version": STATE_VERSION,
            "pose": self._pose.copy(),
            "settled": self._settled.copy(),
            "away": self._away,
            "is_started": int(self._is_started),
            "overlap": self._overlap,
            "is_outside": self._is_outside.copy(),
        }

    def resume(self, state: State) -> None:
        """Go on where `state` was taken, with the same reference, mask and settings.

        Raises:
            ConfigError: Another version, or an entry missing.
            TensorMismatchError: An array has another shape.
        """
        if state.get("version") != STATE_VERSION:
            raise ConfigError(
                f"motion state: expected version {STATE_VERSION}, found "
                f"{state.get('version')}. Restart the run"
            )
        try:
            pose = np.array(state["pose"], dtype=np.float64)
            settled = np.array(state["settled"], dtype=np.float64)
            is_outside = np.array(state["is_outside"], dtype=np.bool_)
            away, overlap = int(state["away"]), float(state["overlap"])
            is_started = bool(state["is_started"])
        except KeyError as error:
            raise ConfigError(f"motion state: expected {error}, found none") from error
        sizes = (pose.shape, settled.shape, is_outside.shape)
        if sizes != ((6,), (6,), self._is_outside.shape):
            raise TensorMismatchError(
                "motion state",
                expected=f"two poses and {self._is_outside.size} voxels",
                found=f"{sizes}",
            )
        self._pose, self._settled, self._is_outside = pose, settled, is_outside
        self._away, self._overlap, self._is_started = away, overlap, is_started
