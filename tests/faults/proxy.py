"""A network that can be made bad: a TCP proxy between a sender and its server.

One thread and one selector. What is bad about it is set while it runs: connections are
reset, the line is cut, bytes come one at a time or late, packets are lost. Packets are
lost by a socket filter of Linux, in front of TCP: half are those that hold data, half
those that acknowledge it, and TCP sends them again as it would on any bad line.
"""

import collections
import contextlib
import ctypes
import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

_SO_ATTACH_FILTER, _SO_MEMINFO = 26, 55
_RANDOM = (1 << 32) - 0x1000 + 56
"""Where a classic filter finds a random word (SKF_AD_OFF + SKF_AD_RANDOM)."""

CHUNK = 1 << 16
HELD_BYTES = 1 << 22
"""What waits in the proxy; more is left to TCP to hold back."""

SLICES_AT_ONCE = 64


@dataclass
class Weather:
    """What is bad about the line now; change it at any time."""

    delay_s: float = 0.0
    slices: int = 0
    """So many bytes of each piece of up to `CHUNK` that comes go on one in each packet,
    and what is left of the piece together; `CHUNK` slices all."""
    is_cut: bool = False
    """No connection is taken, and those there are were reset."""
    swallows: int = 0
    """Bytes towards the server that disappear without a trace: TCP would not do it."""


@dataclass(eq=False)
class _Way:
    """One direction of one connection."""

    source: socket.socket
    sink: socket.socket
    is_to_server: bool
    waiting: collections.deque[tuple[float, bytes]] = field(
        default_factory=collections.deque
    )
    """Pieces, and when each is due: a sliced one byte by byte."""
    nbytes: int = 0


class Proxy:
    """Passes on what comes, as well or as badly as the weather is.

    Attributes:
        address: Where it listens.
        weather: How bad the line is.
        resets: Connections that were reset on purpose.
        dropped: Packets that were lost, on lines now closed.
    """

    def __init__(self, address: str, *, loss: float = 0.0) -> None:
        """Listen.

        Args:
            address: Where the server listens.
            loss: Share of packets that are lost.
        """
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._to, self._loss = (host, int(port)), loss
        self.weather, self.resets, self.dropped = Weather(), 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        if loss:
            lose(self._listener, loss)
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._listener.setblocking(False)
        self._ways: list[_Way] = []
        self._stopping, self._resetting = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._body, name="proxy")

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def reset(self) -> None:
        """Break all connections off, as a switch that starts anew does."""
        self._resetting.set()

    def _body(self) -> None:
        try:
            while not self._stopping.is_set():
                if self._resetting.is_set():
                    self._resetting.clear()
                    self._break_off()
                self._turn()
        finally:
            self._break_off()
            self._listener.close()

    def _turn(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            for way in self._ways:
                if way.nbytes < HELD_BYTES:
                    selector.register(way.source, selectors.EVENT_READ, way)
            is_waiting = any(way.waiting for way in self._ways)
            found = selector.select(0.001 if is_waiting else 0.02)
        for key, _ in found:
            if key.data is None:
                self._accept()
            elif key.data in self._ways:
                self._read(key.data)
        for way in list(self._ways):
            if way in self._ways:
                self._write(way)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            near, _ = self._listener.accept()
            far = socket.socket()
            if self.weather.is_cut:
                _hang_up(near)
                far.close()
                return
            try:
                far.connect(self._to)
                if self._loss:
                    lose(far, self._loss)
            except OSError:
                _hang_up(near)
                far.close()
                return
            for one in (near, far):
                one.setblocking(False)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ways += [_Way(near, far, True), _Way(far, near, False)]

    def _read(self, way: _Way) -> None:
        try:
            data = way.source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._part(way)
            return
        if way.is_to_server and self.weather.swallows:
            n_swallowed = min(self.weather.swallows, len(data))
            self.weather.swallows -= n_swallowed
            data = data[n_swallowed:]
        due_s, n_single = time.monotonic() + self.weather.delay_s, self.weather.slices
        way.waiting.extend((due_s, bytes((one,))) for one in data[:n_single])
        way.waiting.append((due_s, data[n_single:]))
        way.nbytes += len(data)

    def _write(self, way: _Way) -> None:
        now_s = time.monotonic()
        try:
            for _ in range(SLICES_AT_ONCE):
                if not way.waiting or way.waiting[0][0] > now_s:
                    return
                due_s, data = way.waiting.popleft()
                if not data:
                    continue
                n_sent = way.sink.send(data)
                way.nbytes -= n_sent
                if n_sent < len(data):
                    way.waiting.appendleft((due_s, data[n_sent:]))
        except BlockingIOError:
            way.waiting.appendleft((due_s, data))
        except OSError:
            self._part(way)

    def _part(self, way: _Way) -> None:
        """Close both ends of a connection, and with it both ways."""
        ends = {way.source, way.sink}
        self._ways = [one for one in self._ways if one.source not in ends]
        for end in ends:
            self.dropped += dropped(end)
            _hang_up(end)

    def _break_off(self) -> None:
        while self._ways:
            self._part(self._ways[0])
            self.resets += 1


def _hang_up(line: socket.socket) -> None:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.close()


def lose(line: socket.socket, share: float) -> None:
    """Let Linux drop a share of the packets that come to a socket, before TCP."""
    keep_below = (1 << 32) - round(share * (1 << 32))
    program = (
        (0x20, 0, 0, _RANDOM),  # load a random word
        (0x35, 1, 0, keep_below),  # jump over the next line if it is not below
        (0x06, 0, 0, 0xFFFFFFFF),  # keep the packet
        (0x06, 0, 0, 0),  # drop it
    )
    words = b"".join(struct.pack("=HBBI", *word) for word in program)
    held = ctypes.create_string_buffer(words, len(words))
    filter_ = struct.pack("@HP", len(program), ctypes.addressof(held))
    line.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)


def dropped(line: socket.socket) -> int:
    """Ask Linux how many packets it dropped in front of a socket."""
    with contextlib.suppress(OSError):
        info = line.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
        return int(struct.unpack_from("=9I", info)[8])
    return 0
