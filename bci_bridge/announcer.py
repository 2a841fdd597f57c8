"""The publisher's socket, and how to be rid of a subscriber that lost its right.

A PUB socket cannot tell its subscribers apart once they are connected, so that a key
that is revoked would go on listening. The one way to part from it is to close the
socket and to open it anew: those who are still allowed come back by themselves, and ask
the replay socket for what was said meanwhile.
"""

from collections.abc import Sequence
from typing import Final

import zmq

from bci_bridge.endpoints import Lock, bound
from runtime.errors import BackendError

HIGH_WATER: Final = 1000
ATTEMPTS: Final = 100
"""Turns during which the port may still be held by the socket just closed."""


class Announcer:
    """A PUB socket that can throw everyone out.

    Attributes:
        endpoint: Where it listens, with the real port.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: str,
        lock: Lock | None,
    ) -> None:
        """Listen.

        Raises:
            UsageError: If the address is not allowed.
            BackendError: If it cannot be bound.
        """
        self._context, self._lock = context, lock
        self._socket: zmq.Socket[bytes] | None
        self._socket, self.endpoint = bound(
            context, zmq.PUB, address, high_water=HIGH_WATER, lock=lock
        )
        self._attempts = 0

    def send(self, frames: Sequence[bytes]) -> None:
        """Announce, to whoever is there; nobody is while the socket is opened anew."""
        if self._socket is None:
            self._reopen()
        if self._socket is not None:
            self._socket.send_multipart(frames)

    def expel(self) -> None:
        """Throw everyone out; whoever may come back will."""
        if self._socket is not None:
            self._socket.close(linger=0)
        self._socket, self._attempts = None, 0

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()

    def _reopen(self) -> None:
        # The old socket closes in another thread, so that its port may not be free yet.
        try:
            self._socket, _ = bound(
                self._context,
                zmq.PUB,
                self.endpoint,
                high_water=HIGH_WATER,
                lock=self._lock,
            )
        except BackendError:
            self._attempts += 1
            if self._attempts == ATTEMPTS:
                raise
