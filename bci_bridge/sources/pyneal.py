"""Pyneal's place: unmodified Pyneal Scanner adapters send their volumes here.

Binds a PAIR socket, as Pyneal does. An adapter greets once, and is echoed; each volume
is answered before the next one comes, also one that is refused: an adapter waits for an
answer and would not send the next volume without. Whoever greets begins a series.
"""

import contextlib
from collections.abc import Callable
from typing import Final
from uuid import uuid4

import zmq

from bci_bridge.sources.listening import Place
from bci_bridge.sources.pyneal_message import (
    MAX_GREETING_BYTES,
    MAX_VOXEL_BYTES,
    volume_of,
)
from bci_bridge.sources.source import Arrival, Refused
from runtime.errors import ScanError

DEFAULT_PORT: Final = 5555
_SLACK_BYTES: Final = 1 << 20


class PynealSource:
    """A port at which one adapter at a time is heard.

    Attributes:
        address: Where it listens.
    """

    def __init__(
        self, place: Place, *, new_name: Callable[[], str] = lambda: uuid4().hex[:12]
    ) -> None:
        """Listen.

        Args:
            place: Where; port 0 takes any that is free.
            new_name: Tells a series from those of this and of other processes.

        Raises:
            ScanError: The port is taken.
        """
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        for option, value in (
            (zmq.LINGER, 200),
            (zmq.RCVHWM, 4),
            (zmq.SNDHWM, 4),
            (zmq.MAXMSGSIZE, MAX_VOXEL_BYTES + _SLACK_BYTES),
            (zmq.HANDSHAKE_IVL, 1000),
            (zmq.IPV6, 1 if ":" in place.host else 0),
            # An adapter whose machine is gone frees the place for another.
            (zmq.TCP_KEEPALIVE, 1),
            (zmq.TCP_KEEPALIVE_IDLE, 5),
            (zmq.TCP_KEEPALIVE_INTVL, 1),
            (zmq.TCP_KEEPALIVE_CNT, 3),
        ):
            self._socket.setsockopt(option, value)
        try:
            self._socket.bind(f"tcp://{place}")
        except zmq.ZMQError as error:
            self.close()
            raise ScanError(
                f"--listen {place}: expected a free port, found: {error.strerror}. "
                "Is Pyneal itself running?"
            ) from error
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._new_name = new_name
        self._series = ""

    def poll(self, wait_s: float) -> Arrival | None:
        """Give the next volume; answer whoever sent it."""
        if not self._socket.poll(round(wait_s * 1000)):
            return None
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        if len(frames) == 1 and len(frames[0]) <= MAX_GREETING_BYTES:
            self._answer(frames[0])
            self._series = f"pyneal-{self._new_name()}"
            return None
        try:
            volume = volume_of(frames, self._series)
        except ScanError as error:
            self._answer(b"refused")
            return Refused("a message of Pyneal Scanner", str(error))
        self._answer(b"received volIdx %d" % volume.number)
        return volume

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        self._context.term()

    def _answer(self, text: bytes) -> None:
        # Whoever has left meanwhile needs no answer.
        with contextlib.suppress(zmq.Again):
            self._socket.send(text, zmq.NOBLOCK)
