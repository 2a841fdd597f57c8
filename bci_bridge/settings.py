"""What a server is told, and what it tells: plain values."""

from typing import Annotated

import msgspec


class ServeConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Where to listen and what to keep."""

    address: str = "tcp://127.0.0.1:5760"
    """Where scanner, stimulus software and clients connect; port * picks a free one."""
    publish: str = "tcp://127.0.0.1:*"
    """Where outcomes are announced; clients learn it from the server."""
    replay: str = "tcp://127.0.0.1:*"
    """Where outcomes can be asked for again; clients learn it from the server."""
    keys: str | None = None
    """Folder of keys; with it every socket asks for one (docs/security.md)."""
    recording: str | None = None
    """Folder for the log; without it nothing is durable."""
    input_queue: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 32
    """Messages per peer that wait in memory before the peer is held back."""


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server really listens."""

    address: str
    publish: str
    replay: str


class ServeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a server did in its life."""

    runs: int
    outcomes: dict[str, int]
    """By kind."""
    rejected: dict[str, int]
    """Refused messages by reason."""
    recording: str
    """ON, DEGRADED or OFF."""
    self_attacks: int = 0
    """Attacks of the server on itself that were refused; 0 without keys."""
