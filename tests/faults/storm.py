"""A storm of connections by peers without a right to be here, as fast as they come.

``python -m tests.faults.storm ADDRESSES COUNT SEED [KEYS]`` connects COUNT times, to
the server's three sockets in turn, and writes what became of it. Raw sockets with
prepared words, many at once in one thread; with KEYS, libzmq's own sockets under keys
that are not in force. Each says what its socket is there for: a scanner's words at the
inputs, a subscription where outcomes are announced, a request where they are handed out
again. ADDRESSES are those of `SOCKETS`, with commas between them.
"""

import contextlib
import json
import os
import random
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import zmq

from bci_bridge.keyfolder import read_credentials
from bci_bridge.messages import Event, Hello, ReplayRequest
from bci_bridge.self_attack import GREETING_BYTES, NULL, PLAIN, opening
from bci_bridge.wire import encode
from tests.integration.hostile import port_of

AT_ONCE = 128
"""Connections that one storm holds open."""

LEAVE_S = 1.5
"""Beyond the server's patience with a handshake: it must be the one to hang up."""

SOCKETS = {"inputs": zmq.DEALER, "publish": zmq.SUB, "replay": zmq.DEALER}
"""Where a server listens, and what kind of peer it listens to."""

STREAM = "hostile"
REVOKED = "revoked"
KEYED = ("unknown key", "revoked key", "wrong server key")
SOURCES = 200
"""Addresses of this machine that connections come from: each has its own ports."""


def _framed(frames: list[bytes]) -> bytes:
    """Write a message as a ZMTP peer without security does."""
    flags = [b"\x01"] * (len(frames) - 1) + [b"\0"]
    return b"".join(
        flag + bytes([len(frame)]) + frame
        for flag, frame in zip(flags, frames, strict=True)
    )


def _records(at: str) -> Iterator[list[bytes]]:
    """Give the messages that a peer of a socket would send."""
    if at == "inputs":
        yield encode(Hello(stream=STREAM, role="stimulus")).frames
        yield encode(Hello(stream=STREAM, role="observer")).frames
    if at == "replay":
        yield encode(ReplayRequest(stream=STREAM)).frames


def _said(at: str) -> bytes:
    """What every hostile peer wants to say: that it is a scanner, and more."""
    if at == "publish":
        return _framed([b"\x01"])  # to all that is announced
    if at == "replay":
        return b"".join(map(_framed, _records(at)))
    hello = encode(Hello(stream=STREAM, role="stimulus"))
    event = encode(
        Event(run="legitimate", stream=STREAM, trial_id="bad", onset_s=0, duration_s=1)
    )
    return _framed(hello.frames) + _framed(event.frames)


def _null(at: str) -> tuple[bytes, bytes]:
    if SOCKETS[at] == zmq.DEALER:
        return NULL
    return opening(b"NULL", b"\x05READY\x0bSocket-Type\0\0\0\x03SUB")


def _curve() -> tuple[bytes, bytes]:
    # Boxed for another server's key: to this one the box is noise, as it must be.
    dice = random.Random(3)
    hello = b"\x05HELLO\x01\0" + bytes(72) + dice.randbytes(32) + bytes(8)
    return opening(b"CURVE", hello + dice.randbytes(80))


def sayings(dice: random.Random, at: str) -> dict[str, tuple[bytes, ...]]:
    """Give, by kind, what is said upon connecting, and upon each answer.

    Args:
        dice: Draw what is random.
        at: One of `SOCKETS`.
    """
    greeting, curve_hello = _curve()
    null, said = _null(at), _said(at)
    return {
        "random bytes": (dice.randbytes(300),),
        "http": (b"GET / HTTP/1.1\r\nHost: rig\r\n\r\n",),
        "half greeting": (greeting[:20],),
        "half handshake": (greeting,),
        "wrong server key": (greeting, curve_hello),
        # With its READY: a server that lets it in has nothing to say to that.
        "null": (null[0], null[1] + said),
        "null at once": (b"".join(null) + said,),
        "plain": (*PLAIN, said),
    }


def sayings_kinds() -> tuple[str, ...]:
    """Name the kinds of raw connections."""
    return tuple(sayings(random.Random(0), "inputs"))


PATIENT = frozenset({"half greeting", "half handshake"})
"""Kinds that a server waits for. One in `STAY` stays to see it hang up."""
STAY = 16


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    at: str
    kind: str
    words: tuple[bytes, ...]
    until_s: float
    stays: bool
    heard: int = 0
    said: int = 0


