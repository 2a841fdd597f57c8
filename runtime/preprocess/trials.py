"""The trials of a run that are known, and what each voxel is expected to answer them.

Knows nothing of values. Pure.
"""

from typing import Any, final

import numpy as np

from runtime.arrays import Bool, Float64
from runtime.errors import UsageError
from runtime.preprocess.responses import Responses

OfGroups = Float64[np.ndarray, " groups"]


@final
class TrialRegressors:
    """One regressor a trial and group of voxels; all memory is taken here.

    Args:
        responses: The groups of voxels.
        tr_s: Repetition time.
        volumes: Length of the run as announced.
        most: Trials that there is room for.
    """

    def __init__(
        self, responses: Responses, *, tr_s: float, volumes: int, most: int
    ) -> None:
        groups = len(responses.hrfs)
        self._responses, self._tr_s, self._volumes = responses, tr_s, volumes
        self.ids: list[str] = []
        """Trials in the order of their announcement."""
        self.arrays: dict[str, Any] = {
            "onset_s": np.zeros(most),
            "duration_s": np.zeros(most),
            "regressors": np.zeros((groups, most, volumes)),
            "total": np.zeros((groups, volumes)),
        }
        """What a state keeps, by name."""
        # First volume that shows a trial, and the last.
        self._spans = np.tile(np.array([0, -1]), (most, 1))

    def expected(
        self, trial_id: str, onset_s: float, duration_s: float
    ) -> Float64[np.ndarray, "groups volumes"]:
        """Return a new trial's regressors, before it is added.

        Raises:
            UsageError: The trial is known, or there is no room.
            ConfigError: The times are impossible.
        """
        most = self.arrays["onset_s"].size
        if trial_id in self.ids or len(self.ids) == most:
            raise UsageError(
                f"trial {trial_id}: expected a new trial among at most "
                f"{most}, found {len(self.ids)} announced"
                f"{', itself one of them' if trial_id in self.ids else ''}"
            )
        return self._responses.regressors(
            onset_s, duration_s, self._tr_s, self._volumes
        )

    def add(
        self,
        trial_id: str,
        onset_s: float,
        duration_s: float,
        x: Float64[np.ndarray, "groups volumes"],
    ) -> int:
        """Take a trial with what `expected` returned; return its row."""
        row = len(self.ids)
        self.ids.append(trial_id)
        self.arrays["onset_s"][row] = onset_s
        self.arrays["duration_s"][row] = duration_s
        self.arrays["regressors"][:, row] = x
        self.arrays["total"] += x
        self._span(row)
        return row

    def row(self, trial_id: str) -> int:
        """Return a trial's row.

        Raises:
            UsageError: The trial was not announced.
        """
        if trial_id not in self.ids:
            raise UsageError(
                f"trial {trial_id}: expected an announced trial, found "
                f"{len(self.ids)} others"
            )
        return self.ids.index(trial_id)

    def onset_s(self, row: int) -> float:
        """Return when a trial began."""
        return float(self.arrays["onset_s"][row])

    def shown_in(self, volume_index: int) -> list[int]:
        """Return the rows of the trials that a volume shows."""
        first, last = self._spans.T
        is_shown = (first <= volume_index) & (volume_index <= last)
        return np.flatnonzero(is_shown).tolist()

    def own(
        self, row: int, group: int | slice = slice(None)
    ) -> Float64[np.ndarray, "*groups volumes"]:
        """Return a trial's regressor, of one group or of all."""
        own: Float64[np.ndarray, "*groups volumes"]
        own = self.arrays["regressors"][group, row]
        return own

    def others(
        self, row: int, group: int | slice = slice(None)
    ) -> Float64[np.ndarray, "*groups volumes"]:
        """Return the sum of all other known trials' regressors."""
        # Summed afresh: total minus own would leave rounding where the rest is zero,
        # and a column of rounding would pass for a regressor.
        known = self.arrays["regressors"][group, : len(self.ids)]
        others: Float64[np.ndarray, "*groups volumes"]
        others = known[..., :row, :].sum(axis=-2)
        others += known[..., row + 1 :, :].sum(axis=-2)
        return others

    def measured_share(self, row: int, is_seen: Bool[np.ndarray, " first"]) -> float:
        """Return what the volumes seen hold of a trial's squares in the first volumes.

        Of the group that has least; 1 where there is nothing to see yet.
        """
        squares = self.own(row)[:, : is_seen.size] ** 2
        seen, whole = squares[:, is_seen].sum(axis=1), squares.sum(axis=1)
        shares = np.divide(seen, whole, out=np.ones_like(whole), where=whole > 0)
        return float(shares.min())

    def at(self, row: int, volume_index: int) -> OfGroups:
        """Return what a trial weighs in a volume."""
        weights: OfGroups = self.arrays["regressors"][:, row, volume_index]
        return weights

    def total_at(self, volume_index: int) -> OfGroups:
        """Return what all known trials weigh in a volume."""
        total: OfGroups = self.arrays["total"][:, volume_index]
        return total

    def restore(self, ids: list[str]) -> None:
        """Know these trials, whose arrays are in place."""
        self.ids[:] = ids
        for row in range(len(ids)):
            self._span(row)

    def _span(self, row: int) -> None:
        shown = np.flatnonzero((self.arrays["regressors"][:, row] != 0).any(axis=0))
        if shown.size:
            self._spans[row] = shown[0], shown[-1]
