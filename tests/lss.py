"""Least squares separate on a whole run at once, in float64, by definition.

Shares no code with `runtime`: the response is integrated numerically, columns are
chosen by projections from lstsq, and everything is one matrix.
"""

import functools

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.stats import gamma

PIVOT_TOLERANCE = 1e-4


@functools.cache
def area_spline(peak_s=6.0):
    """The integral from 0 of SPM's canonical response, on a grid of a millisecond."""
    times_s = np.linspace(0, 32, 32001)
    density = gamma.pdf(times_s, peak_s) - gamma.pdf(times_s, 16) / 6
    return CubicSpline(times_s, density / (1 - 1 / 6)).antiderivative()


def regressor(onset_s, duration_s, tr_s, volumes, sample_s=None, peak_s=6.0):
    sample_s = tr_s / 2 if sample_s is None else sample_s
    since_s = np.arange(volumes) * tr_s + sample_s - onset_s
    area = area_spline(peak_s)
    # The response is cut after 32 s.
    return area(np.clip(since_s, 0, 32)) - area(np.clip(since_s - duration_s, 0, 32))


def cosines(volumes, tr_s, cutoff_s):
    middles = (np.arange(volumes) + 0.5) / volumes
    order = int(2 * volumes * tr_s / cutoff_s + 1e-9)
    return np.sqrt(2) * np.cos(np.pi * np.outer(middles, np.arange(1, order + 1)))


def kept_columns(X):
    """The documented rule: a column stays where earlier ones do not explain it."""
    # A trial that has just begun weighs 1e-15, which lstsq would take for nothing.
    norms = np.linalg.norm(X, axis=0)
    X = X / np.where(norms > 0, norms, 1.0)
    kept = []
    for column in range(X.shape[1]):
        if len(kept) + 1 >= X.shape[0]:
            break
        x = X[:, column]
        rest = x
        if kept:
            rest = x - X[:, kept] @ np.linalg.lstsq(X[:, kept], x, rcond=None)[0]
        if x @ x > 0 and rest @ rest > PIVOT_TOLERANCE * (x @ x):
            kept.append(column)
    return kept


def percent_signal(run, taken, baseline_volumes):
    """Percent of the mean of the first volumes that came; rows without those."""
    baseline = run[taken[:baseline_volumes]].astype(np.float64).mean(axis=0)
    rows = taken[baseline_volumes:]
    return rows, 100 * (run[rows].astype(np.float64) / baseline - 1)


def trial_beta(
    run, taken, trial, others, estimator, tr_s, *, decision=None, confounds=None,
    **response,
):  # fmt: skip
    """Return one trial's beta from the rows of `run` named by `taken`, or None.

    Args:
        run: Every volume's voxels, ``[volumes, voxels]``.
        taken: Volumes that came up to the decision, in order.
        trial: The trial of interest.
        others: All other trials that are known at the decision.
        estimator: Delay, baseline and cut-off.
        tr_s: Repetition time.
        decision: Volume with which the trial is due: there is none where less than a
            quarter of its regressor's squares up to there was measured.
        confounds: Every volume's, ``[volumes, confounds]``.
        response: What `regressor` is told of all voxels.
    """
    volumes = len(run)
    if len(taken) < estimator.baseline_volumes:
        return None
    rows, signal = percent_signal(run, taken, estimator.baseline_volumes)
    if not len(rows):
        return None
    columns = [
        np.ones(volumes),
        regressor(trial.onset_s, trial.duration_s, tr_s, volumes, **response),
    ]
    squares = columns[1] ** 2
    if decision is not None:
        whole = squares[: decision + 1].sum()
        if squares[[row for row in rows if row <= decision]].sum() < whole / 4:
            return None
    rest = [
        regressor(o.onset_s, o.duration_s, tr_s, volumes, **response) for o in others
    ]
    columns.append(np.sum(rest, axis=0) if rest else np.zeros(volumes))
    drift = cosines(volumes, tr_s, estimator.drift_cutoff_s)
    nuisance = [] if confounds is None else [confounds - confounds[rows[0]]]
    X = np.column_stack((*columns, drift, *nuisance))[rows]
    kept = kept_columns(X)
    if 1 not in kept:
        return None
    found = np.linalg.lstsq(X[:, kept], signal, rcond=None)[0]
    return found[kept.index(1)]
