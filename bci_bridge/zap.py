"""Who may connect: the handler that libzmq asks at every handshake (ZeroMQ RFC 27).

`answer` decides and is pure. `ZapHandler` is the thread around it, which also watches
the allow-list. It fails closed: every socket names a domain and enforces it, so that
without a handler nobody comes in; a server whose handler has died ends.

pyzmq's own `Authenticator` is not used: it keeps one "any key" flag for all domains, so
that opening one socket would open them all.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import zmq

from bci_bridge.guarded_thread import GuardedThread
from bci_bridge.header import Role
from bci_bridge.keyfolder import read_allow_list, version_of
from bci_bridge.keyring import Device, z85_from_bytes
from runtime.errors import ArtifactError

ENDPOINT: Final = "inproc://zeromq.zap.01"
VERSION: Final = b"1.0"

INPUTS, PUBLISH, REPLAY = b"neuroflow.inputs", b"neuroflow.publish", b"neuroflow.replay"
DOMAINS: Final[dict[bytes, tuple[Role, ...] | None]] = {
    INPUTS: None,
    PUBLISH: ("observer",),
    REPLAY: ("observer",),
}
"""Roles of which a key needs one to connect. At the inputs every message is checked; a
publisher hears nothing that it could check, so that connecting is the check."""

WATCH_MS: Final = 200
"""How often the allow-list is looked at, under load as well."""


@dataclass(frozen=True, slots=True)
class Rules:
    """All that a decision rests on; replaced whole, never changed."""

    devices: Mapping[str, Device]
    """In force, by public key."""
    attacker: str
    """Public key under which the server attacks itself; it may only knock.

    A device in force that has no role, so that the checks of roles are what refuses it.
    """
    is_open: bool = False
    """False until the self-attack has passed, and while the list is unreadable."""


def answer(request: Sequence[bytes], rules: Rules) -> list[bytes]:
    """Answer one request.

    200 lets in, with the public key as User-Id. 400 refuses for good. 300 closes the
    connection in silence, upon which libzmq's client tries again.

    Args:
        request: Version, request id, domain, address, routing id, mechanism and the
            credentials; anything else is refused.
        rules: Who is allowed now.
    """
    request_id = request[1] if len(request) > 1 else b""
    status, text, user = _decision(request, rules)
    return [VERSION, request_id, status, text, user.encode(), b""]


def _decision(request: Sequence[bytes], rules: Rules) -> tuple[bytes, bytes, str]:
    if len(request) != 7 or request[0] != VERSION or len(request[6]) != 32:
        return b"400", b"malformed request", ""
    domain, mechanism, credential = request[2], request[5], request[6]
    if domain not in DOMAINS:
        return b"400", b"unknown domain", ""
    if mechanism != b"CURVE":
        return b"400", b"CURVE only", ""
    key = z85_from_bytes(credential)
    is_attack = key == rules.attacker
    device = rules.devices.get(key)
    if is_attack:
        device = Device(name="self-attack", public_key=key, roles=())
    if device is None:
        return b"400", b"unknown key", ""
    needed = DOMAINS[domain]
    if needed is not None and not device.has_role(*needed):
        return b"400", b"wrong role", ""
    # An attack must not be refused for that: it would prove nothing of the roles.
    if not rules.is_open and not is_attack:
        return b"300", b"not now", ""
    return b"200", b"OK", key


class ZapHandler:
    """Answers in a thread of its own, and reloads the allow-list when it changes.

    Attributes:
        rules: What is in force now; other threads may read it at any time.
        trouble: Why the allow-list cannot be read; empty while it can.
        accepted: Handshakes let in.
        refused: Handshakes not let in.
    """

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", folder: Path, attacker: str
    ) -> None:
        """Bind, so that sockets bound afterwards are asked for from the beginning.

        Args:
            context: That of the sockets to be guarded.
            folder: The folder of keys.
            attacker: Public key under which the server attacks itself.

        Raises:
            ArtifactError: If the allow-list is missing, damaged or open to others.
        """
        self._folder, self._seen = folder, version_of(folder)
        self.rules = Rules(read_allow_list(folder).in_force(), attacker)
        self.trouble, self.accepted, self.refused = "", 0, 0
        self._is_proven = False
        self._stopping, self._reloading = threading.Event(), threading.Lock()
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ENDPOINT)
        self._thread = GuardedThread("zap", "authentication", self._body)

    def open(self) -> None:
        """Let in who is allowed, now that the server's attack on itself has failed."""
        self._is_proven = True
        self._reload()

    def check(self) -> None:
        """Refuse to go on without the thread.

        Raises:
            GuardError: If it has died.
        """
        self._thread.check()

    def close(self) -> None:
        """End the thread and close its socket."""
        self._stopping.set()
        self._thread.join()

    def _body(self) -> None:
        try:
            watched_s = time.monotonic()
            while not self._stopping.is_set():
                if self._socket.poll(WATCH_MS // 2):
                    self._answer()
                if time.monotonic() - watched_s > WATCH_MS / 1000:
                    watched_s = time.monotonic()
                    self._watch()
        finally:
            self._socket.close()

    def _answer(self) -> None:
        reply = answer(self._socket.recv_multipart(), self.rules)
        self._socket.send_multipart(reply)
        if reply[2] == b"200":
            self.accepted += 1
        else:
            self.refused += 1

    def _watch(self) -> None:
        found = version_of(self._folder)
        if found != self._seen or self.trouble:
            self._seen = found
            self._reload()

    def _reload(self) -> None:
        # An unreadable list must not throw out those who are in, for a run may be under
        # way; but it lets nobody in, for the change may have been a revocation.
        with self._reloading:
            try:
                devices = read_allow_list(self._folder).in_force()
            except ArtifactError as error:
                self.trouble = str(error)
                self.rules = replace(self.rules, is_open=False)
                return
            self.trouble = ""
            self.rules = replace(self.rules, devices=devices, is_open=self._is_proven)
