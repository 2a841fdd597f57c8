"""The answers: one per acquisition, one final per trial, and what may come besides.

Pure: types only. Arrays travel in the payload as safetensors, listed in `arrays`.
`outcome_index` is contiguous from 0 per run over all kinds here, so that whoever
listens sees a gap; the last one of a run is its RUN_ENDED.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bci_bridge.header import (
    Count,
    Header,
    Index,
    Instant,
    Name,
    OptionalName,
    Text,
)

Input = Literal["OK", "MISSING", "INVALID"]
Timing = Literal["LIVE", "LATE", "CATCHUP"]
Decision = Literal["ANSWER", "ABSTAIN", "NO_STIMULUS", "WARMING"]
Unit = Annotated[float, Meta(ge=0, le=1)]


class ScoredStimulus(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry of the gallery with its score."""

    stimulus_id: Text
    label: Text
    cosine: float


class Outcome(Header, frozen=True, kw_only=True):
    """What all outcomes share; never sent itself."""

    outcome_index: Count
    decided_ns: Instant
    """When the decision was there, on the server's monotonic clock."""
    published_ns: Instant
    """When it was written to the log, immediately before it is published."""
    degraded: tuple[Text, ...] = ()
    """What was not as it should be; empty when all was."""
    bundle_sha256: str = ""
    gallery_sha256: str = ""
    preprocessing_sha256: str = ""
    configuration_sha256: str = ""
    """Of all that the run is done with (`bci_bridge.configuration`)."""
    overlay_sha256: str | None = None
    """The day's calibration; None without one."""
    stage_ns: dict[str, int] = msgspec.field(default_factory=dict)
    """Duration of each stage of the computation."""
    arrays: tuple[Text, ...] = ()
    """Names of the arrays in the payload."""


class VolumeOutcome(Outcome, frozen=True, kw_only=True, tag="VOLUME_OUTCOME"):
    """The one answer that an acquisition gets."""

    volume_index: Index
    input: Input
    timing: Timing
    reason: OptionalName = ""
    """Why the input is not OK."""
    quality: dict[str, float] = msgspec.field(default_factory=dict)
    input_crc32: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] | None = None
    """CRC of the message that was decoded; None where there was none."""
    acquired_ns: Instant | None = None
    received_ns: Instant | None = None
    deadline_ns: Instant | None = None
    clock_offset_ns: int | None = None
    """Scanner's clock (that of `acquired_ns`) minus the server's; None if unknown."""
    clock_uncertainty_ns: int | None = None
    decision: Decision | None = None
    """None where the bundle answers trials."""
    label: Text | None = None
    confidence: Unit | None = None
    candidates: tuple[ScoredStimulus, ...] = ()
    abstention: Text | None = None
    """Why there is no answer."""


class TrialOutcome(Outcome, frozen=True, kw_only=True, tag="TRIAL_OUTCOME"):
    """The one final answer that a trial gets; never edited."""

    trial_id: Name
    decision: Decision
    label: Text | None = None
    confidence: Unit | None = None
    candidates: tuple[ScoredStimulus, ...] = ()
    """Best first."""
    abstention: Text | None = None
    onset_s: float
    delay_s: float
    """From the onset to the end of the last volume used."""
    first_volume: int
    last_volume: int
    """-1 where no volume was used."""
    volumes_used: int
    timing: Timing
    """Of the volume whose arrival made the answer due."""
    after_volume: int
    """Acquisition after which it was decided; -1 before the first."""
    clock_offset_ns: int | None = None
    """Clock of who announced the trial minus the server's; None if unknown."""
    clock_uncertainty_ns: int | None = None


class Update(Outcome, frozen=True, kw_only=True, tag="UPDATE"):
    """An earlier estimate of a trial, or an image that took longer; may be dropped."""

    trial_id: Name
    decision: Decision
    label: Text | None = None
    confidence: Unit | None = None
    """None of an earlier estimate: none was fitted for it."""
    candidates: tuple[ScoredStimulus, ...] = ()
    """Best first."""
    abstention: Text | None = None
    """Why there is no answer."""
    delay_s: float | None = None
    """From the onset to the end of the last volume used."""
    last_volume: int = -1
    volumes_used: int = 0
    after_volume: int = -1
    """Acquisition after which it was estimated."""
    after_input: Count | None = None
    """Place in the log of inputs of the last message that it rests on."""


class RunEnded(Outcome, frozen=True, kw_only=True, tag="RUN_ENDED"):
    """The last outcome of a run: nothing will follow."""

    count: Index
    """Acquisitions, each of which has its outcome."""
    aborted: bool
    inputs: dict[str, int] = msgspec.field(default_factory=dict)
    """Volume outcomes by input."""
    decisions: dict[str, int] = msgspec.field(default_factory=dict)
    """Trial outcomes by decision."""
