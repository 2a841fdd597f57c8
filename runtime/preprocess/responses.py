"""Which response each voxel is expected to give, and when a volume samples it.

Voxels differ in their blood response and, slices being acquired one after another, in
the instant at which a volume shows them. Voxels that share both are a group and share
a regressor; a GLM keeps one set of regressors a group. Knows nothing of values. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np

from runtime.arrays import Float64, Int64, Shaped
from runtime.errors import ConfigError, TensorMismatchError
from runtime.preprocess.hrf import CANONICAL, Hrf, trial_regressor
from runtime.preprocess.mask import VoxelMask

MOST_GROUPS: Final = 256
"""Groups of one GLM; each costs an estimate about a millisecond."""

Index = Int64[np.ndarray, " voxels"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Responses:
    """The groups of a run's voxels."""

    hrfs: tuple[Hrf, ...]
    """The response of each group."""
    sample_s: tuple[float | None, ...]
    """Instant in the acquisition at which each group is sampled; None: its middle."""
    group: Index = field(repr=False)
    """Group of each voxel, in the mask's order."""

    def __post_init__(self) -> None:
        groups = len(self.hrfs)
        if not 1 <= groups <= MOST_GROUPS or len(self.sample_s) != groups:
            raise ConfigError(
                f"responses: expected 1 to {MOST_GROUPS} groups of voxels that share "
                f"response and slice time, found {groups}. Use fewer responses"
            )
        if self.group.min() < 0 or self.group.max() >= groups:
            raise TensorMismatchError(
                "responses",
                expected=f"groups 0 to {groups - 1}",
                found=f"{self.group.min()} to {self.group.max()}",
            )

    @classmethod
    def shared(cls, voxels: int, hrf: Hrf = CANONICAL) -> "Responses":
        """Expect one response of all voxels, sampled at a volume's middle."""
        return cls((hrf,), (None,), np.zeros(voxels, dtype=np.int64))

    @classmethod
    def of(
        cls,
        voxels: int,
        hrfs: Sequence[Hrf],
        *,
        hrf_index: Index | None = None,
        slice_times_s: Float64[np.ndarray, " voxels"] | None = None,
    ) -> "Responses":
        """Group voxels by response and slice time.

        Args:
            voxels: Number of voxels.
            hrfs: The responses to choose from.
            hrf_index: Which of them each voxel has; the first by default.
            slice_times_s: When each voxel's slice is acquired, after the start of the
                volume; None samples all at the volume's middle.

        Raises:
            ConfigError: More than `MOST_GROUPS` groups.
            TensorMismatchError: Not one index or time a voxel, or out of range.
        """
        index = np.zeros(voxels, dtype=np.int64) if hrf_index is None else hrf_index
        _require_size("hrf_index", index, voxels)
        if index.min() < 0 or index.max() >= len(hrfs):
            raise TensorMismatchError(
                "hrf_index",
                expected=f"0 to {len(hrfs) - 1}",
                found=f"{index.min()} to {index.max()}",
            )
        if slice_times_s is None:
            kinds, group = np.unique(index, return_inverse=True)
            return cls(
                tuple(hrfs[kind] for kind in kinds),
                (None,) * len(kinds),
                group.astype(np.int64),
            )
        _require_size("slice_times_s", slice_times_s, voxels)
        times_s, place = np.unique(slice_times_s, return_inverse=True)
        pairs, group = np.unique(index * len(times_s) + place, return_inverse=True)
        return cls(
            tuple(hrfs[pair // len(times_s)] for pair in pairs),
            tuple(float(times_s[pair % len(times_s)]) for pair in pairs),
            group.astype(np.int64),
        )

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(self.group.size)

    def regressors(
        self, onset_s: float, duration_s: float, tr_s: float, volumes: int
    ) -> Float64[np.ndarray, "groups volumes"]:
        """Return the expected response to one stimulus, a row a group.

        Raises:
            ConfigError: The times are impossible.
        """
        kinds = [
            trial_regressor(onset_s, duration_s, tr_s, volumes, hrf, sample_s)
            for hrf, sample_s in zip(self.hrfs, self.sample_s, strict=True)
        ]
        return np.stack(kinds)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `from_arrays` rebuilds it from."""
        names = Hrf.__struct_fields__
        values = [[getattr(hrf, name) for name in names] for hrf in self.hrfs]
        instants = [np.nan if s is None else s for s in self.sample_s]
        return {
            "hrfs": np.asarray(values, dtype=np.float64),
            "sample_s": np.asarray(instants, dtype=np.float64),
            "group": self.group.copy(),
        }

    @classmethod
    def from_arrays(
        cls,
        hrfs: Float64[np.ndarray, "groups fields"],
        sample_s: Float64[np.ndarray, " groups"],
        group: Index,
    ) -> "Responses":
        """Rebuild it from what `arrays` returned."""
        names = Hrf.__struct_fields__
        kinds = [Hrf(**dict(zip(names, row, strict=True))) for row in hrfs.tolist()]
        instants = [None if np.isnan(s) else s for s in sample_s.tolist()]
        return cls(tuple(kinds), tuple(instants), group)


@final
class Layout:
    """Voxels so ordered that those of a group lie side by side.

    Args:
        responses: The groups.
    """

    def __init__(self, responses: Responses) -> None:
        groups = len(responses.hrfs)
        self._order = np.argsort(responses.group, kind="stable")
        self._group = responses.group[self._order]
        bounds = np.searchsorted(self._group, np.arange(groups + 1)).tolist()
        self.groups = tuple(map(slice, bounds[:-1], bounds[1:]))
        """Where each group lies."""
        self._spread = np.empty(responses.voxels)

    def ordered(self, voxels: Shaped[np.ndarray, " voxels"]) -> np.ndarray:
        """Return voxels of the mask's order group by group; not always a copy."""
        return voxels if len(self.groups) == 1 else voxels[self._order]

    def restored(self, ordered: Shaped[np.ndarray, " voxels"]) -> np.ndarray:
        """Undo `ordered`; not always a copy."""
        if len(self.groups) == 1:
            return ordered
        voxels = np.empty_like(ordered)
        voxels[self._order] = ordered
        return voxels

    def spread(
        self, of_groups: Float64[np.ndarray, " groups"]
    ) -> Float64[np.ndarray, "..."]:
        """Give each voxel its group's value; valid until the next call.

        One value alone stands for all.
        """
        if of_groups.size == 1:
            return of_groups
        return np.take(of_groups, self._group, out=self._spread)


def voxel_slice_times_s(
    mask: VoxelMask, slice_times_s: Sequence[float], tr_s: float
) -> Float64[np.ndarray, " voxels"]:
    """Return when each voxel's slice is acquired, after the start of its volume.

    Args:
        mask: Its last axis is the one along which slices are acquired.
        slice_times_s: By slice, as BIDS' ``SliceTiming`` or a scanner's header has it.
        tr_s: Repetition time.

    Raises:
        ConfigError: Not one time a slice, or one that is not within the TR.
    """
    times_s = np.asarray(slice_times_s, dtype=np.float64)
    slices = mask.shape[2]
    if times_s.shape != (slices,):
        raise ConfigError(
            f"slice times: expected {slices}, one a slice, found {times_s.size}"
        )
    if not ((times_s >= 0) & (times_s <= tr_s)).all():
        raise ConfigError(
            f"slice times: expected seconds from 0 to the TR of {tr_s:g}, found "
            f"{times_s.min():g} to {times_s.max():g}"
        )
    return np.take(times_s, mask.indices % slices)


def _require_size(name: str, array: Shaped[np.ndarray, "..."], voxels: int) -> None:
    if array.shape != (voxels,):
        raise TensorMismatchError(
            name, expected=f"[{voxels}]", found=f"{list(array.shape)}"
        )
