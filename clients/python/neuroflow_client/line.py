"""The line to a server: its sockets, and how long its silence is borne."""

import contextlib
from typing import Any, Optional

import zmq

from neuroflow_client.errors import SilenceError
from neuroflow_client.frames import Frames, frames_from
from neuroflow_client.keys import keys_from

_MAX_BYTES = 1 << 29
_ASK_AGAIN_MS = 500
"""Without an answer for this long, outcomes are asked for once more."""


class Line:
    """Makes the sockets to one server, and waits for what it says.

    Attributes:
        address: Where the server listens.
    """

    def __init__(
        self,
        address: str,
        timeout_s: float,
        key_file: Optional[str],
        server_key_file: Optional[str],
    ) -> None:
        """Read the keys; nothing is connected yet.

        Raises:
            KeyFileError: If a key file is missing, damaged, or readable by others.
        """
        self._keys = keys_from(key_file, server_key_file)
        self.address, self._timeout_s = address, timeout_s

    def socket(self, context: Any, kind: int) -> Any:
        """Make a socket that has what this server asks of it."""
        socket = context.socket(kind)
        socket.setsockopt(zmq.LINGER, 500)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_BYTES)
        if self.address.startswith("tcp://["):
            socket.setsockopt(zmq.IPV6, 1)
        if self._keys is not None:
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.public_key)
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret_key)
            socket.setsockopt(zmq.CURVE_SERVERKEY, self._keys.server_key)
        return socket

    def connect(self, socket: Any) -> None:
        """Connect a socket to the address.

        Raises:
            SilenceError: If it is no address.
        """
        try:
            socket.connect(self.address)
        except zmq.ZMQError as error:
            raise SilenceError(
                f"server {self.address}: expected tcp://HOST:PORT, found {error}"
            ) from error

    def next(self, socket: Any, question: "Optional[list[bytes]]" = None) -> Frames:
        """Wait for a message; ask again meanwhile, for who was asked may have died.

        Raises:
            SilenceError: If none comes in time.
            ProtocolError: If what comes is not a message.
        """
        left_ms = round(self._timeout_s * 1000)
        while left_ms > 0:
            slice_ms = left_ms if question is None else min(left_ms, _ASK_AGAIN_MS)
            if socket.poll(slice_ms):
                return frames_from(socket.recv_multipart())
            left_ms -= slice_ms
            if question is not None:
                say(socket, question)
        remedy = "Is it running? If so, "
        if self._keys is None:
            remedy += "does it ask for keys?"
        else:
            remedy += "is this key allowed, and is the server's key right?"
        raise SilenceError(
            f"server {self.address}: expected a sign of life within "
            f"{self._timeout_s:g} s, found none. {remedy}"
        )


def say(socket: Any, frames: "list[bytes]") -> None:
    """Send a message, or leave it where nobody can take it."""
    # A server that refuses this end's key, or the lack of one, takes the connection
    # away for good, and with it whatever could be waited for: its silence is told.
    with contextlib.suppress(zmq.Again):
        socket.send_multipart(frames, zmq.NOBLOCK)
