"""From raw volumes to what the model eats: trial betas, or normalised volumes.

Two front ends, one per kind of bundle. Training makes its features with them, volume
by volume, and the live decoder uses the same ones: what was learned on is what is
served. Pure: no clock, no socket, no model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec import UNSET

from runtime.answers import RunGeometry, Trial
from runtime.arrays import Bool, Float32, Int64, is_whole
from runtime.errors import ConfigError, TensorMismatchError
from runtime.estimator import BetaEstimator, VolumeEstimator, told_confounds
from runtime.intake import Intake
from runtime.preprocess import (
    MEASURED_SHARE,
    CausalNormaliser,
    CausalStatistics,
    IncrementalTrialGlm,
    PercentSignal,
    TrialBeta,
    VoxelMask,
)
from runtime.preprocess.mask import require_finite
from runtime.preprocess.reference import Reference
from runtime.preprocess.responses import Responses, voxel_slice_times_s
from runtime.preprocess.timing import decision_volume, end_s

Voxels = Float32[np.ndarray, " voxels"]


EARLIEST: Final = 0.5
"""Of a trial's decision delay: before it, the response has hardly begun, and dividing
by next to nothing gives betas that look like none that a model has seen."""


@dataclass(frozen=True, slots=True)
class DueTrial:
    """A trial whose decision delay has passed."""

    trial: Trial
    beta: TrialBeta | None
    """None while the run's baseline is incomplete, or where too little of the trial's
    response was measured."""


class BetaFrontend:
    """One run of a beta bundle: percent signal, GLM, and trials as they fall due."""

    def __init__(
        self,
        mask: VoxelMask,
        estimator: BetaEstimator,
        run: RunGeometry,
        *,
        voxel_mm: tuple[float, float, float] | None = None,
        hrf_index: Int64[np.ndarray, " voxels"] | None = None,
        reference: Reference | None = None,
    ) -> None:
        """Allocate for the run.

        Args:
            mask: The decoded voxels.
            estimator: How a trial's response is estimated, and when.
            run: The run's geometry.
            voxel_mm: Sides of a voxel; only smoothing asks for them.
            hrf_index: Which response of the estimator's library each voxel has.
            reference: What motion is told against; only an estimator with motion asks.

        Raises:
            TensorMismatchError: The run's volumes do not fit the mask.
            ConfigError: The estimator asks for what is not given.
        """
        self._intake = Intake(mask, estimator, run, voxel_mm, reference)
        self._told = told_confounds(estimator)
        self._estimator, self._run = estimator, run
        self._confounds = (
            () if estimator.confounds is UNSET else tuple(estimator.confounds)
        )
        self._percent = PercentSignal(mask.voxels, estimator.baseline_volumes)
        self._glm = IncrementalTrialGlm(
            mask.voxels,
            tr_s=run.tr_s,
            expected_volumes=run.expected_volumes,
            # A stimulus a volume is more than any event-related design shows.
            max_trials=run.expected_volumes,
            drift_cutoff_s=estimator.drift_cutoff_s,
            confounds=len(self._confounds),
            responses=_responses(mask, estimator, run, hrf_index),
        )
        self._is_taken = np.zeros(run.expected_volumes, dtype=np.bool_)
        self._signal = np.empty(mask.voxels, dtype=np.float32)
        self._open: list[tuple[int, Trial]] = []

    @property
    def invalid_voxels(self) -> int:
        """Voxels whose baseline is not positive; they count as zero."""
        return self._percent.invalid_voxels

    def quality(self) -> dict[str, float]:
        """Return the measures of the last volume by name."""
        return {"invalid_voxels": float(self.invalid_voxels), **self._intake.named()}

    def degraded(self) -> tuple[str, ...]:
        """Return what was not as it should be with the last volume."""
        return self._intake.degraded()

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

    def add_volume(
        self,
        volume_index: int,
        volume: np.ndarray,
        confounds: Mapping[str, float] | None = None,
    ) -> list[DueTrial]:
        """Take a volume and return the trials that are due with it.

        Args:
            volume_index: Acquisition index.
            volume: x, y, z.
            confounds: Values by name; those that the estimator does not name, or that
                its motion measures, are not looked at.

        Raises:
            TensorMismatchError: Another shape or dtype, a decoded voxel or a confound
                that is not finite, a confound that is not given, or an index taken
                before or outside the announced run; nothing has changed.
            ScanError: As of `Intake.take`; nothing has changed.
        """
        # The GLM, which checks the same, never sees the volumes of the baseline.
        _require_new(volume_index, self._is_taken)
        told = dict(confounds or {})
        self._require_told(told)
        # A baseline of zero makes a voxel that no volume shows invalid.
        voxels = self._intake.take(volume_index, volume, 0.0)
        told |= self._intake.confounds()
        values = np.array([told[name] for name in self._confounds], np.float64)
        self._is_taken[volume_index] = True
        if not self._intake.is_dropped:
            signal = self._percent.update(voxels, out=self._signal)
            if signal is not None:
                self._glm.update(volume_index, signal, values)
        return self._due(volume_index)

    def early(self, trial_id: str) -> TrialBeta | None:
        """Return what the volumes so far say of a trial that is not due yet.

        An estimate of what `add_volume` returns later, from fewer volumes and so with
        a larger standard error. It changes nothing.

        Args:
            trial_id: One that was announced.

        Returns:
            None where the trial is due already or unknown, where nothing is known of
            it, or before `EARLIEST` of its decision delay.
        """
        known = next((t for _, t in self._open if t.trial_id == trial_id), None)
        if known is None or not self._is_taken.any():
            return None
        newest = int(np.flatnonzero(self._is_taken)[-1])
        delay_s = end_s(newest, self._run.tr_s) - known.onset_s
        if delay_s < EARLIEST * self._estimator.decision_delay_s:
            return None
        return self._estimate(known, newest)

    def _require_told(self, confounds: Mapping[str, float]) -> None:
        lacking = [name for name in self._told if name not in confounds]
        if lacking:
            raise TensorMismatchError(
                "confounds",
                expected=f"{', '.join(self._told)} with every volume",
                found=f"no {', '.join(lacking)}",
            )
        values = np.array([confounds[name] for name in self._told], np.float64)
        require_finite("confounds", values)

    def skip_volume(self, volume_index: int) -> list[DueTrial]:
        """Pass over a volume that never came: a row that does not exist.

        Raises:
            TensorMismatchError: An index outside the announced run.
        """
        _require_inside(volume_index, self._is_taken.size)
        return self._due(volume_index)

    def undecided(self) -> list[Trial]:
        """Return the trials that were announced and are not due yet."""
        return [trial for _, trial in self._open]

    def _due(self, volume_index: int) -> list[DueTrial]:
        ready = [entry for entry in self._open if entry[0] <= volume_index]
        self._open = [entry for entry in self._open if entry[0] > volume_index]
        return [DueTrial(trial, self._estimate(trial, due)) for due, trial in ready]

    def _estimate(self, trial: Trial, until: int) -> TrialBeta | None:
        """Estimate a trial; None where too little of its response was measured."""
        if not self._percent.is_warm:
            return None
        if self._glm.measured_share(trial.trial_id, until) < MEASURED_SHARE:
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
        voxel_mm: tuple[float, float, float] | None = None,
        reference: Reference | None = None,
    ) -> None:
        """Start the run's own baseline.

        Args:
            mask: The bundle's voxels.
            estimator: Which centring, with its constants.
            run: The run's geometry.
            prior: Mean of the calibration runs.
            scale: Their residual standard deviation.
            voxel_mm: Sides of a voxel; only smoothing asks for them.
            reference: What motion is told against; only an estimator with motion asks.

        Raises:
            TensorMismatchError: The run's volumes do not fit the mask.
            ConfigError: The estimator asks for what is not given.
        """
        self._intake = Intake(mask, estimator, run, voxel_mm, reference)
        self._prior = prior
        statistics = CausalStatistics(
            prior, scale, estimator.kind, estimator.prior_weight, estimator.slope_sd
        )
        self._normaliser = CausalNormaliser(statistics, run.expected_volumes)
        self._is_taken = np.zeros(run.expected_volumes, dtype=np.bool_)

    def quality(self) -> dict[str, float]:
        """Return the measures of the last volume by name."""
        return self._intake.named()

    def degraded(self) -> tuple[str, ...]:
        """Return what was not as it should be with the last volume."""
        return self._intake.degraded()

    def add_volume(self, volume_index: int, volume: np.ndarray) -> Voxels:
        """Return the normalised voxels of a volume; indices may have gaps.

        Raises:
            TensorMismatchError: Another shape or dtype, a decoded voxel that is not
                finite, or an index taken before or outside the announced run; nothing
                has changed.
            ScanError: As of `Intake.take`; nothing has changed.
        """
        _require_new(volume_index, self._is_taken)
        # A voxel that no volume shows is what calibration expects of it.
        voxels = self._intake.take(volume_index, volume, self._prior)
        self._is_taken[volume_index] = True
        return self._normaliser.update(
            voxels, volume_index, is_outlier=self._intake.is_dropped
        )

    def skip_volume(self, volume_index: int) -> None:
        """Pass over a volume that never came; the baseline does not move.

        Raises:
            TensorMismatchError: An index outside the announced run.
        """
        _require_inside(volume_index, self._is_taken.size)


def _require_new(volume_index: int, is_taken: Bool[np.ndarray, " volumes"]) -> None:
    if not _is_inside(volume_index, is_taken.size) or is_taken[volume_index]:
        raise TensorMismatchError(
            "volume_index",
            expected=f"0 to {is_taken.size - 1}, each once",
            found=f"{volume_index}",
        )


def _require_inside(volume_index: int, size: int) -> None:
    if not _is_inside(volume_index, size):
        raise TensorMismatchError(
            "volume_index", expected=f"0 to {size - 1}", found=f"{volume_index}"
        )


def _is_inside(volume_index: int, size: int) -> bool:
    return is_whole(volume_index) and 0 <= volume_index < size


def _responses(
    mask: VoxelMask,
    estimator: BetaEstimator,
    run: RunGeometry,
    hrf_index: Int64[np.ndarray, " voxels"] | None,
) -> Responses:
    times_s = None
    if estimator.has_slice_times is True:
        if not run.slice_times_s:
            raise ConfigError(
                f"run {run.run_id}: expected the times of its slices, which the "
                "estimator asks for, found none. Announce them with the run"
            )
        times_s = voxel_slice_times_s(mask, run.slice_times_s, run.tr_s)
    if estimator.hrf_library is UNSET:
        return Responses.of(mask.voxels, (estimator.hrf,), slice_times_s=times_s)
    if hrf_index is None:
        raise ConfigError(
            f"hrf_library: expected which of {len(estimator.hrf_library)} responses "
            "each voxel has, found no choice. Choose them in training runs"
        )
    return Responses.of(
        mask.voxels, estimator.hrf_library, hrf_index=hrf_index, slice_times_s=times_s
    )
