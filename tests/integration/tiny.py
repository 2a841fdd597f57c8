"""A real, tiny decoder: a trial's answer is the mean of the volume two later."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.answers import (
    Answer,
    Candidate,
    RunGeometry,
    Trial,
    TrialReport,
    VolumeReport,
)
from runtime.errors import TensorMismatchError

SHAPE = (3, 4, 2)
DELAY_S = 2.0
CANDIDATES = (Candidate("stimulus", "label", 0.25),)


class MeanDecoder:
    """Answers each volume with its mean, and each trial `DELAY_S` after its onset."""

    bundle_sha256 = "b" * 64
    gallery_sha256 = "a" * 64
    preprocessing_sha256 = "c" * 64
    overlay_sha256: str | None = None
    told_confounds: tuple[str, ...] = ()

    def __init__(self, shape: tuple[int, int, int] = SHAPE) -> None:
        self._shape = shape
        self.used: list[int | None] = []

    def start_run(self, run: RunGeometry) -> None:
        if run.shape != self._shape:
            raise TensorMismatchError(
                "run", expected=str(self._shape), found=str(run.shape)
            )
        self._run, self._trials = run, dict[str, Trial]()
        self._announced = dict[str, Trial]()
        self.used = []
        self._mean = 0.0

    def add_trial(self, trial: Trial) -> None:
        self._trials[trial.trial_id] = self._announced[trial.trial_id] = trial

    @property
    def takes_any_grid(self) -> bool:
        return False

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._shape

    def add_volume(
        self,
        volume_index: int,
        volume: np.ndarray[Any, Any],
        *,
        is_wanted: bool = True,
    ) -> tuple[VolumeReport, tuple[TrialReport, ...]]:
        self.used.append(volume_index)
        self._mean = self._mean_of(volume)
        answer = Answer(
            "ANSWER",
            label=f"{self._mean:.0f}",
            confidence=0.5,
            candidates=CANDIDATES,
        )
        report = VolumeReport(
            volume_index, answer, {"mean": self._mean}, {"mean": 1000}
        )
        return report, self._due(volume_index)

    def skip_volume(
        self, volume_index: int, *, is_wanted: bool = True
    ) -> tuple[TrialReport, ...]:
        self.used.append(None)
        return self._due(volume_index)

    def early(self, trial_id: str) -> TrialReport | None:
        # Careless: whether it was answered, and whether the run is over, is the
        # caller's to know.
        trial = self._announced.get(trial_id)
        if trial is None or not self.used:
            return None
        answer = Answer("ANSWER", label=f"{self._mean:.0f}")
        return self._told(trial, answer, len(self.used) - 1)

    def end_run(self) -> tuple[TrialReport, ...]:
        return tuple(
            self._report(trial, Answer("ABSTAIN", reason="run over"), -1)
            for trial in list(self._trials.values())
        )

    def _mean_of(self, volume: np.ndarray[Any, Any]) -> float:
        return float(volume.mean())

    def _due(self, index: int) -> tuple[TrialReport, ...]:
        if not self._trials:
            return ()
        end_s = (index + 1) * self._run.tr_s
        due = [t for t in self._trials.values() if t.onset_s + DELAY_S <= end_s]
        if not due:
            return ()
        answer = Answer("ANSWER", label=f"{self._mean:.0f}", confidence=0.75)
        return tuple(self._report(trial, answer, index) for trial in due)

    def _report(self, trial: Trial, answer: Answer, last: int) -> TrialReport:
        del self._trials[trial.trial_id]
        return self._told(trial, answer, last)

    def _told(self, trial: Trial, answer: Answer, last: int) -> TrialReport:
        return TrialReport(
            trial_id=trial.trial_id,
            answer=answer,
            delay_s=DELAY_S,
            first_volume=0,
            last_volume=last,
            volumes_used=last + 1,
            stage_ns={},
            z_v=self._latent(),
        )

    def _latent(self) -> np.ndarray[Any, Any] | None:
        return np.full((2, 3), self._mean, np.float32)


@dataclass(frozen=True)
class PlayedEvent:
    trial_id: str
    onset_s: float
    duration_s: float = 0.5
    stimulus_id: str = "picture.jpg"


@dataclass(frozen=True)
class PlayedRun:
    """A recorded run whose volume i holds nothing but i."""

    run_id: str
    volume_count: int
    events: tuple[PlayedEvent, ...] = ()
    tr_s: float = 1.0
    shape: tuple[int, int, int] = SHAPE
    affine = np.eye(4)

    def volumes(self) -> np.ndarray[Any, Any]:
        values = np.arange(self.volume_count, dtype=np.int16)
        return np.broadcast_to(
            values[:, None, None, None], (self.volume_count, *self.shape)
        )
