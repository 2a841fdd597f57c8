"""Voxels and betas in the units that a decoder was trained on, causally.

A run's level differs from the calibration's by a multiple of the noise (2.7 residual
standard deviations on Haxby's recording), so volumes are centred by this run's own
past, with calibration as a weak prior, and scaled by calibration alone. Training
features go through `CausalNormaliser` too: what a decoder learns is what it will get.

Ridge on Haxby's recording, eight categories, leave one of 12 runs out, penalty tuned
within the training runs, mean (standard deviation over runs); chance is .125:

    whole-run detrending and z-score (not causal)     .685 (.070)
    running mean, prior weight 0 / 5 / 20 / 40        .572 / .605 / .634 / .628
    running line, prior weight 20, slope .1 / .3 / 1  .626 / .631 / .556
    running line without prior                        .352
    calibration statistics alone                      .557
    first 6 volumes, frozen                           .495
    2 or 4 cosines, prior covariance of calibration   .426 / .397

Hence the default: a mean with a weight of 20 volumes. Kind and weight were chosen on
these same runs, so .634 flatters the choice; weights of 5 to 40 differ by less than
the error bar. Pure: no clock.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, final

import numpy as np

from runtime.arrays import Float32, Float64
from runtime.errors import ConfigError, TensorMismatchError
from runtime.preprocess.centre import PRIOR_WEIGHT, SLOPE_SD, RunningCentre
from runtime.preprocess.mask import require_finite, require_rows, require_voxels

CentreKind = Literal["mean", "linear"]
Run = Float32[np.ndarray, "times voxels"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class CausalStatistics:
    """What calibration leaves to a live run: a prior level and a scale."""

    prior: Float32[np.ndarray, " voxels"] = field(repr=False)
    """Mean over the calibration runs, in the units of the voxels."""
    scale: Float32[np.ndarray, " voxels"] = field(repr=False)
    """Residual standard deviation within runs; 0 marks a voxel without variation."""
    kind: CentreKind = "mean"
    """What is estimated from this run's past: its level, or level and slope."""
    prior_weight: float = PRIOR_WEIGHT
    """Volumes that `prior` counts for."""
    slope_sd: float = SLOPE_SD
    """Of the prior of a slope about zero, for the kind "linear"."""

    def __post_init__(self) -> None:
        require_voxels("scale", self.scale, self.prior.size)
        if self.prior_weight < 0 or self.slope_sd <= 0:
            raise ConfigError(
                "normaliser: expected prior_weight >= 0 and slope_sd > 0, found "
                f"{self.prior_weight} and {self.slope_sd}"
            )
        if self.kind == "linear" and self.prior_weight == 0:
            raise ConfigError(
                "normaliser: expected prior_weight > 0 for a linear centre, found 0"
            )

    @classmethod
    def fit(
        cls,
        runs: Sequence[Run],
        kind: CentreKind = "mean",
        prior_weight: float = PRIOR_WEIGHT,
        slope_sd: float = SLOPE_SD,
    ) -> "CausalStatistics":
        """Take level and scale from calibration runs.

        The scale is pooled over runs after each run's mean (kind "mean") or line is
        removed: ``sqrt(sum of squares / (volumes - parameters))``.

        Raises:
            TensorMismatchError: No run, one too short, or voxels that differ in number.
            ConfigError: A prior that is impossible.
        """
        parameters = 1 if kind == "mean" else 2
        shapes = [run.shape for run in runs]
        widths = {shape[1] for shape in shapes}
        if len(widths) != 1 or min(shape[0] for shape in shapes) <= parameters:
            raise TensorMismatchError(
                "calibration runs",
                expected=f"runs of equal voxels and over {parameters} volumes",
                found=str([list(shape) for shape in shapes]),
            )
        voxels = widths.pop()
        total, squares = np.zeros(voxels), np.zeros(voxels)
        volumes = degrees = 0
        for run in runs:
            run64 = run.astype(np.float64)
            total += run64.sum(axis=0)
            volumes += run64.shape[0]
            degrees += run64.shape[0] - parameters
            squares += _residual_squares(run64, parameters)
        scale = np.sqrt(squares / degrees)
        # Rounding leaves about eps of the level where a voxel does not vary.
        level = np.abs(total / volumes)
        scale[scale <= 1e-9 * level] = 0.0
        prior = (total / volumes).astype(np.float32)
        return cls(prior, scale.astype(np.float32), kind, prior_weight, slope_sd)


def _residual_squares(
    run: Float64[np.ndarray, "times voxels"], parameters: int
) -> Float64[np.ndarray, " voxels"]:
    times = np.linspace(-1.0, 1.0, run.shape[0])
    basis, _ = np.linalg.qr(np.vander(times, parameters, increasing=True))
    residual = run - basis @ (basis.T @ run)
    return np.asarray(np.square(residual).sum(axis=0))


