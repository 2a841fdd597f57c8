"""What a report of a decoding session holds: values only, no drawing and no files."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

Picture = UInt8[np.ndarray, "height width 3"]
"""An RGB picture, 0 to 255, row 0 at the top."""


@dataclass(frozen=True, slots=True)
class ReportCandidate:
    """One stimulus of the gallery, as near to a trial as retrieval found it."""

    stimulus_id: str
    label: str
    cosine: float
    """Cosine of the decoded latent with this stimulus's latent, in [-1, 1]."""
    image: Picture | None


@dataclass(frozen=True, slots=True)
class ReportTrial:
    """One trial: what was shown and what the system made of it."""

    trial_id: str
    run_id: str
    onset_s: float
    """Stimulus onset, seconds from the start of the run."""
    delay_s: float
    """From the stimulus onset to the answer, in seconds."""
    is_live: bool
    """True where volumes came at the TR, False where a run was played at full speed."""
    seen_id: str
    seen_label: str
    seen_image: Picture | None
    decoded_image: Picture | None
    decision: str
    """`ANSWER`, `ABSTAIN`, `NO_STIMULUS` or `WARMING`."""
    label: str | None
    """The label answered; None where nothing was answered."""
    confidence: float | None
    """Stated probability that the answer is right, in [0, 1]."""
    candidates: tuple[ReportCandidate, ...]
    """Nearest first."""
    is_correct: bool


@dataclass(frozen=True, slots=True)
class VolumeTiming:
    """How long one volume took from the end of its acquisition to its outcome."""

    run_id: str
    volume_index: int
    is_live: bool
    latency_ms: float
    """Not finite where the volume never came."""
    input: str
    """`OK`, `MISSING` or `INVALID`."""
    timing: str
    """`LIVE`, `LATE` or `CATCHUP`."""
    elapsed_s: float
    """When the outcome came, seconds from the start of the session."""


@dataclass(frozen=True, slots=True)
class Report:
    """A whole session, ready to be drawn."""

    title: str
    summary: dict[str, object]
    """The content of `summary.json`; unknown keys are shown as they are."""
    trials: tuple[ReportTrial, ...]
    timings: tuple[VolumeTiming, ...]
    provenance: tuple[tuple[str, str], ...]
    """Name and value: hashes, versions, machine, seed."""
    notes: tuple[str, ...]
    """What a reader must know to judge the figures, one sentence each."""

    @property
    def live_trials(self) -> tuple[ReportTrial, ...]:
        """The trials decoded at the pace of the scanner, in their given order."""
        return tuple(trial for trial in self.trials if trial.is_live)

    @property
    def fast_trials(self) -> tuple[ReportTrial, ...]:
        """The trials decoded at full speed, in their given order."""
        return tuple(trial for trial in self.trials if not trial.is_live)

    @property
    def has_images(self) -> bool:
        """Whether any trial shows what was seen; else labels are all there is."""
        return any(trial.seen_image is not None for trial in self.trials)
