"""Where a run's voxels lie, estimated from the run's past and a prior. Pure."""

from typing import Final, final

import numpy as np

from runtime.arrays import Float32, Float64

PRIOR_WEIGHT: Final = 20.0
"""Volumes that the prior counts for; best of 0, 1, 5, 20, 30, 40, 80, 160 on
Haxby's recording, see `runtime.preprocess.normalise`."""
SLOPE_SD: Final = 0.3
"""Prior standard deviation of a run's trend, in residual ones over a run."""


@final
class RunningCentre:
    """The level of a run from its past and a prior, for all voxels at once.

    Bayesian regression on ``[1, volume_index / (expected_volumes - 1)]`` (the second
    for a slope only) by recursive least squares (Kalman 1960). In units of the residual
    standard deviation every voxel has the same covariance, so they share one gain.
    For a level alone it equals ``(k prior + sum of y) / (k + n)``.

    Args:
        prior: Level expected.
        expected_volumes: Length of the run as announced at its start.
        prior_weight: ``k``, in volumes.
        slope_sd: Prior standard deviation of the slope in residual ones per run; None
            for a level alone. The unit cancels in the gain, so voxels keep theirs.
    """

    def __init__(
        self,
        prior: Float32[np.ndarray, " voxels"],
        expected_volumes: int,
        prior_weight: float = PRIOR_WEIGHT,
        slope_sd: float | None = None,
    ) -> None:
        self._expected, self._weight = expected_volumes, float(prior_weight)
        self._has_slope = slope_sd is not None
        self._count = 0
        self._sum = prior.astype(np.float64) * self._weight
        parameters = 2 if self._has_slope else 1
        self._coefficients = np.zeros((parameters, prior.size))
        self._coefficients[0] = prior
        self._covariance = np.zeros((parameters, parameters))
        if slope_sd is not None:
            self._covariance[:] = np.diag([1.0 / self._weight, slope_sd**2])
        self._error = np.empty(prior.size)
        self._work = np.empty(prior.size)
        self._centre = np.empty(prior.size)

    def update(
        self, voxels: Float32[np.ndarray, " voxels"], volume_index: int
    ) -> Float64[np.ndarray, " voxels"]:
        """Take one volume; return the level at it, valid until the next call."""
        self._count += 1
        if not self._has_slope:
            self._sum += voxels
            return np.divide(self._sum, self._weight + self._count, out=self._centre)
        x = np.array([1.0, volume_index / max(self._expected - 1, 1)])
        projected = self._covariance @ x
        gain = projected / (x @ projected + 1.0)
        self._covariance -= np.outer(gain, projected)
        np.subtract(voxels, self._level(x), out=self._error)
        for row, step in enumerate(gain):
            np.multiply(self._error, step, out=self._work)
            self._coefficients[row] += self._work
        return self._level(x)

    def at(self, volume_index: int) -> Float64[np.ndarray, " voxels"]:
        """Return the level expected of a volume that is not taken; valid as above."""
        if not self._has_slope:
            weight = self._weight + self._count
            if weight == 0.0:
                self._centre[:] = self._coefficients[0]
                return self._centre
            return np.divide(self._sum, weight, out=self._centre)
        return self._level(np.array([1.0, volume_index / max(self._expected - 1, 1)]))

    def _level(
        self, x: Float64[np.ndarray, " parameters"]
    ) -> Float64[np.ndarray, " voxels"]:
        return np.matmul(x, self._coefficients, out=self._centre)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that change, not copied."""
        return {
            "sum": self._sum,
            "coefficients": self._coefficients,
            "covariance": self._covariance,
        }

    @property
    def count(self) -> int:
        """Volumes taken."""
        return self._count

    def resume(self, state: dict[str, np.ndarray | int | float]) -> None:
        """Take over the count and the arrays of another centre of the same kind."""
        self._count = int(state["count"])
        for name, array in self.arrays().items():
            array[...] = state[name]
