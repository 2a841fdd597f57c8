"""Single-trial responses while the run grows, at a cost per volume that stays flat.

`IncrementalTrialGlm` keeps cross-products, not volumes: each volume adds one
rank-one update a drift column, a confound and an active trial. An estimate is the
exact least-squares-separate answer (LSS; Mumford et al. 2012, "LS-S") for the rows
seen: the trial's own regressor, the sum of all other known trials', the drift basis of
the announced length, and the confounds. Missing volumes are rows that do not exist,
never imputed.

Pure: no clock, no socket. `runtime.preprocess.timing` says when a volume happened,
`runtime.preprocess.design` which columns the rows seen can tell apart,
`runtime.preprocess.responses` which regressor a voxel has.
"""

from typing import Any, Final, final

import msgspec
import numpy as np

from runtime.arrays import Float32, Float64
from runtime.errors import ConfigError, TensorMismatchError
from runtime.preprocess.beta import LateTrialError, TrialBeta
from runtime.preprocess.design import estimate_column, solver_from_design
from runtime.preprocess.drift import CUTOFF_S, cosine_drift
from runtime.preprocess.hrf import CANONICAL, Hrf
from runtime.preprocess.mask import require_finite, require_voxels
from runtime.preprocess.responses import Layout, Responses
from runtime.preprocess.timing import end_s
from runtime.preprocess.trials import TrialRegressors

RING_VOLUMES: Final = 64
"""Volumes kept for trials that are announced late; 96 s at a TR of 1.5 s."""
FAINT: Final = 1e-3
"""Other trials' largest response, beside a trial's own, below which their products are
summed afresh instead of subtracted from those of all."""
STATE_VERSION: Final = 2

