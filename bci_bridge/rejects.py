"""How the server says no to a message. Pure."""

from typing import Final

import msgspec

from bci_bridge.header import Header, RejectReason
from bci_bridge.messages import Reject
from runtime.errors import PeerError

FLOOD: Final = PeerError("RATE", "expected fewer messages a second, found a flood")


def reject_from(heard: Header, error: PeerError, now_ns: int) -> Reject:
    """Say no to a message that is not allowed; its sequence is not used up."""
    return msgspec.convert(
        {
            "kind": "REJECT",
            "run": heard.run,
            "stream": heard.stream,
            "sequence": heard.sequence,
            "sent_ns": now_ns,
            "reason": error.reason,
            "detail": error.detail[:512],
        },
        Reject,
    )


def consumed(heard: Header, reason: RejectReason, detail: str, now_ns: int) -> Reject:
    """Say that a message is on record, but its content cannot be used."""
    return Reject(
        run=heard.run,
        stream=heard.stream,
        sequence=heard.sequence,
        sent_ns=now_ns,
        reason=reason,
        detail=detail,
        is_consumed=True,
    )
