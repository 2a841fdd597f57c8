"""What a hostile peer can send to make a server hold more than it should.

Without keys anyone can send it, byte by byte. With keys only a peer whose key is in
force can, through libzmq, which holds a message whole before it sends it: the same
bombs are then as large as the server's cap and not endless.
"""

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zmq

from bci_bridge.keyfolder import read_credentials
from bci_bridge.messages import Heartbeat, Hello, ReplayRequest
from bci_bridge.self_attack import opening
from bci_bridge.settings import Endpoints
from bci_bridge.wire import encode
from tests.integration.hostile import port_of

BOMBER = "bomber"
PART = bytes(1 << 20)
MORE_LONG = b"\x03"
"""Flags of a ZMTP frame: another follows, and its length has eight bytes."""


@dataclass(frozen=True)
class Target:
    """Where to throw, and what it takes."""

    endpoints: Endpoints
    cap_mib: int
    keys: Path | None
    seconds: float
    """How long a bomb goes on that has no end of its own."""


@contextmanager
def _raw(address: str, kind: bytes) -> Iterator[socket.socket]:
    """A connection of a peer without security, once the server has let it in."""
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    with socket.create_connection(port_of(address), 5) as line:
        # Whether the server's READY comes with its greeting or after ours is chance.
        line.sendall(b"".join(opening(b"NULL", ready)))
        heard = b""
        while b"READY" not in heard:
            said = line.recv(4096)
            if not said:
                raise ConnectionResetError("closed before the handshake was over")
            heard += said
        yield line


@contextmanager
def _peer(target: Target, address: str, kind: int) -> Iterator["zmq.Socket[bytes]"]:
    """A libzmq socket, under a key where there are any."""
    with zmq.Context() as context, context.socket(kind) as peer:
        peer.setsockopt(zmq.LINGER, 0)
        peer.setsockopt(zmq.SNDTIMEO, 2000)
        if target.keys is not None:
            held = read_credentials(
                target.keys / f"{BOMBER}.key", target.keys / "server.pub"
            )
            if held is not None:
                peer.curve_publickey = held.pair.public_key.encode()
                peer.curve_secretkey = held.pair.secret_key.encode()
                peer.curve_serverkey = held.server_key.encode()
        peer.connect(address)
        yield peer


def _endless(target: Target, address: str, kind: int, name: bytes) -> None:
    """Parts of one message, none of which is the last."""
    if target.keys is None:
        part = MORE_LONG + struct.pack(">Q", len(PART)) + PART
        with contextlib.suppress(OSError), _raw(address, name) as line:
            for _ in range(2 * target.cap_mib):
                line.sendall(part)
        return
    with contextlib.suppress(zmq.Again), _peer(target, address, kind) as peer:
        for _ in range(target.cap_mib):
            peer.send(PART, zmq.SNDMORE)
        peer.send(PART)
        # It leaves as fast as it is boxed; a server that has died takes no more.
        time.sleep(target.seconds + target.cap_mib / 256)


def endless_to_inputs(target: Target) -> None:
    _endless(target, target.endpoints.address, zmq.DEALER, b"DEALER")


def endless_to_replay(target: Target) -> None:
    _endless(target, target.endpoints.replay, zmq.DEALER, b"DEALER")


def endless_to_publisher(target: Target) -> None:
    """As a subscriber, who has nothing to say but what he wants to hear."""
    _endless(target, target.endpoints.publish, zmq.XSUB, b"SUB")


def claimed_length(target: Target) -> None:
    """Frames that claim to be large, up to the most that is allowed and far beyond."""
    if target.keys is not None:
        return lying_headers(target)
    claims = [1 << 28, (1 << 28) + (1 << 16), (1 << 28) + (1 << 16) + 1, 1 << 62]
    with contextlib.ExitStack() as stack:
        for number in range(64):
            with contextlib.suppress(OSError):
                line = stack.enter_context(_raw(target.endpoints.address, b"DEALER"))
                claim = claims[number % len(claims)]
                line.sendall(MORE_LONG + struct.pack(">Q", claim) + bytes(1000))
        time.sleep(target.seconds)
    return None


def lying_headers(target: Target) -> None:
    """Headers that claim more than they hold, in every type that has a length."""
    lies = [bytes([tag]) + b"\xff" * 4 for tag in (0xDD, 0xDF, 0xDB, 0xC6, 0xC9)]
    with _peer(target, target.endpoints.address, zmq.DEALER) as peer:
        until = time.monotonic() + target.seconds
        with contextlib.suppress(zmq.Again):
            while time.monotonic() < until:
                for lie in lies:
                    peer.send_multipart([lie, b""])
                    peer.send_multipart([b"\x81\xa4kind" + lie, b""])
                time.sleep(0.01)


