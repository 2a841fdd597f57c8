"""Who may send on which stream, and for how long a silent peer keeps that right. Pure.

A peer says HELLO and thereby leases a stream name. It keeps the lease while it is heard
from within `LEASE_NS`; a second peer with that name is BUSY until then, and takes over
where the first one stopped afterwards, or at once with the first one's secret and key.
"""

from dataclasses import dataclass
from typing import Final

from bci_bridge.header import Role
from bci_bridge.messages import Hello
from runtime.errors import PeerError

LEASE_NS: Final = 5_000_000_000
MAX_PEERS: Final = 64


@dataclass(slots=True)
class Peer:
    """One that has said HELLO."""

    role: Role
    stream: str
    run: str
    """That it spoke of last; empty where it named none."""
    seen_ns: int
    user: str
    """Public key; empty where there are none."""
    proof: tuple[str, str]
    """Secret of its HELLO and key: what takes its stream over at once."""

    def is_silent(self, now_ns: int) -> bool:
        """Say whether its lease has run out."""
        return now_ns - self.seen_ns >= LEASE_NS


class Leases(dict[bytes, Peer]):
    """Peers by routing id."""

    def lease(self, peer: bytes, hello: Hello, now_ns: int, user: str) -> set[bytes]:
        """Take a peer in, in the place of who had its stream.

        Returns:
            Those in whose place it is because it is the same sender, come back after a
            crash: its secret, under its key.

        Raises:
            PeerError: The stream has a sender, or there is no room.
        """
        proof = (hello.lease, user)
        rivals = {
            other
            for other, known in self.items()
            if other != peer and hello.stream and known.stream == hello.stream
        }
        former = {r for r in rivals if hello.lease and self[r].proof == proof}
        if any(not self[rival].is_silent(now_ns) for rival in rivals - former):
            raise PeerError("BUSY", f"stream {hello.stream!r} has a sender")
        silent = {one for one, known in self.items() if known.is_silent(now_ns)}
        if peer not in self and len(self) - len(silent) >= MAX_PEERS:
            raise PeerError("BUSY", f"{MAX_PEERS} peers are connected")
        if len(self) >= MAX_PEERS:
            rivals |= silent
        for rival in rivals:
            self.pop(rival, None)
        stream = "" if hello.role == "observer" else hello.stream
        self[peer] = Peer(hello.role, stream, hello.run, now_ns, user, proof)
        return former
