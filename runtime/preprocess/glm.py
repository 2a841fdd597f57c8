"""Single-trial responses while the run grows, at a cost per volume that stays flat.

`IncrementalTrialGlm` keeps cross-products, not volumes: each volume adds one
rank-one update a drift column and an active trial. An estimate is the exact
least-squares-separate answer (LSS; Mumford et al. 2012, "LS-S") for the rows seen:
the trial's own regressor, the sum of all other known trials', and the drift basis of
the announced length. Missing volumes are rows that do not exist, never imputed.

Pure: no clock, no socket. `runtime.preprocess.timing` says when a volume happened,
`runtime.preprocess.design` which columns the rows seen can tell apart.
"""

from typing import Any, Final, final

import msgspec
import numpy as np

from runtime.arrays import Float32, Float64
from runtime.errors import ConfigError, TensorMismatchError, UsageError
from runtime.preprocess.beta import LateTrialError, TrialBeta
from runtime.preprocess.design import estimate_column, solver_from_design
from runtime.preprocess.drift import CUTOFF_S, cosine_drift
from runtime.preprocess.hrf import CANONICAL, Hrf, trial_regressor
from runtime.preprocess.mask import require_finite, require_voxels
from runtime.preprocess.timing import end_s

RING_VOLUMES: Final = 64
"""Volumes kept for trials that are announced late; 96 s at a TR of 1.5 s."""
STATE_VERSION: Final = 1

State = dict[str, np.ndarray | int | float]


