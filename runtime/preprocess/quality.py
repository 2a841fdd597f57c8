"""How good a run's volumes are, measured while it grows.

Of the masked voxels as acquired, before anything is smoothed or scaled. Each measure
looks at the volumes so far and at nothing else, and costs the same at every volume.
What motion says of itself is not repeated here. Pure: no clock.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from runtime.arrays import Float32, Float64
from runtime.errors import ConfigError
from runtime.preprocess.mask import require_finite, require_voxels

SPIKE_RATIO: Final = 1.5
"""Standardised DVARS above which a volume is a spike: 2.3 % of the volumes of Haxby's
12 runs (`benchmarks/quality.py`)."""
MIN_DIFFERENCES: Final = 5
"""Differences between volumes before one can be told to be large."""
MOST_SPIKES: Final = 3
"""Spikes in a row; a change that lasts longer is how the run is from then on."""
STATE_VERSION: Final = 1

State = dict[str, np.ndarray | int | float]


@final
@dataclass(frozen=True, slots=True)
class VolumeQuality:
    """What is known of a run with one of its volumes; None where nothing is yet."""

    tsnr: float | None
    """Median over voxels of mean over standard deviation of the volumes so far."""
    dvars_percent: float | None
    """Root mean square over voxels of the change since the last volume that was no
    spike, in percent of the mask's mean (Power et al. 2012, eq. 2)."""
    dvars_standardised: float | None
    """The same over what changes of this run come to: 1 where nothing happens.

    Nichols (2013, "Notes on creating a standardized version of DVARS") divides by the
    change expected of each voxel, ``2 (1 - r) s^2``; that is its mean squared change,
    which is taken here from the run's own past, spikes left out."""
    is_spike: bool
    """The standardised change is above the ratio: movement, or a broken volume."""
    spike_share: float
    """Spikes among the run's volumes so far."""
    drift_percent: float | None
    """What a straight line through the mask's mean has risen since the first volume,
    in percent of that mean."""
    constant_voxels: int | None
    """Voxels that have had one value in all volumes so far."""

    def named(self) -> dict[str, float]:
        """Return the measures that are known, by the names of a volume's report."""
        known: dict[str, float | None] = {
            "tsnr": self.tsnr,
            "dvars_percent": self.dvars_percent,
            "dvars_standardised": self.dvars_standardised,
            "dvars_spike": float(self.is_spike),
            "spike_share": self.spike_share,
            "drift_percent": self.drift_percent,
            "constant_voxels": self.constant_voxels,
        }
        return {name: float(x) for name, x in known.items() if x is not None}


