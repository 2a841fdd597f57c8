"""What the protocol asks the server to do: the outputs of `bci_bridge.protocol`.

Pure values. They are carried out in the order in which they are given, which is what
makes an answer recorded before it is published.
"""

from typing import Literal

import msgspec

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


class Log(msgspec.Struct, frozen=True, gc=False):
    """Append an accepted message to the recording."""

    envelope: Envelope


class Note(msgspec.Struct, frozen=True, gc=False):
    """Append a decision of the server's own to the recording."""

    record: DecisionNote


class Reply(msgspec.Struct, frozen=True, gc=False):
    """Send a control message to one peer."""

    peer: bytes
    record: Header


class Acknowledge(msgspec.Struct, frozen=True, gc=False):
    """Tell a peer how far its stream is logged."""

    peer: bytes
    run: str
    stream: str
    received: int
    echo_ns: int | None = None
    """Instant of the message that this answers, on its sender's clock."""


class Refuse(msgspec.Struct, frozen=True, gc=False):
    """Tell a peer that the content of a logged message is not used."""

    peer: bytes
    envelope: Envelope
    reason: RejectReason
    detail: str


class StartRun(msgspec.Struct, frozen=True, gc=False):
    """A run has begun; its outcomes count from 0."""

    record: RunStart


class AddTrial(msgspec.Struct, frozen=True, gc=False):
    """Tell the decoder of a presentation."""

    record: Event


class AddVolume(msgspec.Struct, frozen=True, gc=False):
    """Decode a volume and publish its outcome."""

    record: Volume
    envelope: Envelope
    received_ns: int
    deadline_ns: int | None
    degraded: tuple[str, ...]


class SkipVolume(msgspec.Struct, frozen=True, gc=False):
    """Publish the outcome of an acquisition that cannot be decoded."""

    volume_index: int
    input: Literal["MISSING", "INVALID"]
    reason: str
    deadline_ns: int | None
    volume: Volume | None = None
    """The unusable volume, where one came."""
    input_crc32: int | None = None
    received_ns: int | None = None
    degraded: tuple[str, ...] = ()


class EndRun(msgspec.Struct, frozen=True, gc=False):
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
