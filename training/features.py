"""Recordings to training features, through the front ends that serve live.

Volume by volume and causally: a model learns from exactly what a rig will show it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int16, Int64
from msgspec import UNSET

from runtime.answers import RunGeometry, Trial
from runtime.errors import RecordingError
from runtime.estimator import BetaEstimator, VolumeEstimator
from runtime.frontend import BetaFrontend, DueTrial, VolumeFrontend
from runtime.preprocess import AffineNormaliser, CausalStatistics, VoxelMask
from runtime.preprocess.smooth import MaskSmoothing, voxel_sizes_mm
from runtime.recording import RecordedEvent, RecordedRun, Recording, timeline

Progress = Callable[[int, int], None]
"""Called with runs done and runs in all."""


@dataclass(frozen=True, slots=True, eq=False)
class TrialBetas:
    """One row a trial, in the order in which they fell due."""

    betas: Float32[np.ndarray, "trials voxels"]
    """Percent signal, at the estimator's delay; not normalised."""
    run: Int64[np.ndarray, " trials"]
    """Position of the trial's run in the recording."""
    events: tuple[RecordedEvent, ...]

    def select(self, split: str) -> "TrialBetas":
        """Return the trials of a split.

        Raises:
            RecordingError: There is none.
        """
        rows = [i for i, event in enumerate(self.events) if event.split == split]
        if not rows:
            found = ", ".join(sorted({event.split for event in self.events})) or "none"
            raise RecordingError(f"trials: expected split {split}, found {found}")
        events = tuple(self.events[i] for i in rows)
        return TrialBetas(self.betas[rows], self.run[rows], events)

    def __len__(self) -> int:
        """Return the number of trials."""
        return len(self.events)


def geometry(run: RecordedRun) -> RunGeometry:
    """Return what a server would be told of this run at its start."""
    # Whole microseconds, as the wire has them.
    times_s = tuple(round(1e6 * time_s) / 1e6 for time_s in run.slice_times_s)
    return RunGeometry(
        run.run_id, run.shape, run.tr_s, run.volume_count, slice_times_s=times_s
    )


def trial_betas(
    recording: Recording,
    estimator: BetaEstimator,
    on_run: Progress | None = None,
    *,
    hrf_index: Int64[np.ndarray, " voxels"] | None = None,
) -> TrialBetas:
    """Estimate every trial of a recording as a live decoder would have.

    Trials that a live decoder could not have estimated (the run ended before their
    delay, or its baseline was incomplete) are left out.

    Args:
        recording: Runs with events.
        estimator: The bundle's estimator.
        on_run: Told after each run.
        hrf_index: Which response of the estimator's library each voxel has.

    Raises:
        RecordingError: Not one trial could be estimated.
    """
    betas: list[Float32[np.ndarray, " voxels"]] = []
    runs: list[int] = []
    events: list[RecordedEvent] = []
    for number, run in enumerate(recording.runs):
        by_id = {event.trial_id: event for event in run.events}
        for due in _due_trials(run, recording.mask, estimator, hrf_index):
            if due.beta is not None:
                betas.append(due.beta.beta)
                runs.append(number)
                events.append(by_id[due.trial.trial_id])
        if on_run is not None:
            on_run(number + 1, len(recording.runs))
    if not betas:
        raise RecordingError(
            f"{recording.folder}: expected trials that end "
            f"{estimator.decision_delay_s:g} s before their run does, found none"
        )
    return TrialBetas(np.stack(betas), np.array(runs, dtype=np.int64), tuple(events))


def _due_trials(
    run: RecordedRun,
    mask: VoxelMask,
    estimator: BetaEstimator,
    hrf_index: Int64[np.ndarray, " voxels"] | None,
) -> list[DueTrial]:
    frontend = BetaFrontend(
        mask,
        estimator,
        geometry(run),
        voxel_mm=voxel_sizes_mm(run.affine),
        hrf_index=hrf_index,
    )
    names = () if estimator.confounds is UNSET else estimator.confounds
    confounds = run.confounds(names)
    volumes, due = run.volumes(), []
    for item in timeline(run):
        if isinstance(item, RecordedEvent):
            frontend.add_trial(Trial(item.trial_id, item.onset_s, item.duration_s))
        else:
            due += frontend.add_volume(item, volumes[item], confounds[item])
    return due


def fit_normaliser(trials: TrialBetas) -> AffineNormaliser:
    """Fit mean and scale of the betas of the training trials."""
    return AffineNormaliser.fit(trials.betas)


def volume_statistics(
    runs: Sequence[RecordedRun], mask: VoxelMask, estimator: VolumeEstimator
) -> CausalStatistics:
    """Fit what the causal normalisation of volumes takes from calibration runs."""
    masked = [
        masked_volumes(run.volumes(), mask, run.affine, estimator) for run in runs
    ]
    return CausalStatistics.fit(
        masked, estimator.kind, estimator.prior_weight, estimator.slope_sd
    )


def masked_volumes(
    volumes: Int16[np.ndarray, "times x y z"],
    mask: VoxelMask,
    affine: Float64[np.ndarray, "4 4"],
    estimator: BetaEstimator | VolumeEstimator,
) -> Float32[np.ndarray, "times voxels"]:
    """Return a run's masked voxels, smoothed where the estimator smooths."""
    rows = np.stack([mask.select(volume) for volume in volumes])
    if estimator.smoothing_fwhm_mm is not UNSET:
        smoothing = MaskSmoothing(
            mask, voxel_sizes_mm(affine), estimator.smoothing_fwhm_mm
        )
        for row in rows:
            smoothing(row, out=row)
    return rows


def volume_features(
    run: RecordedRun,
    mask: VoxelMask,
    estimator: VolumeEstimator,
    statistics: CausalStatistics,
) -> Float32[np.ndarray, "times voxels"]:
    """Normalise the volumes of one run as a live decoder would have."""
    frontend = VolumeFrontend(
        mask,
        estimator,
        geometry(run),
        prior=statistics.prior,
        scale=statistics.scale,
        voxel_mm=voxel_sizes_mm(run.affine),
    )
    return np.stack(
        [frontend.add_volume(i, volume) for i, volume in enumerate(run.volumes())]
    )
