"""Which response of a library each voxel has, judged on training runs.

For each response a general linear model with one column a trial, drift and confounds
is fitted to whole runs; a voxel has the response that leaves least unexplained, summed
over runs (the second step of GLMsingle: Prince et al. 2022, "Improving the accuracy of
single-trial fMRI response estimates using GLMsingle"). All models have as many columns,
so none is favoured. What a trial showed is not asked for.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64
from msgspec import UNSET

from runtime.errors import RecordingError
from runtime.estimator import BetaEstimator, told_confounds
from runtime.preprocess import Hrf, Responses, VoxelMask, cosine_drift
from runtime.preprocess.reference import Reference
from runtime.preprocess.responses import voxel_slice_times_s
from runtime.recording import RecordedRun
from training.features import masked_volumes


def choose_responses(
    runs: Sequence[RecordedRun],
    mask: VoxelMask,
    estimator: BetaEstimator,
    reference: Reference | None = None,
) -> Int64[np.ndarray, " voxels"] | None:
    """Return each voxel's place in the estimator's library; None without one.

    Args:
        runs: Training runs with events.
        mask: The decoded voxels.
        estimator: Its drift, smoothing, slice times and confounds are those of the
            models compared; motion that is measured here is not among the confounds.
        reference: What motion is told against.

    Raises:
        RecordingError: No run has events, or a run has more columns than volumes.
    """
    if estimator.hrf_library is UNSET:
        return None
    if not any(run.events for run in runs):
        raise RecordingError(
            "hrf_library: expected training runs with events, found none"
        )
    unexplained = np.zeros((len(estimator.hrf_library), mask.voxels))
    for run in runs:
        there = run.measured
        rows = masked_volumes(run, run.volumes()[there], mask, estimator, reference)
        mean = rows.mean(axis=0, dtype=np.float64)
        signal = 100.0 * (rows / np.where(mean > 0, mean, np.inf) - (mean > 0))
        nuisance = _nuisance(run, estimator)
        for kind, hrf in enumerate(estimator.hrf_library):
            responses = _responses(run, mask, estimator, hrf)
            for group in range(len(responses.hrfs)):
                chosen = responses.group == group
                design = np.column_stack((nuisance, _trials(run, responses, group)))
                unexplained[kind, chosen] += _unexplained(
                    design[there], signal[:, chosen]
                )
    return np.asarray(np.argmin(unexplained, axis=0), dtype=np.int64)


def _responses(
    run: RecordedRun, mask: VoxelMask, estimator: BetaEstimator, hrf: Hrf
) -> Responses:
    times_s = None
    if estimator.has_slice_times is True:
        times_s = voxel_slice_times_s(mask, run.slice_times_s, run.tr_s)
    return Responses.of(mask.voxels, (hrf,), slice_times_s=times_s)


def _nuisance(
    run: RecordedRun, estimator: BetaEstimator
) -> Float64[np.ndarray, "volumes columns"]:
    drift = cosine_drift(run.volume_count, run.tr_s, estimator.drift_cutoff_s)
    names = told_confounds(estimator)
    if not names:
        return drift
    lines = run.confounds(names)
    values = np.array([[line[name] for name in names] for line in lines])
    return np.column_stack((drift, values - values[run.measured].mean(axis=0)))


def _trials(
    run: RecordedRun, responses: Responses, group: int
) -> Float64[np.ndarray, "volumes trials"]:
    columns = [
        responses.regressors(
            event.onset_s, event.duration_s, run.tr_s, run.volume_count
        )[group]
        for event in run.events
    ]
    return np.stack(columns, axis=1)


def _unexplained(
    design: Float64[np.ndarray, "volumes columns"],
    signal: Float64[np.ndarray, "volumes voxels"],
) -> Float64[np.ndarray, " voxels"]:
    if design.shape[1] >= design.shape[0]:
        raise RecordingError(
            "hrf_library: expected fewer trials, drifts and confounds than volumes, "
            f"found {design.shape[1]} columns for {design.shape[0]}"
        )
    basis, triangle = np.linalg.qr(design)
    # A trial after the run's end has a column of zeros, and explains nothing.
    sizes = np.abs(np.diag(triangle))
    basis = basis[:, sizes > 1e-9 * sizes.max()]
    explained = np.square(basis.T @ signal).sum(axis=0)
    return np.asarray(np.square(signal).sum(axis=0) - explained)
