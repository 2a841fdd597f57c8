"""A server that goes away and comes back with its run, and senders that are killed."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq
from msgspec import structs

from bci_bridge import actions as do
from bci_bridge.messages import Ack, Header, Reject
from bci_bridge.protocol import Protocol
from bci_bridge.sender import Sender
from bci_bridge.wire import decode, encode
from runtime.errors import PeerError

ROOT = Path(__file__).parents[2]


class Restarting:
    """The protocol behind one port, on which nobody listens while it is down.

    What comes back knows its run and no peer. It says that a message is durable when
    `lag` more have come.
    """

    def __init__(self, lag: int = 0) -> None:
        self.log: list[Header] = []
        self._lag = lag
        self._protocol = Protocol()
        self._now_ns = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
            self.port = socket.bind_to_random_port("tcp://127.0.0.1")
        self.address = f"tcp://127.0.0.1:{self.port}"

    @property
    def durable(self) -> int:
        """Messages that a power cut leaves."""
        return len(self.log) if self._ended else max(0, len(self.log) - self._lag)

    @property
    def _ended(self) -> bool:
        return self._protocol.state == "ENDED"

    def up(self) -> None:
        """Listen."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._body, name="restarting")
        self._thread.start()

    def down(self, *, power_cut: bool = False, forgets: bool = False) -> None:
        """Stop listening; forget the peers, what is not durable, or everything."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(10)
        self._thread = None
        self._protocol._peers.clear()
        if power_cut and self._protocol.ledger.run is not None:
            left = self.durable
            del self.log[left:]
            for crcs in self._protocol.ledger.run.heard.crcs.values():
                del crcs[left:]
            forgets = left == 0
        if forgets:
            self._protocol = Protocol()

    def _body(self) -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(self.address)
            while not self._stopping.is_set():
                if socket.poll(20):
                    peer, *frames = socket.recv_multipart()
                    for answer in self._answers(peer, frames):
                        socket.send_multipart([peer, *encode(answer).frames])

    def _answers(self, peer: bytes, frames: list[bytes]) -> Iterator[Header]:
        envelope = decode(frames)
        try:
            # No time passes: no lease of a killed sender ever ends by itself.
            actions = self._protocol.receive(peer, envelope, self._now_ns)
        except PeerError as error:
            record = envelope.record
            yield Reject(run=record.run, reason=error.reason, detail=error.detail)
            return
        for action in actions:
            match action:
                case do.Log(logged):
                    self.log.append(logged.record)
                case do.Reply(_, record):
                    yield record
                case do.Acknowledge(_, run, stream, received):
                    durable = min(self.durable, received)
                    yield Ack(
                        run=run, stream=stream, received=received, durable=durable
                    )


@contextmanager
def restarting(lag: int = 0) -> Iterator[Restarting]:
    """Give a server that is up; take it down at the end."""
    server = Restarting(lag)
    server.up()
    try:
        yield server
    finally:
        server.down()


def said(log: list[Header]) -> list[Header]:
    """Strip what differs from one sending process to the next."""
    return [structs.replace(record, sent_ns=0) for record in log]


def crash(sender: Sender) -> None:
    """Do to a sender what SIGKILL does: no farewell, and the lock is gone."""
    sender._line._socket.close(linger=0)
    sender._line._context.term()
    if sender._spool is not None:
        sender._spool.close()


def started(program: str, *arguments: object) -> "subprocess.Popen[str]":
    """Run a program of tests in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/clients/python"},
    )


def killed(process: "subprocess.Popen[str]") -> bool:
    """SIGKILL a process; say whether it was still running, and at its work.

    A process that has said "done" has nothing left to do but to exit.
    """
    process.send_signal(signal.SIGKILL)
    with process:
        said = process.communicate(timeout=10)[0] or ""
        return process.returncode == -signal.SIGKILL and "done\n" not in said
