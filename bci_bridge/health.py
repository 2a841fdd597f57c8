"""Health and metrics over HTTP: a thread that reads files and bothers nobody.

It lives in the publisher's process and shares nothing with its loop: what it tells is
read from the folder of the moment, so that a disk that does not answer keeps this
thread waiting and no outcome. It has no keys and no secrets, and listens on loopback
alone; whoever wants it elsewhere forwards the port.

What a stranger can cost is bounded: a few connections of a few KiB each, the oldest of
which makes room for a new one, each for a few seconds, and a pause after every round.
"""

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bci_bridge.endpoints import is_loopback
from bci_bridge.http_head import MAX_HEAD_BYTES, PageOf, refusal, reply_to
from runtime.errors import BackendError, UsageError

MAX_CONNECTIONS: Final = 16
BACKLOG: Final = 128
PATIENCE_S: Final = 2.0
"""From the first byte of a connection to its last."""

PAUSE_S: Final = 0.005
"""After every round, so that a flood does not take the publisher's processor."""

RETRY_S: Final = 1.0


def checked_health(address: str) -> tuple[str, int]:
    """Split HOST:PORT; port * or 0 lets the system choose.

    Raises:
        UsageError: If it is malformed, or others than this machine could reach it.
    """
    host, _, port = address.rpartition(":")
    number = "0" if port == "*" else port
    is_port = number.isascii() and number.isdecimal() and int(number) < 65536
    if not host or not is_port:
        raise UsageError(f"--health: expected 127.0.0.1:PORT, found {address!r}")
    if not is_loopback(host):
        raise UsageError(
            f"--health: expected a loopback address, found {host}. Anyone could read "
            "it there; forward the port instead, for example with ssh -L"
        )
    return host.strip("[]"), int(number)


@dataclass(slots=True)
class _Line:
    """One connection."""

    socket: socket.socket
    ends_s: float
    received: bytearray = field(default_factory=bytearray)
    reply: bytes = b""
    is_answered: bool = False


class Health:
    """Answers in a thread of its own.

    Attributes:
        endpoint: HOST:PORT with the real port; empty while it cannot be had.
        trouble: Why nobody can ask; empty while all is well.
    """

    def __init__(
        self,
        address: str,
        page_of: PageOf,
        clock_s: Callable[[], float] = time.monotonic,
        *,
        is_restart: bool = False,
    ) -> None:
        """Listen, and begin to answer.

        Args:
            address: HOST:PORT on loopback.
            page_of: Gives the pages; called in this object's thread.
            clock_s: Monotonic.
            is_restart: The port was ours before: wait for it instead of failing.

        Raises:
            UsageError: If the address is not allowed.
            BackendError: If it cannot be bound.
        """
        self._where, self._page_of, self._clock_s = (
            checked_health(address),
            page_of,
            clock_s,
        )
        self.endpoint, self.trouble, self._address = "", "", address
        self._listener: socket.socket | None = None
        self._lines: dict[int, _Line] = {}
        try:
            self._listen()
        except BackendError as error:
            if not is_restart:
                raise
            self.trouble = str(error)
        self._stopping = threading.Event()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._body, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; one that waits for a disk is left behind."""
        self._stopping.set()
        os.eventfd_write(self._wake, 1)
        self._thread.join(1)
        if not self._thread.is_alive():
            os.close(self._wake)

    def _listen(self) -> None:
        host, port = self._where
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            # A restarted server must not wait for the end of old connections.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise BackendError(
                f"health {self._address}: expected a free port, found: "
                f"{(error.strerror or str(error)).lower()}. "
                "Stop the other program or give another --health."
            ) from error
        listener.setblocking(False)
        shown = f"[{host}]" if ":" in host else host
        self.endpoint = f"{shown}:{listener.getsockname()[1]}"
        self._listener, self.trouble = listener, ""

    def _body(self) -> None:
        registered = False
        try:
            while not self._stopping.is_set():
                if self._listener is None:
                    self._stopping.wait(RETRY_S)
                    with contextlib.suppress(BackendError):
                        self._listen()
                    continue
                if not registered:
                    self._selector.register(self._listener, selectors.EVENT_READ)
                    registered = True
                self._round()
        # The entry of a thread: its end costs the monitor, never the publisher.
        except Exception as error:
            self.trouble = (
                f"health: expected its thread to run, found it dead: {error!r}"
            )
        finally:
            for line in list(self._lines.values()):
                self._drop(line)
            self._selector.close()
            if self._listener is not None:
                self._listener.close()

    def _round(self) -> None:
        # Without connections nothing expires, and nobody needs to look.
        ready = self._selector.select(PATIENCE_S / 4 if self._lines else None)
        for key, _ in ready:
            line = self._lines.get(key.fd)
            if line is not None:
                self._move(line)
        # Newcomers last: they push out who was there before, but has had its turn.
        if any(key.fileobj is self._listener for key, _ in ready):
            self._accept()
        self._expire()
        if ready:
            self._stopping.wait(PAUSE_S)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            for _ in range(MAX_CONNECTIONS):
                if self._listener is None:
                    return
                accepted, _ = self._listener.accept()
                accepted.setblocking(False)
                if len(self._lines) >= MAX_CONNECTIONS:
                    self._drop(next(iter(self._lines.values())))
                line = _Line(accepted, self._clock_s() + PATIENCE_S)
                self._lines[accepted.fileno()] = line
                self._selector.register(accepted, selectors.EVENT_READ)

    def _move(self, line: _Line) -> None:
        """Do what one connection can do without waiting."""
        try:
            if line.reply:
                self._send(line)
                return
            data = line.socket.recv(MAX_HEAD_BYTES + 1)
        except BlockingIOError:
            return
        except OSError:
            self._drop(line)
            return
        if not data:
            self._drop(line)
        elif not line.is_answered:
            # After the answer nothing is read but thrown away: closing a socket with
            # unread bytes would take the answer back from the peer.
            line.received += data
            reply = reply_to(bytes(line.received), self._page_of)
            if reply is not None:
                self._answer(line, reply)

    def _answer(self, line: _Line, reply: bytes) -> None:
        line.reply, line.is_answered = reply, True
        line.received.clear()
        self._selector.modify(line.socket, selectors.EVENT_WRITE)

    def _send(self, line: _Line) -> None:
        line.reply = line.reply[line.socket.send(line.reply) :]
        if not line.reply:
            line.socket.shutdown(socket.SHUT_WR)
            self._selector.modify(line.socket, selectors.EVENT_READ)

    def _expire(self) -> None:
        now_s = self._clock_s()
        for line in list(self._lines.values()):
            if now_s < line.ends_s:
                continue
            if not line.is_answered:
                with contextlib.suppress(OSError):
                    line.socket.send(refusal(408))
            self._drop(line)

    def _drop(self, line: _Line) -> None:
        del self._lines[line.socket.fileno()]
        self._selector.unregister(line.socket)
        line.socket.close()