@final
class IncrementalTrialGlm:
    """The GLM of one run.

    A trial should be announced before the first volume that it affects. Announced
    later it is exact all the same while those volumes are among the last
    `RING_VOLUMES` taken; beyond that it is refused rather than approximated.
    All memory is taken here, once a run.

    Args:
        voxels: Number of voxels.
        tr_s: Repetition time.
        expected_volumes: Length of the run as announced at its start; it fixes the
            drift basis, also for a run that ends early.
        max_trials: Trials that may be announced.
        hrf: The response assumed.
        drift_cutoff_s: Shortest period that counts as drift.

    Raises:
        ConfigError: A count or duration is not positive.
    """

    def __init__(
        self,
        voxels: int,
        *,
        tr_s: float,
        expected_volumes: int,
        max_trials: int,
        hrf: Hrf = CANONICAL,
        drift_cutoff_s: float = CUTOFF_S,
    ) -> None:
        if voxels < 1 or max_trials < 1:
            raise ConfigError(
                "GLM: expected at least one voxel and one trial, found "
                f"{voxels} voxels and {max_trials} trials"
            )
        self._hrf, self._tr_s, self._cutoff_s = hrf, float(tr_s), float(drift_cutoff_s)
        self._drift = cosine_drift(expected_volumes, tr_s, drift_cutoff_s)
        self._trial_ids: list[str] = []
        # Arrays of the state, by name; everything else follows from the arguments.
        self._a: dict[str, Any] = {
            "onset_s": np.zeros(max_trials),
            "duration_s": np.zeros(max_trials),
            "regressors": np.zeros((max_trials, expected_volumes)),
            "total": np.zeros(expected_volumes),
            "is_seen": np.zeros(expected_volumes, dtype=np.bool_),
            # Subtracted from every volume: the constant column takes it up exactly,
            # and sums of squares keep their digits.
            "origin": np.zeros(voxels),
            "squares": np.zeros(voxels),
            "drift_products": np.zeros((self._drift.shape[1], voxels)),
            "total_products": np.zeros(voxels),
            "trial_products": np.zeros((max_trials, voxels)),
            "ring": np.zeros((RING_VOLUMES, voxels), dtype=np.float32),
            "ring_index": np.full(RING_VOLUMES, -1, dtype=np.int64),
        }
        self._taken, self._last = 0, -1
        self._y = np.empty(voxels)
        self._scratch = np.empty((self._drift.shape[1], voxels))
        self._products = np.empty((self._drift.shape[1] + 2, voxels))

    @property
    def trial_ids(self) -> tuple[str, ...]:
        """Trials announced so far, in that order."""
        return tuple(self._trial_ids)

    @property
    def drift(self) -> Float64[np.ndarray, "volumes columns"]:
        """The drift basis of the announced length; not to be written to."""
        return self._drift

    def add_trial(self, trial_id: str, onset_s: float, duration_s: float) -> None:
        """Announce a stimulus; it counts in every estimate from now on.

        Args:
            trial_id: Not used before in this run.
            onset_s: After the start of acquisition of volume 0.
            duration_s: How long it is shown.

        Raises:
            UsageError: The trial is known, or there is no room; nothing has changed.
            ConfigError: The times are impossible; nothing has changed.
            LateTrialError: It affects volumes that have left the ring; nothing changed.
        """
        row = len(self._trial_ids)
        if trial_id in self._trial_ids or row == self._a["onset_s"].size:
            raise UsageError(
                f"trial {trial_id}: expected a new trial among at most "
                f"{self._a['onset_s'].size}, found {row} announced"
                f"{', itself one of them' if trial_id in self._trial_ids else ''}"
            )
        x = trial_regressor(
            onset_s, duration_s, self._tr_s, self._drift.shape[0], self._hrf
        )
        self._require_remembered(
            trial_id, np.flatnonzero((x != 0) & self._a["is_seen"])
        )
        self._trial_ids.append(trial_id)
        self._a["onset_s"][row], self._a["duration_s"][row] = onset_s, duration_s
        self._a["regressors"][row] = x
        self._a["total"] += x
        products = self._a["trial_products"][row]
        for slot in np.flatnonzero(self._a["ring_index"] >= 0):
            weight = x[self._a["ring_index"][slot]]
            if weight != 0.0:
                np.subtract(self._a["ring"][slot], self._a["origin"], out=self._y)
                self._y *= weight
                products += self._y
        self._a["total_products"] += products

    def update(self, volume_index: int, voxels: Float32[np.ndarray, " voxels"]) -> None:
        """Take one volume; indices may have gaps and may come out of order.

        Args:
            volume_index: Acquisition index in the run.
            voxels: Masked voxels, in any unit that stays the same over the run.

        Raises:
            TensorMismatchError: An index outside the announced run or taken before, or
                voxels of another number or dtype or not finite; nothing has changed.
        """
        a, size = self._a, self._y.size
        require_voxels("voxels", voxels, size)
        require_finite("voxels", voxels)
        if not 0 <= volume_index < a["is_seen"].size or a["is_seen"][volume_index]:
            raise TensorMismatchError(
                "volume_index",
                expected=f"0 to {a['is_seen'].size - 1}, each once",
                found=f"{volume_index}",
            )
        if self._taken == 0:
            a["origin"][:] = voxels
        y = np.subtract(voxels, a["origin"], out=self._y)
        slot = self._taken % RING_VOLUMES
        a["ring"][slot] = voxels
        a["ring_index"][slot] = volume_index
        a["is_seen"][volume_index] = True
        self._taken += 1
        self._last = max(self._last, volume_index)

        np.multiply(self._drift[volume_index][:, None], y, out=self._scratch)
        a["drift_products"] += self._scratch
        work = self._scratch[0]
        a["squares"] += np.multiply(y, y, out=work)
        a["total_products"] += np.multiply(y, a["total"][volume_index], out=work)
        weights = a["regressors"][:, volume_index]
        for row in np.flatnonzero(weights):
            a["trial_products"][row] += np.multiply(y, weights[row], out=work)

    def estimate(self, trial_id: str) -> TrialBeta:
        """Return the trial's response from the volumes taken so far.

        Columns by priority: constant, this trial, sum of the other known trials,
        cosines by frequency; `solver_from_design` drops those that the rows cannot
        tell apart yet. A trial without effect so far has a beta of 0 and an infinite
        standard error.

        Raises:
            UsageError: The trial was not announced.
        """
        row = self._row(trial_id)
        beta, error = self._solve(row)
        return TrialBeta(
            trial_id=trial_id,
            beta=beta.astype(np.float32),
            standard_error=error.astype(np.float32),
            volumes_used=self._taken,
            last_volume_index=self._last,
            delay_s=end_s(self._last, self._tr_s) - float(self._a["onset_s"][row]),
        )

    def design(self, trial_id: str) -> Float64[np.ndarray, "volumes columns"]:
        """Return the trial's LSS design over the whole announced run, by priority.

        Raises:
            UsageError: The trial was not announced.
        """
        return self._design(self._row(trial_id))

    def _row(self, trial_id: str) -> int:
        if trial_id not in self._trial_ids:
            raise UsageError(
                f"trial {trial_id}: expected an announced trial, found "
                f"{len(self._trial_ids)} others"
            )
        return self._trial_ids.index(trial_id)

    def _solve(
        self, row: int
    ) -> tuple[Float64[np.ndarray, " voxels"], Float64[np.ndarray, " voxels"]]:
        solver = solver_from_design(self._design(row), self._a["is_seen"])
        products = self._products
        products[0] = self._a["drift_products"][0]
        products[1] = self._a["trial_products"][row]
        np.subtract(self._a["total_products"], products[1], out=products[2])
        products[3:] = self._a["drift_products"][1:]
        return estimate_column(solver, 1, products, self._a["squares"])

    def _design(self, row: int) -> Float64[np.ndarray, "volumes columns"]:
        own = self._a["regressors"][row]
        # Summed afresh: total minus own would leave rounding where the rest is zero,
        # and a column of rounding would pass for a regressor.
        known = self._a["regressors"][: len(self._trial_ids)]
        others = known[:row].sum(axis=0) + known[row + 1 :].sum(axis=0)
        return np.column_stack((self._drift[:, 0], own, others, self._drift[:, 1:]))

    def _require_remembered(self, trial_id: str, affected: np.ndarray) -> None:
        lost = np.setdiff1d(affected, self._a["ring_index"])
        if lost.size:
            raise LateTrialError(
                f"trial {trial_id}: expected its announcement within {RING_VOLUMES} "
                f"volumes of volume {lost[0]}, found volume {self._last} taken. "
                "Send events when the stimulus is shown"
            )

    def state(self) -> State:
        """Return what `from_state` needs to go on bit for bit; arrays are copies.

        Trial names are the bytes of a JSON list, so that safetensors can hold them.
        """
        names = msgspec.json.encode(self._trial_ids)
        hrf = [getattr(self._hrf, name) for name in Hrf.__struct_fields__]
        return {
            "version": STATE_VERSION,
            "tr_s": self._tr_s,
            "drift_cutoff_s": self._cutoff_s,
            "taken": self._taken,
            "last": self._last,
            "hrf": np.asarray(hrf, dtype=np.float64),
            "trial_ids": np.frombuffer(names, dtype=np.uint8).copy(),
            **{name: array.copy() for name, array in self._a.items()},
        }

    @classmethod
    def from_state(cls, state: State) -> "IncrementalTrialGlm":
        """Go on where `state` was taken.

        Raises:
            ConfigError: Another version, or entries missing or unknown.
            TensorMismatchError: An array has another shape or dtype.
        """
        if state.get("version") != STATE_VERSION:
            raise ConfigError(
                f"GLM state: expected version {STATE_VERSION}, found "
                f"{state.get('version')}. Restart the run's GLM"
            )
        try:
            return cls._resumed(state)
        except KeyError as error:
            raise ConfigError(f"GLM state: expected {error}, found nothing") from error

    @classmethod
    def _resumed(cls, state: State) -> "IncrementalTrialGlm":
        regressors = np.asarray(state["regressors"])
        values = (float(value) for value in np.asarray(state["hrf"]))
        glm = cls(
            int(np.asarray(state["squares"]).size),
            tr_s=float(state["tr_s"]),
            expected_volumes=int(regressors.shape[1]),
            max_trials=int(regressors.shape[0]),
            hrf=Hrf(**dict(zip(Hrf.__struct_fields__, values, strict=True))),
            drift_cutoff_s=float(state["drift_cutoff_s"]),
        )
        for name, array in glm._a.items():
            found = np.asarray(state[name])
            if found.shape != array.shape or found.dtype != array.dtype:
                raise TensorMismatchError(
                    f"GLM state {name}",
                    expected=f"{array.dtype.name} {list(array.shape)}",
                    found=f"{found.dtype.name} {list(found.shape)}",
                )
            array[...] = found
        names = np.asarray(state["trial_ids"]).tobytes()
        glm._trial_ids = msgspec.json.decode(names, type=list[str])
        glm._taken, glm._last = int(state["taken"]), int(state["last"])
        return glm
