"""The server's state machine: what every message means, and when silence means a loss.

Pure: no socket, no clock, no file. `Protocol.receive` takes a peer, a decoded message
and the instant it was read; `Protocol.tick` takes an instant. Both return actions, to
be carried out in order.

Theory of operation
===================

**Run.** One run at a time goes IDLE -> RUNNING -> ENDED, by the table of transitions in
`bci_bridge.ledger`; the next
RUN_START leaves ENDED (or IDLE) again. What the table does not list is refused.

**Streams.** A peer says HELLO and thereby leases a stream name. It keeps the lease
while it is heard from within `LEASE_NS`; a second peer with that name is BUSY until
then, and takes over where the first one stopped afterwards, or at once with the first
one's secret and key. The stream that starts a run is its scanner: only it sends
volumes. A scanner that is silent beyond its lease cannot block the rig: another
RUN_START then aborts its run, and begins when it is sent again. GOODBYE gives a lease
back at once.

**Keys.** Where peers have keys, each message comes with the device whose key it came
under. Its roles must allow what it says; a routing id belongs to one key while its
lease lasts, and a stream to one key for the whole of a run. `expel` forgets peers whose
key is no longer in force. Without keys there is no device, and none of this applies.

**Sequence** counts the messages of one stream in one run, contiguous from 0. The next
one expected is accepted; an older one is acknowledged again if its CRC is the same and
a CONFLICT if not (the first is kept); a newer one, up to `MAX_AHEAD`, changes nothing
but repeats the acknowledgement, upon which the sender goes back; beyond that it is a
SEQUENCE_JUMP. So what is accepted is one total order.

**Two ways to say no.** A message that is illegal here (state, role, run, sequence)
raises `PeerError` and changes nothing: its sequence is not used up. A message that is
legal but whose content cannot be used (an index twice, another shape) uses up its
sequence, is logged, and is answered by a REJECT that says so; otherwise a single bad
volume would block its stream for ever.

**Acquisitions.** `next_index` is the first without an outcome; outcomes are given in
order of the index, one each. A volume beyond it proves the ones between MISSING,
because sequences do not skip: the source did. So does RUN_END's count. And, in a live
run, so does time: index i is expected at the end of acquisition of the last known
volume plus the TRs between, and is MISSING when that is more than the budget ago. A
volume that comes after its MISSING outcome is logged, with the decision not to use it.
A volume that was read in time but decided too late is LATE, which the worker sees.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from bci_bridge.actions import (
    Acknowledge,
    Action,
    Log,
    Note,
    Reply,
)
from bci_bridge.authority import ROLES, check_authority
from bci_bridge.header import VERSION, Role
from bci_bridge.keyring import Device
from bci_bridge.ledger import TRANSITIONS, Ledger, State
from bci_bridge.messages import (
    DecisionNote,
    Goodbye,
    Heartbeat,
    Hello,
    Missing,
    RunEnd,
    RunStart,
    Volume,
    Welcome,
)
from bci_bridge.wire import Envelope, encode
from runtime.errors import PeerError

LEASE_NS: Final = 5_000_000_000
RETURN_NS: Final = 250_000_000
"""A scanner that is back sends again what it has within this time."""

MAX_AHEAD: Final = 64
MAX_PEERS: Final = 64


@dataclass(slots=True)
class _Peer:
    role: Role
    stream: str
    seen_ns: int
    user: str
    """Public key; empty where there are none."""
    proof: tuple[str, str]
    """Secret of its HELLO and key: what takes its stream over at once."""


def _admit_all(start: RunStart) -> None:
    del start


class Protocol:
    """One server's view of its peers and of the run."""

    def __init__(
        self,
        *,
        publish: str = "",
        replay: str = "",
        admit: Callable[[RunStart], None] = _admit_all,
        ledger: Ledger | None = None,
        now_ns: int = 0,
    ) -> None:
        """Begin without peers or run.

        Args:
            publish: Endpoint that WELCOME names for outcomes.
            replay: Endpoint that WELCOME names for asking again.
            admit: Raises `PeerError` for a run that cannot be decoded.
            ledger: What an earlier server left on record; its run goes on.
            now_ns: When that was read. Its scanner gets a lease to come back in.
        """
        self._ledger = Ledger() if ledger is None else ledger
        self._publish, self._replay, self._admit = publish, replay, admit
        self._peers: dict[bytes, _Peer] = {}
        # The peer from which the run's volumes came last; none has come back yet.
        self._scanner, self._restored_ns = b"", now_ns
        # Until then, silence is this server's own fault and no acquisition's loss.
        self._patient_until_ns = now_ns + LEASE_NS if self.state == "RUNNING" else 0

    @property
    def ledger(self) -> Ledger:
        """What is on record."""
        return self._ledger

    @property
    def state(self) -> State:
        """Where the run stands."""
        return self._ledger.state

    @property
    def run_id(self) -> str:
        """The current or last run; empty before the first."""
        return self._ledger.run_id

    @property
    def next_index(self) -> int:
        """The first acquisition of the run that has no outcome yet."""
        return self._ledger.next_index

    def streams(self) -> list[tuple[bytes, str, int]]:
        """List peer, stream and sequence expected next, for all that hold a lease."""
        return [
            (peer, known.stream, self._ledger.expected(known.stream))
            for peer, known in self._peers.items()
            if known.stream
        ]

    def receive(
        self,
        peer: bytes,
        envelope: Envelope,
        now_ns: int,
        device: Device | None = None,
    ) -> list[Action]:
        """Take one message.

        Args:
            peer: Routing id.
            envelope: The message.
            now_ns: When it was read.
            device: Whose key it came under; None where there are no keys.

        Raises:
            PeerError: If it is not allowed here; then nothing has changed.
        """
        record = envelope.record
        user = ""
        if device is not None:
            check_authority(device, record)
            user = device.public_key
        known = self._peers.get(peer)
        if known is not None and known.user != user:
            is_silent = now_ns - known.seen_ns >= LEASE_NS
            if not (is_silent and isinstance(record, Hello)):
                raise PeerError("UNAUTHORISED", "the routing id is another key's")
        match record:
            case Hello():
                return self._hello(peer, record, now_ns, user)
            case _ if known is None:
                raise PeerError("NO_HELLO", "expected HELLO first")
            case Goodbye():
                del self._peers[peer]
                return []
            case Heartbeat():
                known.seen_ns = now_ns
                # The answer to a stream repeats what an earlier, lost one said.
                return self._standing(peer, known.stream, record.sent_ns)
        if not known.stream or record.stream != known.stream:
            raise PeerError(
                "WRONG_STREAM",
                f"expected stream {known.stream!r}, found {record.stream!r}",
            )
        run = self._ledger.run
        if run is not None and record.run == run.start.run:
            owner = run.users.get(known.stream, user)
            if owner != user:
                raise PeerError(
                    "UNAUTHORISED", f"stream {known.stream!r} is another key's"
                )
        repeated = self._repeated(peer, envelope)
        if repeated is not None:
            known.seen_ns = now_ns
            return repeated
        actions = self._accept(peer, known, envelope, now_ns)
        known.seen_ns = now_ns
        return actions

    def expel(self, allowed: frozenset[str]) -> None:
        """Forget the peers whose key is not among those in force."""
        for peer, known in list(self._peers.items()):
            if known.user not in allowed:
                del self._peers[peer]

    def forget(self, peer: bytes) -> None:
        """Take back the lease of a peer that is not listened to any more."""
        self._peers.pop(peer, None)

    def deadline_ns(self) -> int | None:
        """Say when `tick` next has something to do; None if time decides nothing."""
        run = self._ledger.run
        if run is None or self._ledger.state != "RUNNING":
            return None
        due_ns = run.acquisitions.due_ns()
        return None if due_ns is None else max(due_ns, self._patient_until_ns)

    def tick(self, now_ns: int) -> list[Action]:
        """Declare missing what the live deadline has passed over."""
        run = self._ledger.run
        if self.state != "RUNNING" or run is None or now_ns < self._patient_until_ns:
            return []
        return run.acquisitions.tick(now_ns)

    def stop(self) -> list[Action]:
        """End a run that is under way, because the server stops."""
        if self.state != "RUNNING":
            return []
        return self._abort("SERVER_STOPPED")

    def _hello(self, peer: bytes, hello: Hello, now_ns: int, user: str) -> list[Action]:
        if VERSION not in hello.versions:
            raise PeerError(
                "BAD_VERSION", f"expected {VERSION} among {list(hello.versions)[:8]}"
            )
        if hello.role != "observer" and not hello.stream:
            raise PeerError("WRONG_STREAM", f"expected a stream for {hello.role}")
        peers, proof = self._peers, (hello.lease, user)
        rivals = [
            other
            for other, known in peers.items()
            if other != peer and hello.stream and known.stream == hello.stream
        ]
        # The same sender, come back after a crash: its secret, under its key.
        former = {r for r in rivals if hello.lease and peers[r].proof == proof}
        if any(now_ns - peers[r].seen_ns < LEASE_NS for r in {*rivals} - former):
            raise PeerError("BUSY", f"stream {hello.stream!r} has a sender")
        silent = [r for r, known in peers.items() if now_ns - known.seen_ns >= LEASE_NS]
        if peer not in peers and len(peers) - len(silent) >= MAX_PEERS:
            raise PeerError("BUSY", f"{MAX_PEERS} peers are connected")
        if len(peers) >= MAX_PEERS:
            rivals += silent
        for rival in rivals:
            peers.pop(rival, None)
        stream = "" if hello.role == "observer" else hello.stream
        peers[peer] = _Peer(hello.role, stream, now_ns, user, proof)
        run = self._ledger.run
        is_scanner = run is not None and stream and stream == run.start.stream
        if is_scanner and not self._scanner:
            patient_ns = min(self._patient_until_ns, now_ns + RETURN_NS)
            self._patient_until_ns = patient_ns
        if self._scanner in former or (is_scanner and not self._scanner):
            self._scanner = peer
        welcome = Welcome(
            run=self.run_id,
            stream=stream,
            publish=self._publish,
            replay=self._replay,
            received=self._ledger.expected(stream),
            is_running=self.state == "RUNNING",
        )
        return [Reply(peer, welcome)]

    def _standing(self, peer: bytes, stream: str, echo_ns: int) -> list[Action]:
        run = self._ledger.run
        if not stream or run is None:
            return []
        expected = self._ledger.expected(stream)
        return [Acknowledge(peer, run.start.run, stream, expected, echo_ns)]

    def _repeated(self, peer: bytes, envelope: Envelope) -> list[Action] | None:
        record, run = envelope.record, self._ledger.run
        if run is None or record.run != run.start.run:
            return None
        crcs = run.crcs.get(record.stream, [])
        if record.sequence >= len(crcs):
            return None
        if crcs[record.sequence] != envelope.crc32:
            raise PeerError(
                "CONFLICT", f"sequence {record.sequence} came before, different"
            )
        accepted = len(crcs)
        return [Acknowledge(peer, record.run, record.stream, accepted, record.sent_ns)]

    def _accept(
        self, peer: bytes, known: _Peer, envelope: Envelope, now_ns: int
    ) -> list[Action]:
        record = envelope.record
        if known.role not in ROLES.get(type(record), frozenset()):
            raise PeerError(
                "WRONG_ROLE", f"{known.role} may not send {type(record).__name__}"
            )
        if isinstance(record, RunStart):
            return self._start(peer, envelope, record, now_ns)
        run = self._ledger.run
        if (self.state, type(record)) not in TRANSITIONS or run is None:
            raise PeerError(
                "ILLEGAL_STATE", f"{type(record).__name__} while {self.state}"
            )
        if record.run != run.start.run:
            raise PeerError(
                "WRONG_RUN", f"expected {run.start.run!r}, found {record.run!r}"
            )
        scanner = run.start.stream
        if known.stream != scanner and isinstance(record, Volume | Missing):
            raise PeerError("BUSY", f"the run's scanner is {scanner!r}")
        expected = self._ledger.expected(known.stream)
        if record.sequence > expected + MAX_AHEAD:
            raise PeerError(
                "SEQUENCE_JUMP", f"expected {expected}, found {record.sequence}"
            )
        if record.sequence > expected:
            return [
                Acknowledge(peer, record.run, known.stream, expected, record.sent_ns)
            ]
        if isinstance(record, RunEnd):
            run.acquisitions.check_end(record)
        if known.stream == scanner:
            self._scanner = peer
        return [
            Log(envelope),
            *self._owned(known, is_first=expected == 0),
            Acknowledge(peer, record.run, known.stream, expected + 1, record.sent_ns),
            *self._ledger.fold(envelope, now_ns, peer=peer, user=known.user),
        ]

    def _start(
        self, peer: bytes, envelope: Envelope, start: RunStart, now_ns: int
    ) -> list[Action]:
        run = self._ledger.run
        if not start.run:
            raise PeerError("WRONG_RUN", "expected a name, found none")
        if start.sequence != 0:
            raise PeerError("SEQUENCE_JUMP", f"expected 0, found {start.sequence}")
        if self._ledger.has_had(start.run):
            raise PeerError("WRONG_RUN", f"{start.run!r} has been; name the run anew")
        if self.state == "RUNNING" and run is not None:
            if self._has_scanner(now_ns):
                raise PeerError("BUSY", f"run {run.start.run!r} is under way")
            # The abandoned run gets its end first; this message will be sent again.
            return self._abort("RUN_TAKEN_OVER")
        self._admit(start)
        self._scanner = peer
        user = self._peers[peer].user
        began = self._ledger.fold(envelope, now_ns, peer=peer, user=user)
        return [
            Log(envelope),
            *began,
            *self._owned(self._peers[peer], is_first=True),
            Acknowledge(peer, start.run, start.stream, 1, start.sent_ns),
        ]

    def _owned(self, known: _Peer, *, is_first: bool) -> list[Action]:
        """Put on record whose key a stream began with, for whoever restores it."""
        if not known.user or not is_first:
            return []
        note = DecisionNote(
            run=self.run_id, stream=known.stream, what="STREAM_KEY", detail=known.user
        )
        return [Note(note)]

    def _has_scanner(self, now_ns: int) -> bool:
        if not self._scanner:
            return now_ns - self._restored_ns < LEASE_NS
        owner = self._peers.get(self._scanner)
        return owner is not None and now_ns - owner.seen_ns < LEASE_NS

    def _abort(self, why: Literal["RUN_TAKEN_OVER", "SERVER_STOPPED"]) -> list[Action]:
        note = DecisionNote(run=self.run_id, stream="server", what=why)
        return [Note(note), *self._ledger.fold(encode(note), 0)]
