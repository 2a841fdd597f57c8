"""Recordings to training features, through the front ends that serve live.

Volume by volume and causally: a model learns from exactly what a rig will show it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, Shaped
from msgspec import UNSET

from runtime.answers import RunGeometry, Trial
from runtime.errors import RecordingError
from runtime.estimator import (
    BetaEstimator,
    VolumeEstimator,
    motion_of,
    told_confounds,
)
from runtime.frontend import BetaFrontend, DueTrial, VolumeFrontend
from runtime.preprocess import AffineNormaliser, CausalStatistics, VoxelMask
from runtime.preprocess.reference import (
    REFERENCE_VOLUMES,
    Reference,
    reference_from_volumes,
)
from runtime.preprocess.register import Grid
from runtime.preprocess.smooth import MaskSmoothing, voxel_sizes_mm
from runtime.recording import RecordedEvent, RecordedRun, Recording, timeline
from runtime.voxel_source import VoxelSource
from training.data.bids_splits import mostly_outside
from training.measured import Measured

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
    affine = tuple(float(number) for number in run.affine.ravel())
    return RunGeometry(
        run.run_id,
        run.shape,
        run.tr_s,
        run.volume_count,
        slice_times_s=times_s,
        affine=affine,
    )


def reference_of(
    run: RecordedRun, estimator: BetaEstimator | VolumeEstimator
) -> Reference | None:
    """Return what motion is told against where a model learns from this run first.

    The mean of the run's first volumes that are there, aligned; None without motion.

    Raises:
        ScanError: They do not show one head that lies still.
        ConfigError: The run has no affine with an inverse.
        TensorMismatchError: They show no head.
    """
    motion = motion_of(estimator)
    if motion is None:
        return None
    grid = Grid(run.shape, run.affine)
    first = run.measured[:REFERENCE_VOLUMES]
    return reference_from_volumes(run.volumes()[first], grid, motion)


def mask_voxel_mm(
    run: RecordedRun, reference: Reference | None
) -> tuple[float, float, float]:
    """Return the sides of the mask's voxels: the reference's, or else the run's."""
    return voxel_sizes_mm(run.affine if reference is None else reference.affine)


def trial_betas(
    recording: Recording,
    estimator: BetaEstimator,
    on_run: Progress | None = None,
    *,
    hrf_index: Int64[np.ndarray, " voxels"] | None = None,
    reference: Reference | None = None,
) -> TrialBetas:
    """Estimate every trial of a recording as a live decoder would have.

    Trials that a live decoder could not have estimated (the run ended before their
    delay, or its baseline was incomplete) are left out.

    Args:
        recording: Runs with events.
        estimator: The bundle's estimator.
        on_run: Told after each run.
        hrf_index: Which response of the estimator's library each voxel has.
        reference: What motion is told against: a bundle's, or `reference_of` the
            first run to learn from; no estimator without motion looks at it.

    Raises:
        RecordingError: Not one trial could be estimated, or a run holds no measurement
            of its own (`Measured`).
        ConfigError: The estimator corrects motion, and there is no reference.
        ScanError: A run does not show the reference or its mask.
    """
    betas: list[Float32[np.ndarray, " voxels"]] = []
    runs: list[int] = []
    events: list[RecordedEvent] = []
    measured = Measured()
    for number, run in enumerate(recording.runs):
        by_id = {event.trial_id: event for event in run.events}
        for due in _due_trials(
            run, measured, recording.mask, estimator, hrf_index, reference
        ):
            if due.beta is not None:
                betas.append(due.beta.beta)
                runs.append(number)
                events.append(by_id[due.trial.trial_id])
        if on_run is not None:
            on_run(number + 1, len(recording.runs))
    if not betas:
        raise RecordingError(
            f"{recording.folder}: expected trials that end "
            f"{estimator.decision_delay_s:g} s before their run does, found "
            f"{mostly_outside(recording.runs) or 'none'}"
        )
    return TrialBetas(np.stack(betas), np.array(runs, dtype=np.int64), tuple(events))


def _due_trials(
    run: RecordedRun,
    measured: Measured,
    mask: VoxelMask,
    estimator: BetaEstimator,
    hrf_index: Int64[np.ndarray, " voxels"] | None,
    reference: Reference | None,
) -> list[DueTrial]:
    frontend = BetaFrontend(
        mask,
        estimator,
        geometry(run),
        voxel_mm=mask_voxel_mm(run, reference),
        hrf_index=hrf_index,
        reference=reference,
    )
    confounds = run.confounds(told_confounds(estimator))
    volumes, due = run.volumes(), []
    if run.events:
        measured.look(run, volumes)
    for item in timeline(run):
        if isinstance(item, RecordedEvent):
            frontend.add_trial(Trial(item.trial_id, item.onset_s, item.duration_s))
        elif item in run.missing:
            due += frontend.skip_volume(item)
        else:
            due += frontend.add_volume(item, volumes[item], confounds[item])
    return due


def fit_normaliser(trials: TrialBetas) -> AffineNormaliser:
    """Fit mean and scale of the betas of the training trials."""
    return AffineNormaliser.fit(trials.betas)


def volume_statistics(
    runs: Sequence[RecordedRun],
    mask: VoxelMask,
    estimator: VolumeEstimator,
    reference: Reference | None = None,
) -> CausalStatistics:
    """Fit what the causal normalisation of volumes takes from calibration runs."""
    masked = [
        masked_volumes(run, run.volumes()[run.measured], mask, estimator, reference)
        for run in runs
    ]
    return CausalStatistics.fit(
        masked, estimator.kind, estimator.prior_weight, estimator.slope_sd
    )


def masked_volumes(
    run: RecordedRun,
    volumes: Shaped[np.ndarray, "times x y z"],
    mask: VoxelMask,
    estimator: BetaEstimator | VolumeEstimator,
    reference: Reference | None = None,
) -> Float32[np.ndarray, "times voxels"]:
    """Return masked voxels of a run's volumes, as registered and smoothed.

    Args:
        run: Of which the volumes are.
        volumes: Those that are not missing, in order.
        mask: The voxels.
        estimator: The bundle's.
        reference: What motion is told against.
    """
    source = VoxelSource(mask, estimator.motion, geometry(run), reference)
    rows = np.stack([source.take(volume).copy() for volume in volumes])
    if estimator.smoothing_fwhm_mm is not UNSET:
        smoothing = MaskSmoothing(
            mask, mask_voxel_mm(run, reference), estimator.smoothing_fwhm_mm
        )
        for row in rows:
            smoothing(row, out=row)
    return rows


def volume_features(
    run: RecordedRun,
    mask: VoxelMask,
    estimator: VolumeEstimator,
    statistics: CausalStatistics,
    reference: Reference | None = None,
) -> Float32[np.ndarray, "times voxels"]:
    """Normalise the volumes of one run as a live decoder would have.

    Those that are missing have no row.
    """
    frontend = VolumeFrontend(
        mask,
        estimator,
        geometry(run),
        prior=statistics.prior,
        scale=statistics.scale,
        voxel_mm=mask_voxel_mm(run, reference),
        reference=reference,
    )
    volumes = run.volumes()
    return np.stack([frontend.add_volume(i, volumes[i]) for i in run.measured.tolist()])
