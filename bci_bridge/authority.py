"""What a key may say: its roles against one message.

Pure. `bci_bridge.protocol` asks for every message, with the device that the allow-list
names at that instant, so that a revoked key or a lost role counts from the next
message on. Where there are no keys there is no device, and nothing is asked here.
"""

from typing import Final

from bci_bridge.header import Header, Role
from bci_bridge.keyring import Device
from bci_bridge.messages import (
    Event,
    Goodbye,
    Heartbeat,
    Hello,
    Missing,
    ReplayRequest,
    RunEnd,
    RunStart,
    Shown,
    Trigger,
    Volume,
    kind_of,
)
from runtime.errors import PeerError

ROLES: Final[dict[type[Header], frozenset[Role]]] = {
    RunStart: frozenset({"scanner", "operator"}),
    RunEnd: frozenset({"scanner", "operator"}),
    Volume: frozenset({"scanner"}),
    Missing: frozenset({"scanner"}),
    Event: frozenset({"scanner", "stimulus"}),
    Trigger: frozenset({"scanner", "stimulus"}),
    Shown: frozenset({"scanner", "stimulus"}),
}
"""Which kind of peer says what. A scanner may report events: recordings have both."""

SAYS: Final[dict[type[Header], Role]] = {
    RunStart: "scanner",
    RunEnd: "scanner",
    Volume: "scanner",
    Missing: "scanner",
    Trigger: "scanner",
    Event: "stimulus",
    Shown: "stimulus",
    ReplayRequest: "observer",
}
"""The role that a key needs for a message; the operator's key may say everything."""


def check_authority(device: Device | None, record: Header) -> None:
    """Refuse what the roles of a key do not allow.

    Args:
        device: Whose key the message came under; None on a server without keys.
        record: What it says.

    Raises:
        PeerError: UNAUTHORISED.
    """
    if device is None or isinstance(record, Heartbeat | Goodbye):
        return
    if isinstance(record, Hello):
        if not device.has_role(record.role):
            raise PeerError(
                "UNAUTHORISED", f"key {device.name!r} may not be {record.role}"
            )
        return
    needed = SAYS.get(type(record))
    if not (device.has_role() if needed is None else device.has_role(needed)):
        raise PeerError(
            "UNAUTHORISED", f"key {device.name!r} may not send {kind_of(record)}"
        )
