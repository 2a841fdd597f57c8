"""From raw volumes to what the model eats: trial betas, or normalised volumes.

Two front ends, one per kind of bundle. Training makes its features with them, volume
by volume, and the live decoder uses the same ones: what was learned on is what is
served. Pure: no clock, no socket, no model.
"""

from dataclasses import dataclass

import numpy as np

from runtime.answers import RunGeometry, Trial
from runtime.arrays import Float32
from runtime.errors import TensorMismatchError
from runtime.estimator import BetaEstimator, VolumeEstimator
from runtime.preprocess import (
    CausalNormaliser,
    CausalStatistics,
    IncrementalTrialGlm,
    PercentSignal,
    TrialBeta,
    VoxelMask,
)
from runtime.preprocess.timing import decision_volume

Voxels = Float32[np.ndarray, " voxels"]


@dataclass(frozen=True, slots=True)
class DueTrial:
    """A trial whose decision delay has passed."""

    trial: Trial
    beta: TrialBeta | None
    """None while the run's baseline is incomplete, or nothing was seen of the trial."""


def require_geometry(mask: VoxelMask, run: RunGeometry) -> None:
    """Refuse a run whose volumes are not those of the mask.

    Raises:
        TensorMismatchError: Another shape.
    """
    if run.shape != mask.shape:
        raise TensorMismatchError(
            f"run {run.run_id}", expected=f"volumes {mask.shape}", found=str(run.shape)
        )


class BetaFrontend:
    """One run of a beta bundle: percent signal, GLM, and trials as they fall due."""

    def __init__(
        self, mask: VoxelMask, estimator: BetaEstimator, run: RunGeometry
    ) -> None:
        """Allocate for the run.

        Raises:
            TensorMismatchError: The run's volumes do not fit the mask.
        """
        require_geometry(mask, run)
        self._mask, self._estimator, self._run = mask, estimator, run
        self._percent = PercentSignal(mask.voxels, estimator.baseline_volumes)
        self._glm = IncrementalTrialGlm(
            mask.voxels,
            tr_s=run.tr_s,
            expected_volumes=run.expected_volumes,
            # A stimulus a volume is more than any event-related design shows.
            max_trials=run.expected_volumes,
            hrf=estimator.hrf,
            drift_cutoff_s=estimator.drift_cutoff_s,
        )
        self._is_taken = np.zeros(run.expected_volumes, dtype=np.bool_)
        self._voxels = np.empty(mask.voxels, dtype=np.float32)
        self._signal = np.empty(mask.voxels, dtype=np.float32)
        self._open: list[tuple[int, Trial]] = []

    @property
    def invalid_voxels(self) -> int:
        """Voxels whose baseline is not positive; they count as zero."""
        return self._percent.invalid_voxels

    def add_trial(self, trial: Trial) -> None:
        """Announce a stimulus.

        Raises:
            LateTrialError: It affects volumes that are no longer remembered.
            UsageError: The trial is known already.
        """
        self._glm.add_trial(trial.trial_id, trial.onset_s, trial.duration_s)
        due = decision_volume(
            trial.onset_s, self._estimator.decision_delay_s, self._run.tr_s
        )
        self._open.append((due, trial))

    def add_volume(self, volume_index: int, volume: np.ndarray) -> list[DueTrial]:
        """Take a volume and return the trials that are due with it.

        Raises:
            TensorMismatchError: Another shape or dtype, or an index taken before or
                outside the announced run; nothing has changed.
        """
        size = self._is_taken.size
        # The GLM, which checks the same, never sees the volumes of the baseline.
        if not 0 <= volume_index < size or self._is_taken[volume_index]:
            raise TensorMismatchError(
                "volume_index",
                expected=f"0 to {size - 1}, each once",
                found=f"{volume_index}",
            )
        self._mask.select(volume, out=self._voxels)
        signal = self._percent.update(self._voxels, out=self._signal)
        self._is_taken[volume_index] = True
        if signal is not None:
            self._glm.update(volume_index, signal)
        return self._due(volume_index)

    def skip_volume(self, volume_index: int) -> list[DueTrial]:
        """Pass over a volume that never came: a row that does not exist."""
        return self._due(volume_index)

    def undecided(self) -> list[Trial]:
        """Return the trials that were announced and are not due yet."""
        return [trial for _, trial in self._open]

    def _due(self, volume_index: int) -> list[DueTrial]:
        ready = [trial for due, trial in self._open if due <= volume_index]
        self._open = [entry for entry in self._open if entry[0] > volume_index]
        return [DueTrial(trial, self._estimate(trial)) for trial in ready]

    def _estimate(self, trial: Trial) -> TrialBeta | None:
        if not self._percent.is_warm:
            return None
        beta = self._glm.estimate(trial.trial_id)
        return beta if beta.is_identified else None


class VolumeFrontend:
    """One run of a volume bundle: every volume, centred and scaled causally."""

    def __init__(
        self,
        mask: VoxelMask,
        estimator: VolumeEstimator,
        run: RunGeometry,
        *,
        prior: Voxels,
        scale: Voxels,
    ) -> None:
        """Start the run's own baseline.

        Args:
            mask: The bundle's voxels.
            estimator: Which centring, with its constants.
            run: The run's geometry.
            prior: Mean of the calibration runs.
            scale: Their residual standard deviation.

        Raises:
            TensorMismatchError: The run's volumes do not fit the mask.
        """
        require_geometry(mask, run)
        self._mask = mask
        statistics = CausalStatistics(
            prior, scale, estimator.kind, estimator.prior_weight, estimator.slope_sd
        )
        self._normaliser = CausalNormaliser(statistics, run.expected_volumes)
        self._voxels = np.empty(mask.voxels, dtype=np.float32)

    def add_volume(self, volume_index: int, volume: np.ndarray) -> Voxels:
        """Return the normalised voxels of a volume; indices may have gaps.

        Raises:
            TensorMismatchError: Another shape or dtype.
        """
        self._mask.select(volume, out=self._voxels)
        return self._normaliser.update(self._voxels, volume_index)
