"""The messages that peers and server exchange; outcomes are in `bci_bridge.outcomes`.

Pure: types and their ranges only. `bci_bridge.wire` puts them into frames. Header
fields of a message that a caller builds may stay at their defaults: sender and server
fill in stream, sequence and instants.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from bci_bridge.header import (
    MAX_PAYLOAD_BYTES,
    VERSION,
    Count,
    Header,
    Index,
    Instant,
    LatePolicy,
    Name,
    OptionalName,
    Pace,
    RejectReason,
    Role,
    Sha256,
    Shape,
    Text,
    VoxelType,
)
from bci_bridge.outcomes import RunEnded, TrialOutcome, Update, VolumeOutcome
from runtime.answers import MOST_VOLUMES

__all__ = [
    "ITEM_BYTES",
    "VERSION",
    "Ack",
    "ConfigurationNote",
    "DecisionNote",
    "Event",
    "Goodbye",
    "Header",
    "Heartbeat",
    "Hello",
    "Message",
    "Missing",
    "Reject",
    "RejectReason",
    "ReplayDone",
    "ReplayRequest",
    "RigNote",
    "RunEnd",
    "RunEnded",
    "RunStart",
    "Shown",
    "StateNote",
    "TrialOutcome",
    "Trigger",
    "Update",
    "Volume",
    "VolumeOutcome",
    "Welcome",
]

MOST_SLICES = 80

SliceTimes = Annotated[
    tuple[Annotated[int, Meta(ge=0, le=60_000_000)], ...], Meta(max_length=MOST_SLICES)
]
"""Whole microseconds: as many as a header of 1 KiB holds."""
MOST_TOLD_CHARACTERS = 64
"""Of the names of confounds: as many as a header has room for beside slices' times."""
ConfoundName = Annotated[str, Meta(min_length=1, max_length=64)]
ConfoundNames = Annotated[tuple[ConfoundName, ...], Meta(max_length=32)]
Confounds = Annotated[dict[ConfoundName, float], Meta(max_length=32)]

ITEM_BYTES: dict[VoxelType, int] = {"i2": 2, "u2": 2, "i4": 4, "f4": 4}


class Hello(Header, frozen=True, kw_only=True, tag="HELLO"):
    """A peer presents itself; answered by WELCOME or REJECT."""

    versions: tuple[int, ...] = (VERSION,)
    """Major versions that the peer speaks."""
    role: Role
    software: Text = ""
    lease: OptionalName = ""
    """The sender's secret: with it, and under the same key, a stream changes hands at
    once instead of when its lease ends. Empty: it does not."""


class Welcome(Header, frozen=True, kw_only=True, tag="WELCOME"):
    """The server's answer to HELLO: where everything is and where the stream stands."""

    publish: Text
    """Endpoint on which outcomes are announced (SUB)."""
    replay: Text
    """Endpoint that hands out outcomes again (DEALER)."""
    received: Count = 0
    """Sequence that the server expects next from this stream in run `run`."""
    is_running: bool = False


