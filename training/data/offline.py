"""Offline betas for comparison: least squares separate over whole runs, by nilearn.

They have seen the whole run, which no server ever has; a manifest names them so.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from jaxtyping import Float32, Float64
from msgspec import UNSET

from runtime.errors import BackendError, ConfigError, RecordingError
from runtime.estimator import BetaEstimator
from runtime.preprocess import MEASURED_SHARE
from runtime.preprocess.timing import decision_volume, middles_s
from runtime.recording import RecordedEvent, RecordedRun, Recording
from training.data.bids_splits import is_within, mostly_outside
from training.features import TrialBetas
from training.measured import Measured

OPTIONS: Final = (
    "smoothing_fwhm_mm",
    "spike_ratio",
    "has_slice_times",
    "hrf_library",
    "confounds",
    "motion",
)
"""Of an estimator, what causal betas alone have."""


def offline_betas(
    recording: Recording,
    estimator: BetaEstimator,
    on_run: Callable[[int, int], None] | None = None,
) -> TrialBetas:
    """Estimate every trial from the whole of its run, in percent of the run's mean.

    Trials whose onset is outside their run are left out, and so are those that begin
    less than the decision delay before it ends: causal betas have none of them, and of
    a response that was hardly seen least squares makes a beta of any size. For the same
    reason those are left out of whose response most lies in missing volumes
    (`MEASURED_SHARE`).

    One design a trial: its own regressor, one for all others (Mumford et al., 2012), a
    constant and cosines; SPM's HRF, ordinary least squares. Missing volumes are rows
    that do not exist.

    Args:
        recording: Runs with events.
        estimator: Only its `drift_cutoff_s` and `decision_delay_s` are used.
        on_run: Told after each run.

    Raises:
        BackendError: nilearn is missing.
        RecordingError: There is no trial, a masked voxel is 0 throughout a run, or a
            run holds no measurement of its own (`Measured`).
    """
    glm = _library()
    betas: list[Float32[np.ndarray, " voxels"]] = []
    runs: list[int] = []
    events: list[RecordedEvent] = []
    measured = Measured()
    for number, run in enumerate(recording.runs):
        within = [event for event in run.events if is_within(event, run)]
        seen = [i for i, event in enumerate(within) if _is_seen(event, run, estimator)]
        if seen:
            signal = _percent(run, measured, recording)
            found = _run_betas(glm, run, within, seen, signal, estimator)
            betas += found.values()
            runs += [number] * len(found)
            events += [within[i] for i in found]
        if on_run is not None:
            on_run(number + 1, len(recording.runs))
    if not betas:
        gap = ", and not in a gap" if any(run.missing for run in recording.runs) else ""
        raise RecordingError(
            f"{recording.folder}: expected trials that begin in their run and "
            f"{estimator.decision_delay_s:g} s before it ends{gap}, found "
            f"{mostly_outside(recording.runs) or 'none'}"
        )
    return TrialBetas(np.stack(betas), np.array(runs, dtype=np.int64), tuple(events))


def offline_detail(estimator: BetaEstimator) -> str:
    """Return what decides these betas, for the manifest."""
    import nilearn

    return (
        f"nilearn {nilearn.__version__}, least squares separate over whole runs, "
        f"ordinary least squares, SPM HRF, cosines above {estimator.drift_cutoff_s:g} s"
    )


def require_plain(estimator: BetaEstimator) -> None:
    """Refuse what would be asked for and not done.

    Raises:
        ConfigError: Naming the first option.
    """
    for name in OPTIONS:
        if getattr(estimator, name) is not UNSET:
            raise ConfigError(
                f"estimator.{name}: expected none with offline betas, which take the "
                "drift cutoff alone, found it set. Leave it out, or use causal betas"
            )


def _is_seen(event: RecordedEvent, run: RecordedRun, estimator: BetaEstimator) -> bool:
    due = decision_volume(event.onset_s, estimator.decision_delay_s, run.tr_s)
    return due < run.volume_count


def _percent(
    run: RecordedRun, measured: Measured, recording: Recording
) -> Float64[np.ndarray, "times voxels"]:
    volumes = run.volumes()
    measured.look(run, volumes)
    there = volumes[run.measured]
    rows = np.stack([recording.mask.select(volume) for volume in there])
    mean = rows.mean(axis=0, dtype=np.float64)
    if (mean == 0).any():
        raise RecordingError(
            f"{run.file}: voxels: expected a signal in every masked voxel, "
            f"found {int((mean == 0).sum())} that are 0 on average"
        )
    percent: Float64[np.ndarray, "times voxels"] = 100 * (rows / mean - 1)
    return percent


def _run_betas(
    glm: Any,
    run: RecordedRun,
    events: list[RecordedEvent],
    trials: list[int],
    signal: Float64[np.ndarray, "times voxels"],
    estimator: BetaEstimator,
) -> dict[int, Float32[np.ndarray, " voxels"]]:
    """Return the betas of those trials that were measured, by their place in events."""
    import pandas as pd

    times = middles_s(run.volume_count, run.tr_s)
    onsets = [event.onset_s for event in events]
    durations = [event.duration_s for event in events]
    betas = {}
    # All events explain the signal, those too that are no trials.
    for trial in trials:
        kinds = ["other"] * len(onsets)
        kinds[trial] = "trial"
        table = pd.DataFrame(
            {"onset": onsets, "duration": durations, "trial_type": kinds}
        )
        design = glm.make_first_level_design_matrix(
            times,
            table,
            hrf_model="spm",
            drift_model="cosine",
            high_pass=1 / estimator.drift_cutoff_s,
        )
        rows, column = design.to_numpy(), list(design.columns).index("trial")
        squares = rows[:, column] ** 2
        if squares[run.measured].sum() > MEASURED_SHARE * squares.sum():
            weights = np.linalg.pinv(rows[run.measured])[column]
            betas[trial] = (weights @ signal).astype(np.float32)
    return betas


def _library() -> Any:
    try:
        from nilearn.glm import first_level
    except ImportError as error:
        raise BackendError(
            "nilearn: expected it for --betas offline, found it missing. "
            "Install neuroflow-rt[dev]"
        ) from error
    return first_level