@final
class RunQuality:
    """The measures of one run.

    Args:
        voxels: Number of voxels.
        spike_ratio: Standardised DVARS above which a volume is a spike.

    Raises:
        ConfigError: No voxels, or a ratio of at most 1.
    """

    def __init__(self, voxels: int, spike_ratio: float = SPIKE_RATIO) -> None:
        if voxels < 1 or not spike_ratio > 1:
            raise ConfigError(
                "quality: expected at least one voxel and a spike_ratio above 1, found "
                f"{voxels} voxels and {spike_ratio}"
            )
        self._ratio = float(spike_ratio)
        # Everything that changes: sums over the volumes that are no spikes.
        self._n: dict[str, Any] = {
            "volumes": 0,
            "spikes": 0,
            "in_a_row": 0,
            "kept": 0,
            "differences": 0,
            "squared_change": 0.0,
            "first": 0,
            "newest": 0,
            "origin": 0.0,
            "index": 0.0,
            "index2": 0.0,
            "level": 0.0,
            "index_level": 0.0,
        }
        self._a = {name: np.zeros(voxels) for name in ("last", "mean", "squares")}
        self._step, self._work = np.empty(voxels), np.empty(voxels)
        self._newest = np.empty(voxels)

    def update(
        self, volume_index: int, voxels: Float32[np.ndarray, " voxels"]
    ) -> VolumeQuality:
        """Take one volume and return what is known with it.

        Args:
            volume_index: Acquisition index; only drift asks for it.
            voxels: In the scanner's units.

        Raises:
            TensorMismatchError: Another number of voxels or dtype, or values that are
                not finite; nothing has changed.
        """
        require_voxels("voxels", voxels, self._step.size)
        require_finite("voxels", voxels)
        # In float64 once: numpy would do it again for each difference.
        n, newest = self._n, self._newest
        newest[:] = voxels
        change = standardised = None
        if n["kept"]:
            np.subtract(newest, self._a["last"], out=self._step)
            # Not by a dot product, whose bits depend on the library's threads.
            change = float(np.square(self._step, out=self._work).mean())
            if n["squared_change"] > 0:
                expected = n["squared_change"] / n["differences"]
                standardised = math.sqrt(change / expected)
        n["volumes"] += 1
        is_large = (
            standardised is not None
            and n["differences"] >= MIN_DIFFERENCES
            and standardised > self._ratio
        )
        is_spike = is_large and n["in_a_row"] < MOST_SPIKES
        if is_spike:
            n["spikes"] += 1
            n["in_a_row"] += 1
        else:
            # Where the run has gone elsewhere for good, the step there is no noise.
            self._keep(volume_index, None if is_large else change)
        return self._said(change, standardised, is_spike=is_spike)

    def _keep(self, volume_index: int, change: float | None) -> None:
        n, a, newest = self._n, self._a, self._newest
        n["in_a_row"] = 0
        n["kept"] += 1
        if change is not None:
            n["differences"] += 1
            n["squared_change"] += change
        # Mean and squares as Welford (1962) has them: no cancellation.
        np.subtract(newest, a["mean"], out=self._step)
        np.divide(self._step, n["kept"], out=self._work)
        a["mean"] += self._work
        np.subtract(newest, a["mean"], out=self._work)
        self._work *= self._step
        a["squares"] += self._work
        a["last"], self._newest = newest, a["last"]
        level = float(newest.mean())
        if n["kept"] == 1:
            n["origin"], n["first"] = level, volume_index
        n["newest"] = volume_index
        n["index"] += volume_index
        n["index2"] += volume_index**2
        n["level"] += level - n["origin"]
        n["index_level"] += volume_index * (level - n["origin"])

    def _said(
        self, change: float | None, standardised: float | None, *, is_spike: bool
    ) -> VolumeQuality:
        n, kept = self._n, self._n["kept"]
        level = n["origin"] + n["level"] / max(kept, 1)
        percent = None
        if change is not None and level > 0:
            percent = 100.0 * math.sqrt(change) / level
        constant = int(np.count_nonzero(self._a["squares"] == 0))
        return VolumeQuality(
            tsnr=self._tsnr(constant) if kept > 1 else None,
            dvars_percent=percent,
            dvars_standardised=standardised,
            is_spike=is_spike,
            spike_share=n["spikes"] / n["volumes"],
            drift_percent=self._drift_percent(level),
            constant_voxels=constant if kept > 1 else None,
        )

    def _tsnr(self, constant: int) -> float | None:
        # The same order as that of mean over deviation, without a root a voxel: mean
        # times its size, over the sum of squares.
        means, squares, ranked = self._a["mean"], self._a["squares"], self._work
        np.abs(means, out=ranked)
        ranked *= means
        if constant:
            varies = squares > 0
            ranked, squares = ranked[varies], squares[varies]
        if not ranked.size:
            return None
        ranked /= squares
        degrees = self._n["kept"] - 1
        middle = [
            math.copysign(math.sqrt(abs(one) * degrees), one) for one in _middle(ranked)
        ]
        return sum(middle) / len(middle)

    def _drift_percent(self, level: float) -> float | None:
        n, kept = self._n, int(self._n["kept"])
        spread = n["index2"] - n["index"] ** 2 / max(kept, 1)
        if kept <= MIN_DIFFERENCES or spread <= 0 or level <= 0:
            return None
        slope = (n["index_level"] - n["index"] * n["level"] / kept) / spread
        return 100.0 * float(slope * (n["newest"] - n["first"])) / level

    def state(self) -> State:
        """Return what `from_state` needs to go on bit for bit; arrays are copies."""
        arrays = {name: array.copy() for name, array in self._a.items()}
        fixed = {"version": STATE_VERSION, "spike_ratio": self._ratio}
        return {**fixed, **self._n, **arrays}

    @classmethod
    def from_state(cls, state: State) -> "RunQuality":
        """Go on where `state` was taken.

        Raises:
            ConfigError: Another version.
        """
        if state.get("version") != STATE_VERSION:
            raise ConfigError(
                f"quality state: expected version {STATE_VERSION}, found "
                f"{state.get('version')}"
            )
        quality = cls(int(np.asarray(state["mean"]).size), float(state["spike_ratio"]))
        for name, number in quality._n.items():
            quality._n[name] = type(number)(state[name])
        for name, array in quality._a.items():
            array[:] = state[name]
        return quality


def _middle(values: Float64[np.ndarray, " values"]) -> tuple[float, ...]:
    """Return the values whose mean is the median, one or two; reorders them.

    At a fifth of `np.median`'s time: it asks for both at once, for which numpy has no
    fast way.
    """
    middle = values.size // 2
    values.partition(middle)
    upper = float(values[middle])
    if values.size % 2:
        return (upper,)
    return float(values[:middle].max()), upper