def largest_messages(target: Target) -> None:
    """Messages as large as any may be, more of them than the cap holds."""
    large = bytes(1 << 28)
    with _peer(target, target.endpoints.address, zmq.DEALER) as peer:
        with contextlib.suppress(zmq.Again):
            for _ in range(2 + 2 * target.cap_mib // 256):
                peer.send_multipart([b"\x80", large], copy=False)
        time.sleep(3 * target.seconds)


def idle_connections(target: Target) -> None:
    """Many who connect and say nothing more, and come back when they are put out."""
    until = time.monotonic() + target.seconds
    word = b"" if target.keys is not None else opening(b"NULL", b"")[0]
    lines: list[socket.socket] = []
    try:
        while time.monotonic() < until:
            for line in lines:
                line.close()
            lines.clear()
            for number in range(1500):
                with contextlib.suppress(OSError):
                    each = (
                        target.endpoints.address,
                        target.endpoints.publish,
                        target.endpoints.replay,
                    )[number % 3]
                    line = socket.create_connection(port_of(each), 1)
                    lines.append(line)
                    line.sendall(word)
            time.sleep(1)
    finally:
        for line in lines:
            line.close()


def flood(target: Target) -> None:
    """Small messages that are all valid, as fast as they go."""
    hello, beat = encode(Hello(stream="flood", role="stimulus")), encode(Heartbeat())
    with _peer(target, target.endpoints.address, zmq.DEALER) as peer:
        until = time.monotonic() + target.seconds + 3
        with contextlib.suppress(zmq.Again):
            peer.send_multipart(hello.frames)
            while time.monotonic() < until:
                for _ in range(100):
                    peer.send_multipart(beat.frames)


def deaf_subscribers(target: Target) -> None:
    """Subscribers that never read what they have subscribed to."""
    with contextlib.ExitStack() as stack:
        for _ in range(32):
            peer = stack.enter_context(
                _peer(target, target.endpoints.publish, zmq.XSUB)
            )
            peer.setsockopt(zmq.RCVHWM, 1)
            peer.send(b"\x01")
        time.sleep(target.seconds)


def many_subscriptions(target: Target) -> None:
    """Subscriptions to topics that are long and all different."""
    with _peer(target, target.endpoints.publish, zmq.XSUB) as peer:
        until, number = time.monotonic() + target.seconds, 0
        with contextlib.suppress(zmq.Again):
            while time.monotonic() < until:
                peer.send(b"\x01" + number.to_bytes(4, "big") * 200)
                number += 1


def deaf_to_replay(target: Target) -> None:
    """Peers that ask for all outcomes again and again, and never read an answer."""
    request = encode(ReplayRequest(from_index=0, limit=1000))
    with contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(_peer(target, target.endpoints.replay, zmq.DEALER))
            for _ in range(16)
        ]
        until = time.monotonic() + target.seconds
        while time.monotonic() < until:
            for peer in peers:
                with contextlib.suppress(zmq.Again):
                    peer.send_multipart(request.frames, zmq.NOBLOCK)
            time.sleep(0.002)


def half_open(target: Target) -> None:
    """Peers that begin a message and stop in the middle of it."""
    addresses = (target.endpoints.address, target.endpoints.replay)
    with contextlib.ExitStack() as stack:
        for number in range(100):
            with contextlib.suppress(OSError):
                line = stack.enter_context(_raw(addresses[number % 2], b"DEALER"))
                line.sendall(MORE_LONG + struct.pack(">Q", 1 << 20) + bytes(1 << 19))
        time.sleep(target.seconds)


BOMBS: dict[str, Callable[[Target], None]] = {
    "endless multipart to the inputs": endless_to_inputs,
    "endless multipart to the replay": endless_to_replay,
    "endless multipart to the publisher": endless_to_publisher,
    "claimed length": claimed_length,
    "lying headers": lying_headers,
    "largest messages": largest_messages,
    "idle connections": idle_connections,
    "half-open messages": half_open,
    "flood": flood,
    "deaf subscribers": deaf_subscribers,
    "many subscriptions": many_subscriptions,
    "deaf to the replay": deaf_to_replay,
}
