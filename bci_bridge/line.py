"""The sender's socket: one connection to a server, and a way to make it anew.

A thin edge: what is said, and when it is said again, is `bci_bridge.delivery`'s.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from uuid import uuid4

import zmq

from bci_bridge.header import Header
from bci_bridge.keyring import Credentials
from bci_bridge.messages import Goodbye, Hello, Reject, Welcome
from bci_bridge.window import WINDOW
from bci_bridge.wire import Envelope, decode, encode
from runtime.errors import BackendError, PeerError, UsageError

GREET_MS: Final = 100
"""A greeting without an answer is repeated after this long."""

GOODBYE_MS: Final = 200
"""How long a farewell may take to leave."""


class Greeting(NamedTuple):
    """A server's answer to HELLO, and between which instants it was given."""

    welcome: Welcome
    asked_ns: int
    """No later than that HELLO left, on this host's clock."""
    heard_ns: int
    """When the answer was there."""


class Line:
    """A DEALER socket with its context; `close` it.

    Attributes:
        address: Where the server listens.
    """

    def __init__(
        self, address: str, stream: str, credentials: Credentials | None = None
    ) -> None:
        """Connect; that needs no server yet.

        Raises:
            UsageError: If the address is not one.
        """
        self.address, self._stream = address, stream
        self._credentials = credentials
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._socket = self._connected()
        except BaseException:
            self._context.term()
            raise

    @property
    def is_closed(self) -> bool:
        """`close` was called."""
        return self._socket.closed

    def reconnect(self) -> None:
        """Begin anew, under another routing id.

        A connection can be dead without either end knowing (a pulled cable, a frozen
        host); and a server may hold the old routing id for alive.
        """
        self._socket.close(linger=0)
        self._socket = self._connected()

    def transmit(self, envelope: Envelope) -> bool:
        """Hand a message over to be sent; False where there is no connection."""
        try:
            self._socket.send_multipart(envelope.frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def poll(self, timeout_ms: int) -> bool:
        """Wait for an answer; say whether one is there."""
        return bool(self._socket.poll(timeout_ms))

    def answers(self) -> Iterator[Header]:
        """Read what has arrived.

        Raises:
            PeerError: If it is not a message.
        """
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield decode(frames).record

    def greet(
        self,
        hello: Hello,
        timeout_ns: int,
        clock_ns: Callable[[], int],
        is_cancelled: Callable[[], bool],
    ) -> Greeting:
        """Present the sender until the server answers.

        Args:
            hello: What to say.
            timeout_ns: How long to go on.
            clock_ns: Monotonic clock.
            is_cancelled: Asked while waiting; True gives up.

        Raises:
            BackendError: If no server answers, or the wait was cancelled.
            PeerError: If the server refuses.
        """
        begin_ns = clock_ns()
        # Answers come in the order of their questions, of which some may be lost: the
        # first that has none yet is never younger than the one that is answered.
        asked: deque[int] = deque()
        refusal: PeerError | None = None
        while (now_ns := clock_ns()) < begin_ns + timeout_ns:
            if is_cancelled():
                raise BackendError(
                    f"server {self.address}: expected an answer, "
                    "found none before the wait was cancelled"
                )
            if self.transmit(encode(hello)):
                asked.append(now_ns)
            if not self.poll(GREET_MS):
                continue
            answer = decode(self._socket.recv_multipart()).record
            asked_ns = asked.popleft() if asked else begin_ns
            if isinstance(answer, Welcome):
                return Greeting(answer, asked_ns, clock_ns())
            if isinstance(answer, Reject):
                refusal = PeerError(answer.reason, answer.detail)
                if answer.reason != "BUSY":
                    break
                self.poll(50)  # the other sender may be about to leave
        if refusal is not None:
            raise refusal
        remedy = "Is it running? If so, "
        if self._credentials is None:
            remedy += "does it ask for keys?"
        else:
            remedy += "is this key allowed, and is the server's key right?"
        raise BackendError(
            f"server {self.address}: expected an answer within "
            f"{timeout_ns / 1e9:g} s, found none. {remedy}"
        )

    def close(self) -> None:
        """Say goodbye, which frees the stream for another sender, and disconnect."""
        if not self._socket.closed:
            self.transmit(encode(Goodbye(stream=self._stream)))
        self._socket.close(linger=GOODBYE_MS)
        self._context.term()

    def _connected(self) -> "zmq.Socket[bytes]":
        options: dict[int, int | bytes] = {
            zmq.ROUTING_ID: f"{self._stream}-{uuid4().hex[:12]}".encode(),
            zmq.LINGER: 0,
            zmq.IMMEDIATE: 1,
            zmq.RECONNECT_IVL: 10,
            zmq.RECONNECT_IVL_MAX: 100,
            zmq.SNDHWM: 2 * WINDOW,
        }
        if self.address.startswith("tcp://["):
            options[zmq.IPV6] = 1
        if self._credentials is not None:
            pair = self._credentials.pair
            options[zmq.CURVE_PUBLICKEY] = pair.public_key.encode()
            options[zmq.CURVE_SECRETKEY] = pair.secret_key.encode()
            options[zmq.CURVE_SERVERKEY] = self._credentials.server_key.encode()
        socket = self._context.socket(zmq.DEALER)
        for option, value in options.items():
            socket.setsockopt(option, value)
        try:
            socket.connect(self.address)
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise UsageError(
                f"address {self.address!r}: expected tcp://HOST:PORT or ipc://PATH, "
                f"found {error.strerror}"
            ) from error
        return socket
