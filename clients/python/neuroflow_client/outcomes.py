"""The outcomes as this client understands them.

Tolerant: unknown fields are ignored, and fields without which an outcome still makes
sense have defaults, so that client and server need not be updated together.
"""

from typing import Any, Optional, Union

import msgspec
import numpy as np

Arrays = dict[str, "np.ndarray[Any, Any]"]


class ScoredStimulus(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the gallery with its score."""

    stimulus_id: str
    label: str = ""
    cosine: float = 0.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What all outcomes share."""

    run: str
    outcome_index: int
    """Contiguous from 0 in each run."""
    sequence: int = 0
    sent_ns: int = 0
    decided_ns: int = 0
    """When the decision was there, on the server's monotonic clock."""
    published_ns: int = 0
    """When it was on record and about to leave."""
    degraded: tuple[str, ...] = ()
    """What was not as it should be; empty when all was."""
    bundle_sha256: str = ""
    gallery_sha256: str = ""
    preprocessing_sha256: str = ""
    configuration_sha256: str = ""
    overlay_sha256: Optional[str] = None
    stage_ns: dict[str, int] = msgspec.field(default_factory=dict)
    """Duration of each stage of the computation."""
    arrays: Any = ()
    """Arrays by name."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What keeps this from being sound, such as LATE; empty where nothing does."""
        return self.degraded

    @property
    def is_sound(self) -> bool:
        """Whether it came of all that it needed, and in time.

        What is not sound must not change what a participant sees or hears. Whether a
        sound outcome has an answer is for `decision` to say.
        """
        return not self.faults


class VolumeOutcome(Outcome, frozen=True, kw_only=True):
    """The one answer that an acquisition gets."""

    volume_index: int
    input: str
    """OK, MISSING or INVALID."""
    timing: str
    """LIVE, LATE or CATCHUP."""
    reason: str = ""
    quality: dict[str, float] = msgspec.field(default_factory=dict)
    input_crc32: Optional[int] = None
    acquired_ns: Optional[int] = None
    received_ns: Optional[int] = None
    deadline_ns: Optional[int] = None
    clock_offset_ns: Optional[int] = None
    clock_uncertainty_ns: Optional[int] = None
    decision: Optional[str] = None
    """None where the model answers trials, not volumes."""
    label: Optional[str] = None
    confidence: Optional[float] = None
    candidates: tuple[ScoredStimulus, ...] = ()
    abstention: Optional[str] = None

    @property
    def faults(self) -> tuple[str, ...]:
        """As of every outcome; that there was no sound volume is one."""
        lack = () if self.input == "OK" else (self.input, self.reason)
        return (*filter(None, lack), *_not_live(self.timing), *self.degraded)


class TrialOutcome(Outcome, frozen=True, kw_only=True):
    """The one final answer that a trial gets."""

    trial_id: str
    decision: str
    """ANSWER, ABSTAIN, NO_STIMULUS or WARMING."""
    label: Optional[str] = None
    confidence: Optional[float] = None
    """Calibrated probability that the best candidate is right."""
    candidates: tuple[ScoredStimulus, ...] = ()
    """Best first."""
    abstention: Optional[str] = None
    """Why there is no answer."""
    onset_s: float = 0.0
    delay_s: float = 0.0
    """From the onset to the end of the last volume used."""
    first_volume: int = -1
    last_volume: int = -1
    volumes_used: int = 0
    timing: str = "LIVE"
    after_volume: int = -1
    clock_offset_ns: Optional[int] = None
    clock_uncertainty_ns: Optional[int] = None

    @property
    def faults(self) -> tuple[str, ...]:
        """As of every outcome."""
        return (*_not_live(self.timing), *self.degraded)


class Update(Outcome, frozen=True, kw_only=True):
    """An earlier estimate of a trial, or an image that took longer."""

    trial_id: str
    decision: str
    label: Optional[str] = None
    confidence: Optional[float] = None
    """None of an earlier estimate: none was fitted for it."""
    candidates: tuple[ScoredStimulus, ...] = ()
    """Best first."""
    abstention: Optional[str] = None
    delay_s: Optional[float] = None
    """From the onset to the end of the last volume used."""
    last_volume: int = -1
    volumes_used: int = 0
    after_volume: int = -1
    after_input: Optional[int] = None


class RunEnded(Outcome, frozen=True, kw_only=True):
    """The last outcome of a run."""

    count: int = 0
    aborted: bool = False
    inputs: dict[str, int] = msgspec.field(default_factory=dict)
    decisions: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def faults(self) -> tuple[str, ...]:
        """As of every outcome; that the run was broken off is one."""
        return (*(("ABORTED",) if self.aborted else ()), *self.degraded)


def _not_live(timing: str) -> tuple[str, ...]:
    return () if timing == "LIVE" else (timing,)


AnyOutcome = Union[VolumeOutcome, TrialOutcome, Update, RunEnded]
"""What a `Client` yields."""

KINDS: "dict[str, type[Outcome]]" = {
    "VOLUME_OUTCOME": VolumeOutcome,
    "TRIAL_OUTCOME": TrialOutcome,
    "UPDATE": Update,
    "RUN_ENDED": RunEnded,
}
