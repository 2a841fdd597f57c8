"""The server tries to break into itself, before anyone else can and every minute after.

Four ways, at each socket where they can be tried: a peer without security (NULL), one
with a password (PLAIN), an unknown key, and a key that is let in but may say nothing
and claims to be the scanner. Each must be refused. The first two speak ZMTP by hand,
because libzmq's own client would hang up by itself and prove nothing of the server.

The fourth is the control: it is refused by a message, which shows that the attacks
reach the server at all.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import zmq

from bci_bridge.guarded_thread import GuardedThread
from bci_bridge.keyring import KeyPair
from bci_bridge.messages import Hello, Reject
from bci_bridge.wire import decode, encode
from runtime.errors import GuardError, PeerError

PERIOD_S: Final = 60.0
PATIENCE_S: Final = 3.0
"""Beyond `HANDSHAKE_IVL`, after which the server hangs up on who says nothing."""
ATTEMPTS: Final = 3
"""Rounds before a server that was never proven gives up becoming ready without an
answer."""
PAUSE_S: Final = 1.0
"""Between rounds of which one was not answered, before the first that was refused."""

GREETING_BYTES: Final = 64
_HANDSHAKES = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_DISCONNECTED
)

_EVENT: Final = struct.Struct("=HI")
"""Number and value of a socket's event, its first frame (libzmq, zmq_socket_monitor).

