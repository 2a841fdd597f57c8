"""What the bridge needs of a decoder; `runtime.live.RunDecoder` is one."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from msgspec import UNSET

from bci_bridge.messages import RunStart
from runtime.answers import RunGeometry, Trial, TrialReport, VolumeReport
from runtime.arrays import Shaped


@runtime_checkable
class Decoder(Protocol):
    """Turns the volumes of one run after another into answers."""

    @property
    def bundle_sha256(self) -> str:
        """Identity of the model."""
        ...

    @property
    def gallery_sha256(self) -> str:
        """Identity of what it chooses from."""
        ...

    @property
    def preprocessing_sha256(self) -> str:
        """Identity of what is done to volumes before."""
        ...

    @property
    def overlay_sha256(self) -> str | None:
        """Identity of the day's calibration; None without one."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y and z of every volume."""
        ...

    @property
    def takes_any_grid(self) -> bool:
        """Whether volumes of another shape are taken where their affine is known."""
        ...

    @property
    def told_confounds(self) -> tuple[str, ...]:
        """Names of what has to come with each volume."""
        ...

    def start_run(self, run: RunGeometry) -> None:
        """Forget the last run; raise `TensorMismatchError` if this one does not fit."""
        ...

    def add_trial(self, trial: Trial) -> None:
        """Learn that something is presented."""
        ...

    def add_volume(
        self,
        volume_index: int,
        volume: Shaped[np.ndarray, "x y z"],
        *,
        is_wanted: bool = True,
        confounds: Mapping[str, float] | None = None,
    ) -> tuple[VolumeReport, tuple[TrialReport, ...]]:
        """Use the next acquisition; answer it and the trials that are due by it.

        `confounds` are given where the volume came with some. Where the answers are
        not wanted, because they are on record, none need be given. A `NeuroFlowError`
        means that nothing was used; `skip_volume` follows.
        """
        ...

    def skip_volume(
        self, volume_index: int, *, is_wanted: bool = True
    ) -> tuple[TrialReport, ...]:
        """Go without the next acquisition; answer the trials that are due by it."""
        ...

    def early(self, trial_id: str) -> TrialReport | None:
        """Say what an announced trial looks like before it is due, if anything.

        It changes nothing, and rests on the volumes and trials so far alone.
        """
        ...

    def end_run(self) -> tuple[TrialReport, ...]:
        """Answer every trial that is still open."""
        ...


def geometry_from(start: RunStart) -> RunGeometry:
    """Say what a decoder must know of a run before its first volume."""
    times_us = start.slice_times_us
    return RunGeometry(
        start.run,
        start.shape,
        start.tr_s,
        start.expected_volumes,
        slice_times_s=() if times_us is UNSET else tuple(t / 1e6 for t in times_us),
        affine=start.affine,
    )