class Storm:
    """Raw connections, many at once.

    Attributes:
        found: Connections by kind and by socket, and what became of them.
    """

    def __init__(self, addresses: Mapping[str, str], seed: int) -> None:
        self.found: Counter[str] = Counter()
        self._to = {at: port_of(address) for at, address in addresses.items()}
        dice = random.Random(seed)
        self._sayings = {at: sayings(dice, at) for at in addresses}
        self._poll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._number = 0

    def run(self, count: int) -> None:
        """Connect so often, and wait until all are over."""
        while self._number < count or self._open:
            while self._number < count and len(self._open) < AT_ONCE:
                self._connect()
            for fd, events in self._poll.poll(0.02):
                self._turn(self._open[fd], events)
            self._tire()
        self._poll.close()

    def _connect(self) -> None:
        kinds, sockets = sayings_kinds(), tuple(self._to)
        kind = kinds[self._number % len(kinds)]
        turn = self._number // len(kinds)
        # Who stays is one in sixteen: of no socket's alone.
        at = sockets[turn % len(sockets)]
        self._number += 1
        line = socket.socket()
        line.setblocking(False)
        # Leave by a reset: no port is kept waiting for what may still come.
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        if self._to[at][0] == "127.0.0.1":
            line.bind((f"127.0.1.{1 + self._number % SOURCES}", 0))
        with contextlib.suppress(BlockingIOError):
            line.connect(self._to[at])
        stays = kind not in PATIENT or turn % STAY == 0
        until_s = time.monotonic() + (LEAVE_S if stays else 0.02)
        self._open[line.fileno()] = _Connection(
            line, at, kind, self._sayings[at][kind], until_s, stays
        )
        self._poll.register(line, select.EPOLLOUT)

    def _turn(self, one: _Connection, events: int) -> None:
        try:
            if events & select.EPOLLIN:
                heard = one.socket.recv(4096)
                one.heard += len(heard)
                if not heard:
                    self._end(one, "hung up")
                    return
            elif events & (select.EPOLLERR | select.EPOLLHUP):
                self._end(one, "reset")
                return
            # Each next word once the server has answered the one before: on a command
            # before its greeting is over it hangs up, whoever it would let in.
            is_answered = events & select.EPOLLIN and one.heard >= GREETING_BYTES
            if one.said < len(one.words) and (not one.said or is_answered):
                one.socket.send(one.words[one.said])
                one.said += 1
            self._poll.modify(one.socket, select.EPOLLIN)
        except OSError:
            self._end(one, "reset")

    def _tire(self) -> None:
        now_s = time.monotonic()
        for one in [c for c in self._open.values() if c.until_s < now_s]:
            self._end(one, "outlasted the server" if one.stays else "left")

    def _end(self, one: _Connection, how: str) -> None:
        del self._open[one.socket.fileno()]
        one.socket.close()
        self.found[one.kind] += 1
        self.found[at_socket(one.at)] += 1
        self.found[how] += 1
        if one.heard:
            self.found["greeted"] += 1
        # A greeting is all that a server may say to who has shown no key.
        if one.heard > GREETING_BYTES:
            self.found["let in"] += 1
            self.found[let_in_at(one.at)] += 1


def at_socket(at: str) -> str:
    """Name the count of connections to a socket."""
    return f"at {at}"


def let_in_at(at: str) -> str:
    """Name the count of those that a socket let in."""
    return f"let in at {at}"


def keyed_storm(addresses: Mapping[str, str], count: int, keys: Path) -> Counter[str]:
    """Connect under keys that are not in force, a batch at a time."""
    found: Counter[str] = Counter()
    with zmq.Context() as context:
        number = 0
        while number < count:
            batch = range(number, min(number + 32, count))
            number = batch.stop
            with contextlib.ExitStack() as stack:
                lines = {}
                for each in batch:
                    kind = KEYED[each % len(KEYED)]
                    at = list(SOCKETS)[each // len(KEYED) % len(SOCKETS)]
                    found[kind] += 1
                    found[at_socket(at)] += 1
                    line = stack.enter_context(context.socket(SOCKETS[at]))
                    lines[line] = at
                    _prepare(line, kind, keys)
                    if SOCKETS[at] == zmq.SUB:
                        line.setsockopt(zmq.SUBSCRIBE, b"")
                    line.connect(addresses[at])
                    # Refused at once, it has no connection to wait for.
                    with contextlib.suppress(zmq.Again):
                        for record in _records(at):
                            line.send_multipart(record, zmq.NOBLOCK)
                for line in _answered(lines, 0.1):
                    found["let in"] += 1
                    found[let_in_at(lines[line])] += 1
    return found


def _answered(
    lines: "Iterable[zmq.Socket[bytes]]", wait_s: float
) -> "set[zmq.Socket[bytes]]":
    """Give those that hear something: fifty outcomes a second are announced."""
    poller, answered = zmq.Poller(), set()
    for line in lines:
        poller.register(line, zmq.POLLIN)
    until = time.monotonic() + wait_s
    while (left_s := until - time.monotonic()) > 0:
        for line, _ in poller.poll(round(left_s * 1000)):
            answered.add(line)
            poller.unregister(line)
    return answered


def _prepare(line: "zmq.Socket[bytes]", kind: str, keys: Path) -> None:
    line.setsockopt(zmq.LINGER, 0)
    line.setsockopt(zmq.RECONNECT_IVL, -1)
    held = read_credentials(keys / f"{REVOKED}.key", keys / "server.pub")
    if held is None:
        return
    public, secret = held.pair.public_key.encode(), held.pair.secret_key.encode()
    server = held.server_key.encode()
    if kind == "unknown key":
        public, secret = zmq.curve_keypair()
    if kind == "wrong server key":
        server, _ = zmq.curve_keypair()
    line.curve_publickey, line.curve_secretkey = public, secret
    line.curve_serverkey = server


def main() -> None:
    """Do what the command line says."""
    addresses = dict(zip(SOCKETS, sys.argv[1].split(","), strict=True))
    count, seed = int(sys.argv[2]), int(sys.argv[3])
    # As a storm from elsewhere would, it takes no time from the server's processes.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.nice(15)
    if len(sys.argv) > 4:
        found = keyed_storm(addresses, count, Path(sys.argv[4]))
    else:
        storm = Storm(addresses, seed)
        storm.run(count)
        found = storm.found
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