class RunStart(Header, frozen=True, kw_only=True, tag="RUN_START"):
    """A run begins: what its volumes will be, and how punctual answers must be."""

    shape: Shape
    tr_s: Annotated[float, Meta(gt=0, le=60)]
    expected_volumes: Annotated[int, Meta(ge=1, le=MOST_VOLUMES)]
    budget_s: Annotated[float, Meta(gt=0, le=600)]
    """Deadline of a volume: this long after the end of its acquisition."""
    pace: Pace = "live"
    late: LatePolicy = "flag"
    affine: tuple[float, ...] | None = None
    """Row-major 4 x 4 matrix from voxel indices to millimetres; None if unknown."""
    subject: OptionalName = ""
    session: OptionalName = ""
    task: OptionalName = ""
    is_rehearsal: bool = False
    """A recording plays the scanner; all else is as it will be."""
    bundle_sha256: Sha256 | None = None
    """Refuse the run unless the server has loaded exactly this bundle."""
    gallery_sha256: Sha256 | None = None
    slice_times_us: SliceTimes | UnsetType = UNSET
    """When each slice along z is acquired, in microseconds after the start of its
    volume; left out where nobody knows, or where slices do not lie along z."""
    updates: bool = False
    """Send earlier estimates of trials as well, while there is time for them."""
    confound_names: ConfoundNames | UnsetType = UNSET
    """Names of what will come with each volume; a bundle that asks for others refuses
    the run. Left out where a sender does not say, and each volume then shows it."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tr_s) and math.isfinite(self.budget_s)):
            raise ValueError("tr_s and budget_s: expected finite seconds")
        if self.affine is not None and (
            len(self.affine) != 16 or not all(map(math.isfinite, self.affine))
        ):
            raise ValueError("affine: expected 16 finite numbers")


class RunEnd(Header, frozen=True, kw_only=True, tag="RUN_END"):
    """A run is over; `count` acquisitions were made, whether or not all arrived."""

    count: Index
    aborted: bool = False


class Clocked(Header, frozen=True, kw_only=True):
    """A message that tells instants of its sender's clock; never sent itself."""

    clock_offset_ns: Instant | None = None
    """That clock minus the server's, as the sender estimates it; None if unknown."""
    clock_uncertainty_ns: Count | None = None
    """The true offset is no further away."""


class Volume(Clocked, frozen=True, kw_only=True, tag="VOLUME"):
    """One acquisition; the payload is its voxels in C order, little-endian."""

    volume_index: Index
    acquired_ns: Instant
    """End of acquisition on the sender's monotonic clock."""
    dtype: VoxelType
    shape: Shape
    confounds: Confounds | UnsetType = UNSET
    """What else is known of this acquisition, such as breathing, by the names that the
    bundle's estimator has; left out where nothing is."""

    def __post_init__(self) -> None:
        wanted = math.prod(self.shape) * ITEM_BYTES[self.dtype]
        if wanted > MAX_PAYLOAD_BYTES:
            raise ValueError(f"shape: expected at most {MAX_PAYLOAD_BYTES} bytes")


class Missing(Header, frozen=True, kw_only=True, tag="MISSING"):
    """The source says that this acquisition will never come."""

    volume_index: Index
    reason: Text = ""


class Event(Clocked, frozen=True, kw_only=True, tag="EVENT"):
    """A stimulus is presented."""

    trial_id: Name
    onset_s: Annotated[float, Meta(ge=-3600, le=86400)]
    """After the start of acquisition of volume 0."""
    duration_s: Annotated[float, Meta(ge=0, le=3600)]
    stimulus_id: Text = ""
    """What is shown, for the record; the decoder is never told."""
    shown_ns: Instant | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.onset_s) and math.isfinite(self.duration_s)):
            raise ValueError("onset_s and duration_s: expected finite seconds")


class Trigger(Clocked, frozen=True, kw_only=True, tag="TRIGGER"):
    """The scanner's pulse at the start of an acquisition."""

    volume_index: Index
    pulsed_ns: Instant


class Shown(Clocked, frozen=True, kw_only=True, tag="SHOWN"):
    """What really reached the participant, for the record."""

    what: Text
    shown_ns: Instant
    trial_id: OptionalName = ""
    display_frame: Count | None = None
    """Which frame of the display showed it first, as the display counts them."""


class Ack(Header, frozen=True, kw_only=True, tag="ACK"):
    """Cumulative: all sequences below `received` are logged, below `durable` synced.

    `received` survives the end of the process, `durable` the loss of power.
    """

    received: Count
    durable: Count
    recording: Literal["ON", "DEGRADED", "OFF"] = "ON"
    """Unless ON, `durable` will not advance: do not wait for it."""
    echo_ns: Instant | None = None
    """`sent_ns` of the message that this answers; None where it answers none."""


class Reject(Header, frozen=True, kw_only=True, tag="REJECT"):
    """One message was refused; `sequence` names it."""

    reason: RejectReason
    detail: Text = ""
    is_consumed: bool = False
    """The sequence advanced: the message is logged, its content not used."""