Read by hand: pyzmq's reader brings asyncio into every process of a server.
"""

Target = tuple[str, str, int]
"""Name, endpoint and kind of peer."""

KNOCKABLE: Final = "inputs"
"""Where a key without a role is let in, and refused by a message."""

Verdict = Literal["REFUSED", "UNANSWERED", "LET_IN"]


def opening(mechanism: bytes, first: bytes) -> tuple[bytes, bytes]:
    """Give what a ZMTP 3.0 peer says first: its greeting, then a command.

    They go one after the other: a server that has not answered the greeting yet hangs
    up on a command, whether or not it would have let the peer in (ZeroMQ RFC 23).

    Args:
        mechanism: NULL or PLAIN.
        first: The command that begins this mechanism's handshake.
    """
    signature = b"\xff" + bytes(8) + b"\x7f\x03\x00"
    greeting = signature + mechanism.ljust(20, b"\0") + bytes(32)
    return greeting, b"\x04" + bytes([len(first)]) + first


NULL: Final = opening(b"NULL", b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER")
PLAIN: Final = opening(b"PLAIN", b"\x05HELLO\x05admin\x05admin")


def verdict_from(heard: bytes, *, has_hung_up: bool) -> Verdict:
    """Judge what a server said to a peer without key.

    A greeting that names CURVE is all that it may say, before it hangs up.
    """
    if len(heard) > GREETING_BYTES:
        return "LET_IN"
    # A server that hangs up early has not said its mechanism; that is a refusal too.
    mechanism = heard[12:32].rstrip(b"\0")
    if mechanism and not b"CURVE".startswith(mechanism):
        return "LET_IN"
    return "REFUSED" if has_hung_up else "UNANSWERED"


@dataclass(frozen=True, slots=True)
class Attack:
    """One attempt, by the name that an error gives it."""

    name: str
    run: Callable[[], Verdict]


class SelfAttack:
    """Attacks in a thread of its own; volumes do not wait for it.

    Attributes:
        passed: Attacks refused so far.
        unanswered: Attacks that got no answer in time; nothing was let in.
        has_passed: A whole round was refused.
        trouble: Which attack of the last round got no answer; empty where none did.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        server_key: str,
        attacker: KeyPair,
        *,
        is_proven: bool = False,
    ) -> None:
        """Begin at once.

        Args:
            targets: The sockets to attack.
            server_key: The server's public key.
            attacker: A key that may connect to the inputs and say nothing.
            is_proven: They held when this server began: silence is a busy server then,
                and to be told, but no reason to end it.
        """
        self.passed, self.unanswered, self.has_passed = 0, 0, False
        self.trouble, self._is_proven = "", is_proven
        self._breach = ""
        self._targets, self._server_key = tuple(targets), server_key.encode()
        self._attacker = attacker
        self._stopping = threading.Event()
        self._thread = GuardedThread("self-attack", "self-attack", self._body)

    def check(self) -> None:
        """Refuse to go on where an attack was not refused.

        Raises:
            GuardError: Naming the attack.
        """
        if self._breach:
            raise GuardError(f"self-attack: expected a refusal, {self._breach}")
        self._thread.check()

    def close(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join()

    def _body(self) -> None:
        rounds = 0
        while not self._stopping.is_set() and not self._breach:
            rounds += 1
            self._round(rounds)
            self._stopping.wait(PERIOD_S if self.has_passed else PAUSE_S)
        self._stopping.wait()

    def _round(self, number: int) -> None:
        silent = ""
        for attack in self._attacks():
            verdict = attack.run()
            if self._stopping.is_set():
                return
            if verdict == "LET_IN":
                self._breach = f"found {attack.name} let in"
                return
            if verdict == "REFUSED":
                self.passed += 1
            else:
                self.unanswered += 1
                silent = attack.name
        self.trouble = f"self-attack: no answer to {silent} yet" if silent else ""
        if not silent:
            self.has_passed = self._is_proven = True
        elif not self._is_proven and number == ATTEMPTS:
            # Later, silence is a busy server: whoever floods it must not end it.
            self._breach = f"found no answer to {silent}"

    def _attacks(self) -> list[Attack]:
        unknown = zmq.curve_keypair()
        mine = self._attacker
        allowed = (mine.public_key.encode(), mine.secret_key.encode())
        attacks = []
        for name, endpoint, kind in self._targets:
            # Where this key may knock, only a message can refuse it.
            may_knock = name == KNOCKABLE
            attacks += [
                Attack(f"NULL at the {name}", self._raw(endpoint, NULL)),
                Attack(f"PLAIN at the {name}", self._raw(endpoint, PLAIN)),
                Attack(
                    f"an unknown key at the {name}",
                    self._keyed(endpoint, kind, unknown, may_knock=False),
                ),
                Attack(
                    f"a key of the wrong role at the {name}",
                    self._keyed(endpoint, kind, allowed, may_knock=may_knock),
                ),
            ]
        return attacks

    def _raw(self, endpoint: str, said: tuple[bytes, bytes]) -> Callable[[], Verdict]:
        def run() -> Verdict:
            heard, (greeting, command) = b"", said
            try:
                with _connected(endpoint) as line:
                    line.sendall(greeting)
                    for _ in self._slices():
                        with contextlib.suppress(TimeoutError):
                            more = line.recv(4096)
                            heard += more
                            if not more:
                                return verdict_from(heard, has_hung_up=True)
                        if len(heard) >= GREETING_BYTES and command:
                            line.sendall(command)
                            command = b""
            except (ConnectionResetError, BrokenPipeError):
                return verdict_from(heard, has_hung_up=True)
            except OSError:
                return "UNANSWERED"
            return verdict_from(heard, has_hung_up=False)

        return run

    def _keyed(
        self,
        endpoint: str,
        kind: int,
        pair: tuple[bytes, bytes],
        *,
        may_knock: bool,
    ) -> Callable[[], Verdict]:
        def run() -> Verdict:
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            try:
                line = context.socket(kind)
                line.curve_publickey, line.curve_secretkey = pair
                line.curve_serverkey = self._server_key
                if endpoint.startswith("tcp://["):
                    line.setsockopt(zmq.IPV6, 1)
                monitor = line.get_monitor_socket(_HANDSHAKES)
                line.connect(endpoint)
                verdict = self._handshake(monitor)
                if may_knock:
                    verdict = self._claim(line) if verdict == "LET_IN" else "UNANSWERED"
                line.disable_monitor()
            except zmq.ZMQError:
                # A flood has taken the descriptors that this takes, too.
                return "UNANSWERED"
            else:
                return verdict
            finally:
                context.destroy(linger=0)

        return run

    def _handshake(self, monitor: "zmq.Socket[bytes]") -> Verdict:
        for _ in self._slices():
            if monitor.poll(50):
                event, _ = _EVENT.unpack(monitor.recv_multipart()[0])
                is_in = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
                return "LET_IN" if is_in else "REFUSED"
        return "UNANSWERED"

    def _claim(self, line: "zmq.Socket[bytes]") -> Verdict:
        hello = Hello(role="scanner", stream="self-attack", software="self-attack")
        try:
            line.send_multipart(encode(hello).frames, zmq.NOBLOCK)
        except zmq.Again:
            return "UNANSWERED"
        for _ in self._slices():
            if line.poll(50):
                try:
                    said = decode(line.recv_multipart()).record
                except PeerError:
                    return "UNANSWERED"
                is_refused = isinstance(said, Reject) and said.reason == "UNAUTHORISED"
                return "REFUSED" if is_refused else "LET_IN"
        return "UNANSWERED"

    def _slices(self) -> Iterator[None]:
        """Go on until patience ends or the thread is told to stop."""
        end_s = time.monotonic() + PATIENCE_S
        while not self._stopping.is_set() and time.monotonic() < end_s:
            yield


def _connected(endpoint: str) -> socket.socket:
    if endpoint.startswith("ipc://"):
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(PATIENCE_S)
        path = endpoint.removeprefix("ipc://")
        # As libzmq writes a name that is in no file system (unix(7): abstract).
        line.connect(f"\0{path[1:]}" if path.startswith("@") else path)
    else:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        line = socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S)
    line.settimeout(0.05)
    return line
