"""Who may send on which stream, and for how long a silent peer keeps that right. Pure.

A peer says HELLO and thereby leases a stream name. It keeps the lease while it is heard
from within `LEASE_NS`; a second peer with that name is BUSY until then, and takes over
where the first one stopped afterwards, or at once with the first one's secret and key.
A stream of the run under way goes back to the key that it has there at once.
"""

from dataclasses import dataclass
from typing import Final

from bci_bridge.header import Role
from bci_bridge.messages import Hello
from runtime.errors import PeerError

LEASE_NS: Final = 5_000_000_000
MAX_PEERS: Final = 64

MOST_OF_A_KEY: Final = 16
"""Peers under one key: no device shuts the others out."""


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

    def lease(
        self, peer: bytes, hello: Hello, now_ns: int, user: str, owner: str = ""
    ) -> set[bytes]:
        """Take a peer in, in the place of who had its stream.

        Args:
            peer: Routing id.
            hello: What it says.
            now_ns: When that was read.
            user: Its key; empty where there are none.
            owner: Key of this stream in the run under way; empty where it has none.

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
        leaving = set(former)
        if user and user == owner:
            leaving |= {rival for rival in rivals if self[rival].user != user}
        if any(not self[rival].is_silent(now_ns) for rival in rivals - leaving):
            raise PeerError("BUSY", f"stream {hello.stream!r} has a sender")
        silent = {one for one, known in self.items() if known.is_silent(now_ns)}
        staying = self.keys() - silent - leaving - {peer}
        if len(staying) >= MAX_PEERS:
            raise PeerError("BUSY", f"{MAX_PEERS} peers are connected")
        of_user = {one for one, known in self.items() if user and known.user == user}
        if len(of_user & staying) >= MOST_OF_A_KEY:
            raise PeerError("BUSY", f"{MOST_OF_A_KEY} peers of this key are connected")
        if len(self) >= MAX_PEERS:
            rivals |= silent
        if len(of_user - {peer}) >= MOST_OF_A_KEY:
            # A heartbeat would have them back beyond the share.
            rivals |= silent & of_user - {peer}
        for rival in rivals:
            self.pop(rival, None)
        stream = "" if hello.role == "observer" else hello.stream
        self[peer] = Peer(hello.role, stream, hello.run, now_ns, user, proof)
        return former