class Heartbeat(Header, frozen=True, kw_only=True, tag="HEARTBEAT"):
    """Nothing but a sign of life; the server's tells how many outcomes there are."""

    outcome_count: Count = 0


class Goodbye(Header, frozen=True, kw_only=True, tag="GOODBYE"):
    """The peer leaves; its stream is free for another."""


class ReplayRequest(Header, frozen=True, kw_only=True, tag="REPLAY"):
    """Ask for the outcomes of run `run` (empty: the newest) from one index on."""

    from_index: Count = 0
    limit: Annotated[int, Meta(ge=1, le=256)] = 256


class ReplayDone(Header, frozen=True, kw_only=True, tag="REPLAY_DONE"):
    """End of one replay answer."""

    next_index: Count
    """Ask again from here while it is below `outcome_count`. Where no outcome came and
    this is beyond the index asked for, those between are lost for good."""
    outcome_count: Count
    has_ended: bool
    is_known: bool = True
    """False where the server no longer, or never, had this run."""
    run_before: OptionalName = ""
    """The run that this one followed; empty where the server knows of none."""


class DecisionNote(Header, frozen=True, kw_only=True, tag="DECISION"):
    """A decision that a replay of the log must repeat; stays in the log."""

    what: Literal[
        "LATE_VOLUME_NOT_USED",
        "MISSING_BY_DEADLINE",
        "RUN_TAKEN_OVER",
        "SERVER_STOPPED",
        "STREAM_KEY",
    ]
    volume_index: Index | None = None
    detail: Text = ""


class RigNote(Header, frozen=True, kw_only=True, tag="RIG"):
    """What a server computes with; the first message of its log, and stays there.

    Equal notes and equal bundles are what makes answers comparable bit for bit.
    """

    backend: Name
    precision: Name
    threads: Index | None
    """Of one evaluation; None leaves the choice to the library."""
    processors: Index
    """What the library chooses from."""
    abstain_below: Annotated[float, Meta(ge=0, le=1)]
    cpu: tuple[Text, ...]
    """Machine and instruction sets that numerical libraries choose kernels by."""
    versions: dict[str, Text]
    """Of the engine library and of all that computes beside it."""


class ConfigurationNote(Header, frozen=True, kw_only=True, tag="CONFIGURATION"):
    """What a run is done with, frozen at its start; stays in the log of outcomes.

    The payload is `bci_bridge.configuration.Configuration` as JSON.
    """

    sha256: Sha256
    """As every outcome of the run cites it."""


class StateNote(Header, frozen=True, kw_only=True, tag="STATE"):
    """What a log's writer knew when a segment began; stays in the log.

    The payload is `bci_bridge.ledger.LedgerState`. With it a writer that was killed
    goes on after reading one segment, whatever the length of the run.
    """


Message = (
    Hello
    | Welcome
    | RunStart
    | RunEnd
    | Volume
    | Missing
    | Event
    | Trigger
    | Shown
    | Ack
    | Reject
    | Heartbeat
    | Goodbye
    | ReplayRequest
    | ReplayDone
    | DecisionNote
    | RigNote
    | StateNote
    | ConfigurationNote
    | VolumeOutcome
    | TrialOutcome
    | Update
    | RunEnded
)
"""Every kind of message; `kind` on the wire tells which."""


def slice_times_us(times_s: Sequence[float]) -> tuple[int, ...] | UnsetType:
    """Return slices' times as a RUN_START has them; left out where it has no room."""
    if not 0 < len(times_s) <= MOST_SLICES:
        return UNSET
    return tuple(round(1e6 * time_s) for time_s in times_s)


def confound_names(names: Sequence[str]) -> tuple[str, ...] | UnsetType:
    """Return names as a RUN_START has them; left out where it has no room."""
    is_short = sum(len(name.encode()) + 1 for name in names) <= MOST_TOLD_CHARACTERS
    return tuple(names) if is_short else UNSET


def kind_of(record: Header) -> str:
    """Name the kind of a message as the wire does."""
    return str(msgspec.inspect.type_info(type(record)).tag)  # type: ignore[attr-defined]
