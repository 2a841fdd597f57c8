"""Ridge regression, the baseline that every claim stands beside.

Centred inputs and targets, one penalty for all targets, chosen inside the training
data by leaving out whole groups (runs), never single trials of a run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

PENALTIES = tuple(float(p) for p in np.logspace(0, 6, 13))
"""Penalties tried by default: 1 to a million, two a decade."""

Inputs = Float[np.ndarray, "samples inputs"]
Targets = Float[np.ndarray, "samples targets"]
Score = Callable[
    [Float64[np.ndarray, "samples targets"], Int64[np.ndarray, " n"]], float
]
"""Rates predictions for the given samples; higher is better."""


@dataclass(frozen=True, slots=True)
class Ridge:
    """A fitted linear map with intercepts."""

    weights: Float64[np.ndarray, "inputs targets"]
    input_mean: Float64[np.ndarray, " inputs"]
    target_mean: Float64[np.ndarray, " targets"]
    penalty: float

    def predict(self, inputs: Inputs) -> Float64[np.ndarray, "samples targets"]:
        """Map inputs to targets."""
        mapped: Float64[np.ndarray, "samples targets"] = (
            inputs.astype(np.float64) - self.input_mean
        ) @ self.weights + self.target_mean
        return mapped


class _Spectrum:
    """The singular value decomposition of one training set, for many penalties."""

    def __init__(self, inputs: Inputs, targets: Targets) -> None:
        x, y = inputs.astype(np.float64), targets.astype(np.float64)
        self.input_mean, self.target_mean = x.mean(axis=0), y.mean(axis=0)
        left, self.values, self.right = np.linalg.svd(
            x - self.input_mean, full_matrices=False
        )
        self.projected = left.T @ (y - self.target_mean)

    def ridge(self, penalty: float) -> Ridge:
        shrunk = self.values / (self.values**2 + penalty)
        weights = self.right.T @ (shrunk[:, None] * self.projected)
        return Ridge(weights, self.input_mean, self.target_mean, penalty)


def fit_ridge(inputs: Inputs, targets: Targets, penalty: float) -> Ridge:
    """Fit at a given penalty (Hoerl & Kennard, 1970)."""
    return _Spectrum(inputs, targets).ridge(penalty)


def fit_ridge_tuned(
    inputs: Inputs,
    targets: Targets,
    groups: Int64[np.ndarray, " samples"],
    score: Score,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[Ridge, float]:
    """Fit at the penalty that scores best when each group in turn is left out.

    Args:
        inputs: Training inputs.
        targets: Training targets.
        groups: Run (or fold) of every sample.
        score: Rates the predictions of a left-out group.
        penalties: What to try; ties go to the larger penalty.

    Returns:
        The fit on all the samples at the chosen penalty, and the mean score over
        left-out samples that chose it.
    """
    totals = np.zeros(len(penalties))
    for group in np.unique(groups):
        held = groups == group
        spectrum = _Spectrum(inputs[~held], targets[~held])
        index = np.flatnonzero(held)
        for i, penalty in enumerate(penalties):
            predicted = spectrum.ridge(penalty).predict(inputs[held])
            totals[i] += score(predicted, index) * len(index)
    best = max(range(len(penalties)), key=lambda i: (totals[i], penalties[i]))
    return fit_ridge(inputs, targets, penalties[best]), totals[best] / len(groups)
