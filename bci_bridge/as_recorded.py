"""A decoder that also fails where a recording says that it did. Pure."""

from typing import Any

import numpy as np

from bci_bridge.decoder import Decoder
from bci_bridge.ended import RecordedEndError
from runtime.answers import RunGeometry, Trial, TrialReport, VolumeReport
from runtime.arrays import Shaped


class AsRecorded:
    """A `Decoder` around another one.

    Attributes:
        ended: What it ends by when it is asked next; empty to be asked as it is.
        refused: Trials that it never answers: whoever was to had ended by then.
    """

    def __init__(self, decoder: Decoder) -> None:
        """Stand in for a decoder."""
        self.ended, self.refused = "", frozenset[str]()
        self._decoder = decoder

    @property
    def bundle_sha256(self) -> str:
        """As the decoder says."""
        return self._decoder.bundle_sha256

    @property
    def gallery_sha256(self) -> str:
        """As the decoder says."""
        return self._decoder.gallery_sha256

    @property
    def preprocessing_sha256(self) -> str:
        """As the decoder says."""
        return self._decoder.preprocessing_sha256

    @property
    def overlay_sha256(self) -> str | None:
        """As the decoder says."""
        return self._decoder.overlay_sha256

    @property
    def shape(self) -> tuple[int, int, int]:
        """As the decoder says."""
        return self._decoder.shape

    @property
    def takes_any_grid(self) -> bool:
        """As the decoder says."""
        return self._decoder.takes_any_grid

    @property
    def told_confounds(self) -> tuple[str, ...]:
        """As the decoder says."""
        return self._decoder.told_confounds

    def start_run(self, run: RunGeometry) -> None:
        """Ask the decoder; that it could not begin shows in the first outcome."""
        self._decoder.start_run(run)

    def add_trial(self, trial: Trial) -> None:
        """Ask the decoder."""
        self._decoder.add_trial(trial)

    def add_volume(
        self,
        volume_index: int,
        volume: Shaped[np.ndarray, "x y z"],
        **told: Any,
    ) -> tuple[VolumeReport, tuple[TrialReport, ...]]:
        """Ask the decoder, or fail as recorded."""
        self._fail_as_recorded()
        # As it came: a decoder need not know what it is never told.
        report, trials = self._decoder.add_volume(volume_index, volume, **told)
        return report, self._answered(trials)

    def skip_volume(self, volume_index: int, **told: Any) -> tuple[TrialReport, ...]:
        """Ask the decoder, or fail as recorded."""
        self._fail_as_recorded()
        return self._answered(self._decoder.skip_volume(volume_index, **told))

    def early(self, trial_id: str) -> TrialReport | None:
        """Ask the decoder."""
        return self._decoder.early(trial_id)

    def end_run(self) -> tuple[TrialReport, ...]:
        """Ask the decoder, and fail as recorded after what was answered."""
        answered = self._answered(self._decoder.end_run())
        self._fail_as_recorded(answered)
        return answered

    def _answered(self, trials: tuple[TrialReport, ...]) -> tuple[TrialReport, ...]:
        return tuple(one for one in trials if one.trial_id not in self.refused)

    def _fail_as_recorded(self, answered: tuple[TrialReport, ...] = ()) -> None:
        if self.ended:
            raise RecordedEndError(self.ended, answered)
