"""What the protocol asks the server to do: the outputs of `bci_bridge.protocol`.

Pure values. They are carried out in the order in which they are given, which is what
makes an answer recorded before it is published.
"""

from dataclasses import dataclass
from typing import Literal

from bci_bridge.messages import (
    DecisionNote,
    Event,
    Header,
    RejectReason,
    RunEnd,
    RunStart,
    Volume,
)
from bci_bridge.wire import Envelope


@dataclass(frozen=True, slots=True)
class Log:
    """Append an accepted message to the recording."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Note:
    """Append a decision of the server's own to the recording."""

    record: DecisionNote


@dataclass(frozen=True, slots=True)
class Reply:
    """Send a control message to one peer."""

    peer: bytes
    record: Header


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Tell a peer how far its stream is logged."""

    peer: bytes
    run: str
    stream: str
    received: int
    echo_ns: int | None = None
    """Instant of the message that this answers, on its sender's clock."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell a peer that the content of a logged message is not used."""

    peer: bytes
    envelope: Envelope
    reason: RejectReason
    detail: str


@dataclass(frozen=True, slots=True)
class StartRun:
    """A run has begun; its outcomes count from 0."""

    record: RunStart


@dataclass(frozen=True, slots=True)
class AddTrial:
    """Tell the decoder of a presentation."""

    record: Event


@dataclass(frozen=True, slots=True)
class AddVolume:
    """Decode a volume and publish its outcome."""

    record: Volume
    envelope: Envelope
    received_ns: int
    deadline_ns: int | None
    degraded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SkipVolume:
    """Publish the outcome of an acquisition that cannot be decoded."""

    volume_index: int
    input: Literal["MISSING", "INVALID"]
    reason: str
    deadline_ns: int | None
    volume: Volume | None = None
    """The unusable volume, where one came."""
    input_crc32: int | None = None
    received_ns: int | None = None


@dataclass(frozen=True, slots=True)
class EndRun:
    """Answer what is open and publish the end of the run."""

    record: RunEnd


Action = (
    Log
    | Note
    | Reply
    | Acknowledge
    | Refuse
    | StartRun
    | AddTrial
    | AddVolume
    | SkipVolume
    | EndRun
)