@final
class CausalNormaliser:
    """Normalise the volumes of one run as they arrive.

    Answers ``(y_t - centre_t) / scale``, the centre from volumes up to and including
    `t`; 0 for voxels without variation in calibration.

    Args:
        statistics: Fitted on calibration runs of the same preprocessing.
        expected_volumes: Length of the run as announced at its start.
    """

    def __init__(self, statistics: CausalStatistics, expected_volumes: int) -> None:
        if expected_volumes < 1:
            raise ConfigError(
                f"expected_volumes: expected at least 1, found {expected_volumes}"
            )
        self._statistics, self._expected = statistics, expected_volumes
        slope_sd = statistics.slope_sd if statistics.kind == "linear" else None
        self._centre = RunningCentre(
            statistics.prior, expected_volumes, statistics.prior_weight, slope_sd
        )
        scale = statistics.scale.astype(np.float64)
        self._gain = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        self._last = -1
        self._work = np.empty(scale.size)

    def update(
        self,
        voxels: Float32[np.ndarray, " voxels"],
        volume_index: int | None = None,
        out: Float32[np.ndarray, " voxels"] | None = None,
        *,
        is_outlier: bool = False,
    ) -> Float32[np.ndarray, " voxels"]:
        """Take one volume and return it normalised.

        Args:
            voxels: In the units of the calibration runs.
            volume_index: Acquisition index, where volumes are missing; by default one
                more than the last.
            out: Written and returned instead of a new array.
            is_outlier: The centre stays as it is: a volume that nobody believes says
                nothing of where the run lies.

        Raises:
            TensorMismatchError: Another number of voxels or dtype, values that are not
                finite, or an index outside the run; nothing has changed.
        """
        require_voxels("voxels", voxels, self._work.size)
        require_finite("voxels", voxels)
        if out is not None:
            require_voxels("out", out, self._work.size)
        index = self._last + 1 if volume_index is None else volume_index
        if not 0 <= index < self._expected:
            raise TensorMismatchError(
                "volume_index", expected=f"0 to {self._expected - 1}", found=f"{index}"
            )
        self._last = index
        centre = self._centre
        level = centre.at(index) if is_outlier else centre.update(voxels, index)
        np.subtract(voxels, level, out=self._work)
        self._work *= self._gain
        if out is None:
            return self._work.astype(np.float32)
        out[:] = self._work
        return out

    def state(self) -> dict[str, np.ndarray | int | float]:
        """Return what `resume` needs to go on bit for bit; arrays are copies."""
        arrays = {name: a.copy() for name, a in self._centre.arrays().items()}
        counts = {"version": 1, "last": self._last, "count": self._centre.count}
        return {**counts, **arrays}

    def resume(self, state: dict[str, np.ndarray | int | float]) -> None:
        """Go on where a normaliser of the same statistics took `state`.

        Raises:
            ConfigError: The state has another version.
        """
        if state.get("version") != 1:
            raise ConfigError(
                f"normaliser state: expected version 1, found {state.get('version')}"
            )
        self._last = int(state["last"])
        self._centre.resume(state)


def normalise_run(statistics: CausalStatistics, run: Run) -> Run:
    """Return a recorded run as a live decoder would have got it, volume by volume."""
    normaliser = CausalNormaliser(statistics, run.shape[0])
    normalised = np.empty_like(run)
    for index, voxels in enumerate(run):
        normaliser.update(voxels, index, out=normalised[index])
    return normalised


@final
@dataclass(frozen=True, eq=False)
class AffineNormaliser:
    """Betas relative to those of the calibration: ``(beta - mean) / scale``.

    Fit it on betas of the estimator and delay that it will serve.
    """

    mean: Float32[np.ndarray, " voxels"] = field(repr=False)
    """Mean over the calibration's trials."""
    scale: Float32[np.ndarray, " voxels"] = field(repr=False)
    """Standard deviation over trials; 0 marks a voxel that gives 0."""

    def __post_init__(self) -> None:
        require_voxels("scale", self.scale, self.mean.size)

    @classmethod
    def fit(cls, betas: Float32[np.ndarray, "trials voxels"]) -> "AffineNormaliser":
        """Take mean and sample standard deviation over trials.

        Raises:
            TensorMismatchError: Fewer than two trials.
        """
        if betas.shape[0] < 2:
            raise TensorMismatchError(
                "betas", expected="at least 2 trials", found=f"{betas.shape[0]}"
            )
        betas64 = betas.astype(np.float64)
        mean, scale = betas64.mean(axis=0), betas64.std(axis=0, ddof=1)
        scale[scale <= 1e-9 * np.abs(mean)] = 0.0
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def normalise(
        self, betas: Float32[np.ndarray, "*batch voxels"]
    ) -> Float32[np.ndarray, "*batch voxels"]:
        """Return betas normalised; the last axis is the voxels.

        Raises:
            TensorMismatchError: Another number of voxels.
        """
        require_rows("betas", betas, self.mean.size)
        # At once: numpy converts piece by piece where it subtracts as well.
        centred = betas.astype(np.float64)
        centred -= self._centre
        centred *= self._gain
        return centred.astype(np.float32)

    @functools.cached_property
    def _centre(self) -> Float64[np.ndarray, " voxels"]:
        return self.mean.astype(np.float64)

    @functools.cached_property
    def _gain(self) -> Float64[np.ndarray, " voxels"]:
        scale = self.scale.astype(np.float64)
        gain: Float64[np.ndarray, " voxels"] = np.zeros_like(scale)
        np.divide(1.0, scale, out=gain, where=scale > 0)
        return gain
