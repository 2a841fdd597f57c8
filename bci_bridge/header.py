"""What every message begins with, and the closed vocabularies of the wire.

Pure: plain typed records. Unknown fields are ignored, so that a newer peer can say
more; a field that must not be ignored is named in `Header.crit`, and a receiver that
does not know the name refuses the message. One major version per socket (`VERSION`).
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

VERSION = 1
"""Major version of the wire; agreed on by HELLO and WELCOME."""

MAX_SIDE = 1024
"""Largest side of a volume, in voxels."""

MAX_PAYLOAD_BYTES = 1 << 28
"""Largest payload: 256 MiB holds every volume that the largest volume schema needs."""

Name = Annotated[
    str, Meta(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$(?!\n)")
]
"""Run, stream, trial and stimulus names: one safe path component."""

OptionalName = Annotated[str, Meta(max_length=128, pattern=r"^[A-Za-z0-9._+-]*$(?!\n)")]
"""A name, or an empty string where there is nothing to name."""

MAX_TEXT: Final = 512
"""Characters of a text."""

Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Instant = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""Nanoseconds on the monotonic clock of the host that says it."""

Index = Annotated[int, Meta(ge=0, le=1_000_000)]
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
Shape = tuple[Side, Side, Side]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]

VoxelType = Literal["i2", "u2", "i4", "f4"]
"""Little-endian int16, uint16, int32 and float32."""

Role = Literal["scanner", "stimulus", "operator", "observer"]
Pace = Literal["live", "catchup"]
LatePolicy = Literal["flag", "hold-last", "drop"]

RejectReason = Literal[
    "BAD_PARTS",
    "BAD_SIZE",
    "BAD_HEADER",
    "BAD_VERSION",
    "UNKNOWN_CRITICAL",
    "BAD_CRC",
    "UNAUTHORISED",
    "NO_HELLO",
    "WRONG_ROLE",
    "WRONG_STREAM",
    "WRONG_RUN",
    "BUSY",
    "ILLEGAL_STATE",
    "SEQUENCE_JUMP",
    "CONFLICT",
    "BAD_COUNT",
    "BAD_GEOMETRY",
    "WRONG_BUNDLE",
    "DUPLICATE_VOLUME",
    "DUPLICATE_TRIAL",
    "SHAPE_MISMATCH",
    "INDEX_JUMP",
    "NO_SUCH_RUN",
    "RATE",
]
"""Why a message was refused; counted by the server under the same names."""


class Header(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", gc=False, weakref=False
):
    """The fields that all messages share; the wire fills in `sent_ns` and `nbytes`."""

    version: Annotated[int, Meta(ge=0, le=65535)] = VERSION
    run: OptionalName = ""
    """Run that the message belongs to; empty outside a run."""
    stream: OptionalName = ""
    """Who counts `sequence`: one sender's stream, or ``server``."""
    sequence: Count = 0
    """Contiguous from 0 per stream and run; never missing, resent until durable."""
    sent_ns: Instant = 0
    nbytes: Annotated[int, Meta(ge=0, le=MAX_PAYLOAD_BYTES)] = 0
    """Length of the payload frame."""
    crit: tuple[Annotated[str, Meta(max_length=64)], ...] = ()
    """Names of fields that a receiver must understand or refuse the message."""
