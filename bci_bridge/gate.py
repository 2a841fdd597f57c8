"""The server's keys at work: locks for its sockets, and whose message has come.

One object for a server with keys and for one without, so that the loop asks the same
questions of both. Decisions are in `bci_bridge.zap` and `bci_bridge.authority`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zmq

from bci_bridge.endpoints import Lock
from bci_bridge.keyfolder import read_key_pair
from bci_bridge.keyring import SERVER, Device, KeyPair, lost_access
from bci_bridge.self_attack import SelfAttack, Target
from bci_bridge.zap import ZapHandler
from runtime.errors import PeerError

ATTACKER: Final = "self-attack"


@dataclass(frozen=True, slots=True)
class Letter:
    """One message as a ROUTER gives it."""

    peer: bytes
    frames: list[bytes]
    user: str
    """Public key under which it came; empty without keys."""


class Gate:
    """Who may speak with this server."""

    def __init__(
        self, folder: Path | None, context: "zmq.Context[zmq.Socket[bytes]]"
    ) -> None:
        """Read the keys and begin to answer handshakes; without a folder do nothing.

        Raises:
            ArtifactError: If a file is missing, damaged or open to others.
        """
        self._handler: ZapHandler | None = None
        self._attack: SelfAttack | None = None
        self._attacker = self._pair = None
        if folder is None:
            return
        self._pair = read_key_pair(folder / f"{SERVER}.key")
        public, secret = zmq.curve_keypair()
        self._attacker = KeyPair(
            name=ATTACKER, public_key=public.decode(), secret_key=secret.decode()
        )
        self._handler = ZapHandler(context, folder, self._attacker.public_key)
        self._known = self._handler.rules.devices

    @property
    def attacks_passed(self) -> int:
        """Attacks of the server on itself that were refused."""
        return 0 if self._attack is None else self._attack.passed

    @property
    def accepted(self) -> int:
        """Handshakes let in."""
        return 0 if self._handler is None else self._handler.accepted

    @property
    def refused(self) -> int:
        """Handshakes not let in."""
        return 0 if self._handler is None else self._handler.refused

    @property
    def trouble(self) -> str:
        """Why the allow-list cannot be read, or which attack on itself is unanswered.

        Empty while all is well.
        """
        of_list = "" if self._handler is None else self._handler.trouble
        return of_list or ("" if self._attack is None else self._attack.trouble)

    def lock(self, domain: bytes) -> Lock | None:
        """Give what a socket needs to ask for keys."""
        return None if self._pair is None else Lock(self._pair, domain)

    def attack(self, targets: Sequence[Target], *, is_proven: bool = False) -> None:
        """Begin to try to break in, once the sockets listen.

        Args:
            targets: The sockets.
            is_proven: They held when this server began: let devices in at once.
        """
        if is_proven and self._handler is not None:
            self._handler.open()
        if self._pair is not None and self._attacker is not None:
            self._attack = SelfAttack(
                targets, self._pair.public_key, self._attacker, is_proven=is_proven
            )

    def has_held(self) -> bool:
        """Say whether the first round of attacks is over; if so, let devices in."""
        if self._handler is None:
            return True
        if self._attack is None or not self._attack.has_passed:
            return False
        self._handler.open()
        return True

    def check(self) -> None:
        """Refuse to go on without guard.

        Raises:
            BackendError: A thread has died, or an attack got in.
        """
        if self._handler is not None:
            self._handler.check()
        if self._attack is not None:
            self._attack.check()

    def newly_allowed(self) -> frozenset[str] | None:
        """Give the keys in force if any lost a right since the last call, else None."""
        if self._handler is None or self._handler.rules.devices is self._known:
            return None
        before, self._known = self._known, self._handler.rules.devices
        return frozenset(self._known) if lost_access(before, self._known) else None

    def receive(self, line: "zmq.Socket[bytes]") -> Letter:
        """Take one message from a ROUTER.

        Raises:
            zmq.Again: If there is none.
        """
        if self._handler is None:
            peer, *frames = line.recv_multipart(zmq.NOBLOCK)
            return Letter(peer, frames, "")
        # Only frames that are not copied know under which key they came.
        parts = line.recv_multipart(zmq.NOBLOCK, copy=False)
        try:
            user = parts[-1].get("User-Id")
        except zmq.ZMQError:
            user = ""
        peer, *frames = [part.bytes for part in parts]
        return Letter(peer, frames, str(user))

    def device(self, letter: Letter) -> Device | None:
        """Say whose message it is, by the allow-list of this instant.

        Raises:
            PeerError: UNAUTHORISED, if the key is unknown or revoked.
        """
        if self._handler is None:
            return None
        if self.is_own(letter):
            return Device(name=ATTACKER, public_key=letter.user, roles=())
        device = self._handler.rules.devices.get(letter.user)
        if device is None:
            raise PeerError("UNAUTHORISED", "expected a key in force, found another")
        return device

    def is_own(self, letter: Letter) -> bool:
        """Say whether the server wrote it itself, in an attack."""
        return self._attacker is not None and letter.user == self._attacker.public_key

    def stop_attack(self) -> None:
        """End the attacks, before the sockets that they attack."""
        if self._attack is not None:
            self._attack.close()

    def close(self) -> None:
        """Stop answering handshakes, after all sockets are closed."""
        if self._handler is not None:
            self._handler.close()