State = dict[str, np.ndarray | int | float]
Regressor = Float64[np.ndarray, " volumes"]
Regressors = Float64[np.ndarray, "groups volumes"]


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
        hrf: The response assumed of every voxel.
        drift_cutoff_s: Shortest period that counts as drift.
        confounds: Columns whose values come with each volume, such as motion or
            breathing, in the order of their importance.
        responses: Per voxel response and slice time, in place of `hrf`.

    Raises:
        ConfigError: A count or duration is not positive.
        TensorMismatchError: Responses of another number of voxels.
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
        confounds: int = 0,
        responses: Responses | None = None,
    ) -> None:
        if voxels < 1 or max_trials < 1 or confounds < 0:
            raise ConfigError(
                "GLM: expected at least one voxel and one trial, found "
                f"{voxels} voxels, {max_trials} trials and {confounds} confounds"
            )
        self._responses = responses or Responses.shared(voxels, hrf)
        if self._responses.voxels != voxels:
            raise TensorMismatchError(
                "responses", expected=f"[{voxels}]", found=f"{self._responses.voxels}"
            )
        self._tr_s, self._cutoff_s = float(tr_s), float(drift_cutoff_s)
        self._drift = cosine_drift(expected_volumes, tr_s, drift_cutoff_s)
        self._layout = Layout(self._responses)
        self._trials = TrialRegressors(
            self._responses, tr_s=tr_s, volumes=expected_volumes, most=max_trials
        )
        fixed = self._drift.shape[1] + confounds
        # First the rows of the trial that is estimated, and of all others.
        self._products = np.zeros((2 + fixed, voxels))
        self._row_of = np.array([2, 0, 1, *range(3, 2 + fixed)])
        # Arrays of the state, by name; everything else follows from the arguments.
        self._a: dict[str, Any] = {
            "is_seen": np.zeros(expected_volumes, dtype=np.bool_),
            # Subtracted from every volume: the constant column takes it up exactly,
            # and sums of squares keep their digits.
            "origin": np.zeros(voxels),
            # Likewise of the confounds, which the choice of columns needs: one of a
            # large mean would pass for a constant.
            "confound_origin": np.zeros(confounds),
            "confounds": np.zeros((expected_volumes, confounds)),
            "squares": np.zeros(voxels),
            "fixed_products": self._products[2:],
            "total_products": np.zeros(voxels),
            "trial_products": np.zeros((max_trials, voxels)),
            "ring": np.zeros((RING_VOLUMES, voxels), dtype=np.float32),
            "ring_index": np.full(RING_VOLUMES, -1, dtype=np.int64),
        }
        self._taken, self._last = 0, -1
        self._fixed, self._found = np.empty(fixed), np.empty((2, voxels))
        self._y, self._work = np.empty(voxels), np.empty(voxels)

    @property
    def trial_ids(self) -> tuple[str, ...]:
        """Trials announced so far, in that order."""
        return tuple(self._trials.ids)

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
        x = self._trials.expected(trial_id, onset_s, duration_s)
        is_shown = (x != 0).any(axis=0)
        self._require_remembered(
            trial_id, np.flatnonzero(is_shown & self._a["is_seen"])
        )
        row = self._trials.add(trial_id, onset_s, duration_s, x)
        products = self._a["trial_products"][row]
        for slot in np.flatnonzero(self._a["ring_index"] >= 0):
            volume_index = self._a["ring_index"][slot]
            if is_shown[volume_index]:
                np.subtract(self._a["ring"][slot], self._a["origin"], out=self._y)
                self._y *= self._layout.spread(x[:, volume_index])
                products += self._y
        self._a["total_products"] += products

    def update(
        self,
        volume_index: int,
        voxels: Float32[np.ndarray, " voxels"],
        confounds: Float64[np.ndarray, " confounds"] | None = None,
    ) -> None:
        """Take one volume; indices may have gaps and may come out of order.

        Args:
            volume_index: Acquisition index in the run.
            voxels: Masked voxels, in any unit that stays the same over the run.
            confounds: Values of the announced confounds, in any unit that stays the
                same; used as they are, less those of the first volume.

        Raises:
            TensorMismatchError: An index outside the announced run or taken before, or
                voxels or confounds of another number or dtype or not finite; nothing
                has changed.
        """
        a, size, work = self._a, self._y.size, self._work
        require_voxels("voxels", voxels, size)
        require_finite("voxels", voxels)
        if not 0 <= volume_index < a["is_seen"].size or a["is_seen"][volume_index]:
            raise TensorMismatchError(
                "volume_index",
                expected=f"0 to {a['is_seen'].size - 1}, each once",
                found=f"{volume_index}",
            )
        values = self._confounds(confounds)
        ordered = self._layout.ordered(voxels)
        if self._taken == 0:
            a["origin"][:], a["confound_origin"][:] = ordered, values
        y = np.subtract(ordered, a["origin"], out=self._y)
        slot = self._taken % RING_VOLUMES
        a["ring"][slot], a["ring_index"][slot] = ordered, volume_index
        a["is_seen"][volume_index] = True
        a["confounds"][volume_index] = values - a["confound_origin"]
        self._taken += 1
        self._last = max(self._last, volume_index)

        drift = self._drift[volume_index]
        self._fixed[: drift.size] = drift
        self._fixed[drift.size :] = a["confounds"][volume_index]
        # Last what an estimate reads: it finds it in the cache.
        for row in self._trials.shown_in(volume_index):
            weights = self._layout.spread(self._trials.at(row, volume_index))
            a["trial_products"][row] += np.multiply(y, weights, out=work)
        total = self._layout.spread(self._trials.total_at(volume_index))
        a["total_products"] += np.multiply(y, total, out=work)
        a["squares"] += np.square(y, out=work)
        constant, *others = a["fixed_products"]
        constant += y
        for products, weight in zip(others, self._fixed[1:], strict=True):
            products += np.multiply(y, weight, out=work)

    def _confounds(
        self, confounds: Float64[np.ndarray, " confounds"] | None
    ) -> Float64[np.ndarray, " confounds"]:
        wanted = self._a["confound_origin"].size
        values = np.zeros(0) if confounds is None else confounds
        if values.shape != (wanted,):
            raise TensorMismatchError(
                "confounds",
                expected=f"{wanted}, as announced at the run's start",
                found=f"{values.size}",
            )
        require_finite("confounds", values)
        return values

    def estimate(self, trial_id: str) -> TrialBeta:
        """Return the trial's response from the volumes taken so far.

        Columns by priority: constant, this trial, sum of the other known trials,
        cosines by frequency, confounds as announced; `solver_from_design` drops those
        that the rows cannot tell apart yet. A trial without effect so far has a beta
        of 0 and an infinite standard error.

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
            delay_s=end_s(self._last, self._tr_s) - self._trials.onset_s(row),
        )

    def measured_share(self, trial_id: str, until: int) -> float:
        """Say how much of a trial's response was measured: of its regressor's squares.

        Where it is low, the estimate rests on the little that was seen and is of any
        size, however small its standard error looks.

        Args:
            trial_id: A trial.
            until: Last volume that counts; what comes later could not be seen yet.

        Returns:
            0 to 1, of the voxels that have least; 1 where there is nothing to see yet.

        Raises:
            UsageError: The trial was not announced.
        """
        is_seen = self._a["is_seen"][: until + 1]
        return self._trials.measured_share(self._row(trial_id), is_seen)

    def design(
        self, trial_id: str, voxel: int = 0
    ) -> Float64[np.ndarray, "volumes columns"]:
        """Return the trial's LSS design over the whole announced run, by priority.

        Confounds are zero where no volume has come.

        Args:
            trial_id: A trial.
            voxel: Whose response and slice time.

        Raises:
            UsageError: The trial was not announced.
        """
        row, group = self._row(trial_id), int(self._responses.group[voxel])
        own, others = self._trials.own(row, group), self._trials.others(row, group)
        return self._design(own, others)

    def _row(self, trial_id: str) -> int:
        return self._trials.row(trial_id)

    def _solve(
        self, row: int
    ) -> tuple[Float64[np.ndarray, " voxels"], Float64[np.ndarray, " voxels"]]:
        """Return beta and standard error; valid until the next call."""
        own, others = self._trials.own(row), self._trials.others(row)
        self._gather(row, own, others)
        for group, part in enumerate(self._layout.groups):
            design = self._design(own[group], others[group])
            estimate_column(
                solver_from_design(design, self._a["is_seen"]),
                1,
                self._products[:, part],
                self._a["squares"][part],
                row_of=self._row_of,
                out=self._found[:, part],
            )
        beta, error = self._found
        return self._layout.restored(beta), self._layout.restored(error)

    def _gather(self, row: int, own: Regressors, others: Regressors) -> None:
        a, (products, rest) = self._a, self._products[:2]
        products[:] = a["trial_products"][row]
        # A trial that has just begun weighs 1e-10: against the total's rounding
        # nothing of it would remain.
        seen = np.abs(others * a["is_seen"]).max(axis=1)
        if (seen < FAINT * np.abs(own).max(axis=1)).any():
            known = a["trial_products"][: len(self._trials.ids)]
            np.add(known[:row].sum(axis=0), known[row + 1 :].sum(axis=0), out=rest)
        else:
            np.subtract(a["total_products"], products, out=rest)

    def _design(
        self, own: Regressor, others: Regressor
    ) -> Float64[np.ndarray, "volumes columns"]:
        drift, confounds = self._drift, self._a["confounds"]
        return np.column_stack((drift[:, 0], own, others, drift[:, 1:], confounds))

    def _require_remembered(self, trial_id: str, affected: np.ndarray) -> None:
        lost = np.setdiff1d(affected, self._a["ring_index"])
        if lost.size:
            raise LateTrialError(
                f"trial {trial_id}: expected its announcement within {RING_VOLUMES} "
                f"volumes of volume {lost[0]}, found volume {self._last} taken. "
                "Send events when the stimulus is shown"
            )

    def _arrays(self) -> dict[str, Any]:
        return self._trials.arrays | self._a

    def state(self) -> State:
        """Return what `from_state` needs to go on bit for bit; arrays are copies.

        Trial names are the bytes of a JSON list, so that safetensors can hold them.
        """
        names = msgspec.json.encode(self._trials.ids)
        return {
            "version": STATE_VERSION,
            "tr_s": self._tr_s,
            "drift_cutoff_s": self._cutoff_s,
            "taken": self._taken,
            "last": self._last,
            **self._responses.arrays(),
            "trial_ids": np.frombuffer(names, dtype=np.uint8).copy(),
            **{name: array.copy() for name, array in self._arrays().items()},
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
        kinds = (np.asarray(state[name]) for name in ("hrfs", "sample_s", "group"))
        glm = cls(
            int(np.asarray(state["squares"]).size),
            tr_s=float(state["tr_s"]),
            expected_volumes=int(regressors.shape[2]),
            max_trials=int(regressors.shape[1]),
            drift_cutoff_s=float(state["drift_cutoff_s"]),
            confounds=int(np.asarray(state["confound_origin"]).size),
            responses=Responses.from_arrays(*kinds),
        )
        for name, array in glm._arrays().items():
            found = np.asarray(state[name])
            if found.shape != array.shape or found.dtype != array.dtype:
                raise TensorMismatchError(
                    f"GLM state {name}",
                    expected=f"{array.dtype.name} {list(array.shape)}",
                    found=f"{found.dtype.name} {list(found.shape)}",
                )
            array[...] = found
        names = np.asarray(state["trial_ids"]).tobytes()
        glm._trials.restore(msgspec.json.decode(names, type=list[str]))
        glm._taken, glm._last = int(state["taken"]), int(state["last"])
        return glm
