"""One TCP port at which other software hands over volumes, one connection at a time.

A thin edge: what is said is a conversation's business, a generator that asks for so
many bytes, is given exactly these, and leaves what it made of them in a list. It never
sees a socket, and no more is ever read than it asked for.
"""

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final
from uuid import uuid4

from bci_bridge.sources.conversation import NewConversation
from bci_bridge.sources.listening import Place
from bci_bridge.sources.source import Arrival, Refused
from runtime.errors import ScanError

MESSAGE_S: Final = 10.0
"""A peer that takes longer for one part of a message is sent away."""
IDLE_S: Final = 30.0
"""After so long without a word a peer makes room for another that has come."""
_FAREWELL_S: Final = 1.0
"""A run is complete with its last volume; its sender has yet to say goodbye."""
_CHUNK: Final = 1 << 20


class TcpSource:
    """What one peer after the other says.

    Attributes:
        port: Where it listens.
    """

    def __init__(
        self,
        place: Place,
        what: str,
        begin: NewConversation,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        new_name: Callable[[], str] = lambda: uuid4().hex[:12],
    ) -> None:
        """Listen.

        Args:
            place: Where; port 0 takes any that is free.
            what: A word for the protocol.
            begin: Begins a conversation.
            clock_s: Monotonic clock.
            new_name: Tells a connection from those of this and of other processes.

        Raises:
            ScanError: The port is taken.
        """
        self._what, self._begin = what, begin
        self._clock_s, self._new_name = clock_s, new_name
        self._arrivals: list[Arrival] = []
        self._ready: deque[Arrival] = deque()
        self._peer: socket.socket | None = None
        family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((place.host, place.port))
            self._listener.listen(4)
        except OSError as error:
            self._listener.close()
            raise ScanError(
                f"--listen {place}: expected a free port, found: {error.strerror}"
            ) from error
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])

    def poll(self, wait_s: float) -> Arrival | None:
        """Give what the peer said next."""
        if not self._ready:
            if self._peer is None:
                self._accept(wait_s)
            if self._peer is not None:
                self._hear(self._peer, wait_s)
            self._ready.extend(self._arrivals)
            self._arrivals.clear()
        return self._ready.popleft() if self._ready else None

    def close(self) -> None:
        """Let the peer say its last words, hang up, and stop listening."""
        end_s = self._clock_s() + _FAREWELL_S
        while self._peer is not None and (left_s := end_s - self._clock_s()) > 0:
            self._arrivals.clear()
            self._hear(self._peer, left_s)
            if not self._arrivals:
                break
        self._hang_up()
        self._listener.close()

    def _accept(self, wait_s: float) -> None:
        self._listener.settimeout(max(wait_s, 1e-3))
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return  # none has come, or it has left already
        for level, option, value in (
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        ):
            peer.setsockopt(level, option, value)
        self._peer, self._buffer = peer, bytearray()
        self._spoke_s = self._began_s = self._clock_s()
        name = f"{self._what}-{self._new_name()}"
        self._talk = self._begin(name, self._arrivals)
        self._wanted = 0
        self._go_on(None)

    def _hear(self, peer: socket.socket, wait_s: float) -> None:
        """Read until something has arrived or the time is over.

        A peer that never pauses is left in time, too: the server hears nothing of this
        process meanwhile, and the operator's signals wait.
        """
        end_s = self._clock_s() + wait_s
        is_first = True
        while self._peer is peer and not self._arrivals:
            left_s = end_s - self._clock_s()
            if left_s <= 0 and not is_first:
                self._lose_patience()
                return
            is_first = False
            peer.settimeout(max(left_s, 1e-3))
            missing = self._wanted - len(self._buffer)
            try:
                data = peer.recv(min(missing, _CHUNK))
            except TimeoutError:
                self._lose_patience()
                return
            except OSError:
                data = b""
            if not data:
                self._left()
                return
            self._spoke_s = self._clock_s()
            if not self._buffer:
                self._began_s = self._spoke_s
            try:
                self._buffer += data
            except MemoryError:
                self._refuse("expected what memory holds, found more")
                return
            if len(self._buffer) == self._wanted:
                whole = bytes(self._buffer)
                self._buffer.clear()
                self._go_on(whole)

    def _go_on(self, data: bytes | None) -> None:
        """Give a conversation what it asked for, until it asks for more."""
        try:
            while True:
                asked = next(self._talk) if data is None else self._talk.send(data)
                if isinstance(asked, int) and asked > 0:
                    self._wanted = asked
                    return
                if isinstance(asked, bytes) and self._peer is not None:
                    with contextlib.suppress(OSError):
                        self._peer.sendall(asked)
                data = b""
        except StopIteration:
            self._hang_up()
        except ScanError as error:
            self._refuse(str(error))
        except MemoryError:
            self._refuse("expected what memory holds, found more")

    def _left(self) -> None:
        is_torn = bool(self._buffer)
        if is_torn:
            self._refuse(
                f"expected {self._wanted} bytes, found {len(self._buffer)} when the "
                "connection ended"
            )
            return
        # A conversation may still have to say that its series is over.
        with contextlib.suppress(StopIteration, ScanError, EOFError):
            self._talk.throw(EOFError())
        self._hang_up()

    def _lose_patience(self) -> None:
        now_s = self._clock_s()
        if self._buffer and now_s - self._began_s > MESSAGE_S:
            self._refuse(
                f"expected {self._wanted} bytes within {MESSAGE_S:g} s, "
                f"found {len(self._buffer)}"
            )
        elif now_s - self._spoke_s > IDLE_S:
            is_waited_for, _, _ = select.select([self._listener], [], [], 0)
            if is_waited_for:
                self._left()

    def _refuse(self, why: str) -> None:
        self._arrivals.append(Refused(f"a peer of the {self._what} port", why))
        self._hang_up()

    def _hang_up(self) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None
            self._talk.close()
