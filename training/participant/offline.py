"""Batch estimates from whole runs: single-trial betas by least squares separate.

An independent, float64 reference for the ceilings and for what a streaming estimator
must equal. Each trial has its own model with two regressors, itself and the sum of all
other trials (Mumford et al. 2012, "LS-S"), beside the drift.
"""

import math

import numpy as np
from jaxtyping import Float64

from training.participant.folder import ParticipantFolder, RunFiles
from training.participant.response import HRF_DT_S, HRF_LENGTH_S, stimulus_response

Series = Float64[np.ndarray, "times voxels"]
Betas = Float64[np.ndarray, "trials voxels"]
DRIFT_PERIOD_S = 128.0  # SPM's default high-pass cut-off


def percent_series(volumes: Series, first_s: float, tr_s: float) -> Series:
    """Return percent change from the mean of the rest before `first_s`."""
    baseline = volumes[: max(1, round(first_s / tr_s))].mean(axis=0)
    return np.asarray(100 * (volumes / np.maximum(baseline, 1.0) - 1))


def drift_basis(n_volumes: int, tr_s: float) -> Float64[np.ndarray, "times columns"]:
    """Return a constant and cosines slower than `DRIFT_PERIOD_S`."""
    columns = 1 + math.floor(2 * n_volumes * tr_s / DRIFT_PERIOD_S)
    phase = math.pi * (np.arange(n_volumes)[:, None] + 0.5) / n_volumes
    return np.asarray(np.cos(phase * np.arange(columns)))


def trial_regressors(
    onsets_s: list[float],
    n_volumes: int,
    tr_s: float,
    *,
    peak_s: float = 5.0,
    stimulus_s: float = 2.0,
) -> Float64[np.ndarray, "times trials"]:
    """Return the assumed response to every trial at the middle of every volume."""
    hrf = stimulus_response(np.array([peak_s]), stimulus_s, 1 / 6)[:, 0]
    after = (np.arange(n_volumes)[:, None] + 0.5) * tr_s - np.array(onsets_s)
    samples = np.clip(np.rint(after / HRF_DT_S).astype(int), 0, len(hrf) - 1)
    inside = (after >= -1e-9) & (after <= HRF_LENGTH_S)
    return np.asarray(np.where(inside, hrf[samples], 0.0))


def separate_betas(
    series: Series,
    regressors: Float64[np.ndarray, "times trials"],
    drift: Float64[np.ndarray, "times columns"],
) -> Betas:
    """Estimate every trial by its own two-regressor model, all volumes used."""
    basis, _ = np.linalg.qr(drift)
    x = regressors - basis @ (basis.T @ regressors)
    y = series - basis @ (basis.T @ series)
    others = x.sum(axis=1, keepdims=True) - x
    xx, oo, xo = (x * x).sum(0), (others * others).sum(0), (x * others).sum(0)
    xy, oy = x.T @ y, others.T @ y
    determinant = np.maximum(xx * oo - xo**2, 1e-9)
    return np.asarray((oo[:, None] * xy - xo[:, None] * oy) / determinant[:, None])


def delayed_betas(
    series: Series,
    regressors: Float64[np.ndarray, "times trials"],
    drift: Float64[np.ndarray, "times columns"],
    last_volumes: list[int],
) -> Betas:
    """Estimate each trial from the volumes up to its own `last_volumes` only."""
    rows = []
    for trial, last in enumerate(last_volumes):
        n = min(last + 1, len(series))
        seen = regressors[:n]
        others = seen.sum(axis=1) - seen[:, trial]
        design = np.column_stack([seen[:, trial], others, drift[:n]])
        rows.append(np.linalg.lstsq(design, series[:n], rcond=None)[0][0])
    return np.stack(rows)


def run_betas(
    folder: ParticipantFolder, run: RunFiles, delay_s: float | None = None
) -> Betas:
    """Estimate a run's betas in percent, in event order.

    Args:
        folder: The participant.
        run: One of its runs.
        delay_s: Use only volumes that end this long after each onset or before; None
            means all.
    """
    series, onsets_s = masked_series(folder, run), [e.onset_s for e in run.events]
    percent = percent_series(series, min(onsets_s), run.tr_s)
    n = len(series)
    regressors = trial_regressors(
        onsets_s, n, run.tr_s, stimulus_s=run.events[0].duration_s
    )
    drift = drift_basis(n, run.tr_s)
    if delay_s is None:
        return separate_betas(percent, regressors, drift)
    last = [math.floor((onset + delay_s) / run.tr_s + 1e-9) - 1 for onset in onsets_s]
    return delayed_betas(percent, regressors, drift, last)


def masked_series(folder: ParticipantFolder, run: RunFiles) -> Series:
    """Read a run's decoding voxels."""
    return np.asarray(run.volumes()[folder.mask()].T, dtype=np.float64)
