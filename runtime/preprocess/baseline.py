"""Percent signal change against this run's own first volumes.

Causal: the baseline is the mean of the volumes of the announced first rest and is
frozen afterwards, so an answer never depends on what came later. Pure: no clock.
"""

from typing import final

import numpy as np

from runtime.arrays import Float32
from runtime.errors import ConfigError
from runtime.preprocess.mask import require_finite, require_voxels


@final
class PercentSignal:
    """Turn the voxels of one run into percent of the run's baseline.

    The baseline is ``(weight * prior + sum of the first volumes) / (weight + count)``.

    Args:
        voxels: Number of voxels.
        baseline_volumes: Volumes of the announced rest at the start, at least one.
        prior_mean: Baseline expected from calibration, in the scanner's units.
        prior_weight: What the prior counts for, in volumes; runs differ by 2.7 residual
            standard deviations on Haxby's recording, so a large weight does harm.

    Raises:
        ConfigError: A count below one, or a weight without a prior or below zero.
    """

    def __init__(
        self,
        voxels: int,
        baseline_volumes: int,
        prior_mean: Float32[np.ndarray, " voxels"] | None = None,
        prior_weight: float = 0.0,
    ) -> None:
        if voxels < 1 or baseline_volumes < 1:
            raise ConfigError(
                "baseline: expected at least one voxel and one volume, found "
                f"{voxels} voxels and {baseline_volumes} volumes"
            )
        if prior_weight < 0 or (prior_weight > 0 and prior_mean is None):
            raise ConfigError(
                "baseline: expected a prior_mean with a prior_weight of at least 0, "
                f"found prior_weight {prior_weight}"
            )
        self._voxels, self._wanted = voxels, baseline_volumes
        self._count = 0
        self._weight = float(prior_weight)
        self._sum = np.zeros(voxels, dtype=np.float64)
        if prior_mean is not None and prior_weight > 0:
            require_voxels("prior_mean", prior_mean, voxels)
            self._sum += prior_weight * prior_mean.astype(np.float64)
        # Percent signal is gain * voxels - level: both 0 without a positive baseline.
        self._gain = np.zeros(voxels, dtype=np.float64)
        self._level = np.zeros(voxels, dtype=np.float64)
        self._invalid = 0
        self._work = np.empty(voxels, dtype=np.float64)

    @property
    def is_warm(self) -> bool:
        """Whether the baseline is complete and frozen."""
        return self._count >= self._wanted

    @property
    def invalid_voxels(self) -> int:
        """Voxels whose frozen baseline is not positive; their signal is 0."""
        return self._invalid

    def update(
        self,
        voxels: Float32[np.ndarray, " voxels"],
        out: Float32[np.ndarray, " voxels"] | None = None,
    ) -> Float32[np.ndarray, " voxels"] | None:
        """Take one volume; return its percent signal, or None while warming.

        The volumes of the baseline themselves, the last included, return None.

        Args:
            voxels: Masked voxels in the scanner's units.
            out: Written and returned instead of a new array.

        Raises:
            TensorMismatchError: Another number of voxels or dtype, or values that are
                not finite; the baseline is as before.
        """
        require_voxels("voxels", voxels, self._voxels)
        require_finite("voxels", voxels)
        if not self.is_warm:
            self._sum += voxels
            self._count += 1
            if self._count == self._wanted:
                self._freeze()
            return None
        if out is None:
            out = np.empty(self._voxels, dtype=np.float32)
        else:
            require_voxels("out", out, self._voxels)
        np.multiply(voxels, self._gain, out=self._work)
        self._work -= self._level
        out[:] = self._work
        return out

    def _freeze(self) -> None:
        baseline = self._sum / (self._weight + self._count)
        is_valid = baseline > 0.0
        self._invalid = self._voxels - int(np.count_nonzero(is_valid))
        np.divide(100.0, baseline, out=self._gain, where=is_valid)
        self._level[is_valid] = 100.0

    def state(self) -> dict[str, np.ndarray | int | float]:
        """Return what `from_state` needs to go on exactly here; arrays are copies."""
        return {
            "version": 1,
            "baseline_volumes": self._wanted,
            "count": self._count,
            "weight": self._weight,
            "sum": self._sum.copy(),
        }

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray | int | float]) -> "PercentSignal":
        """Go on where `state` was taken.

        Raises:
            ConfigError: The state has another version.
        """
        if state.get("version") != 1:
            raise ConfigError(
                f"baseline state: expected version 1, found {state.get('version')}"
            )
        total = np.asarray(state["sum"], dtype=np.float64)
        signal = cls(int(total.size), int(state["baseline_volumes"]))
        signal._sum[:] = total
        signal._count = int(state["count"])
        signal._weight = float(state["weight"])
        if signal.is_warm:
            signal._freeze()
        return signal
