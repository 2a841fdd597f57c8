"""The server's state machine: what every message means, and when silence means a loss.

Pure: no socket, no clock, no file. `Protocol.receive` takes a peer, a decoded message
and the instant it was read; `Protocol.tick` takes an instant. Both return actions, to
be carried out in order.

Theory of operation
===================

**Run.** One at a time goes IDLE -> RUNNING -> ENDED, and on by the next RUN_START: see
the table of transitions in `bci_bridge.ledger`. What that does not list is refused.

**Streams** are leased by HELLO (`bci_bridge.leases`). The stream that starts a run is
its scanner: only it sends volumes, and only it or an operator ends the run. A scanner
that is silent beyond its lease cannot block the rig: another RUN_START that fits then
aborts its run, and begins when it is sent again. GOODBYE gives a lease back at once.

**Runs before.** Another run may begin while the end of the last one is on its way to
the disk, or its sender is away. So the senders of the last few are still answered: how
far theirs was received, and the same message again.

**Keys.** Where peers have keys, each message comes with the device whose key it came
under. Its roles must allow what it says; a routing id belongs to one key while its
lease lasts, and a stream to one key for the whole of a run. Another key leases a stream
of the run under way only to begin the next one: where its role may, while the scanner
is gone, and until the stream's own key is back. `expel` forgets peers whose key is no
longer in force. Without keys there is no device, and none of this applies.

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
from typing import Final, Literal

from bci_bridge.actions import (
    Acknowledge,
    Action,
    Log,
    Note,
    Reply,
)
from bci_bridge.authority import ROLES, check_authority
from bci_bridge.header import VERSION
from bci_bridge.keyring import Device
from bci_bridge.leases import LEASE_NS, Leases, Peer
from bci_bridge.ledger import TRANSITIONS, Heard, Ledger, State
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

RETURN_NS: Final = 250_000_000
"""A scanner that is back sends again what it has within this time."""

MAX_AHEAD: Final = 64


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
        self._peers = Leases()
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

    @property
    def streams(self) -> set[str]:
        """The streams that somebody holds a lease on."""
        return {known.stream for known in self._peers.values() if known.stream}

    def standings(self) -> list[Acknowledge]:
        """Say to all that hold a lease how far their stream is."""
        return [
            standing
            for peer, known in self._peers.items()
            for standing in self._standing(peer, known)
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
        is_anothers = known is not None and known.user != user
        is_free = known is not None and known.is_silent(now_ns)
        if is_anothers and not (is_free and isinstance(record, Hello)):
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
                return [*self._standing(peer, known, record.sent_ns)]
        if not known.stream or record.stream != known.stream:
            raise PeerError(
                "WRONG_STREAM",
                f"expected stream {known.stream!r}, found {record.stream!r}",
            )
        heard = self._ledger.heard_of(record.run)
        if heard is not None and heard.users.get(known.stream, user) != user:
            raise PeerError("UNAUTHORISED", f"stream {known.stream!r} is another key's")
        actions = None if heard is None else self._repeated(peer, envelope, heard)
        if actions is None:
            actions = self._accept(peer, known, envelope, now_ns)
        known.seen_ns, known.run = now_ns, record.run
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
        run = self._ledger.run
        owner = self._owner(hello, user, now_ns)
        former = self._peers.lease(peer, hello, now_ns, user, owner)
        stream = self._peers[peer].stream
        # Who names another run comes for the end of that, and not to go on with this.
        is_scanner = (
            run is not None
            and stream == run.start.stream
            and hello.run in ("", run.start.run)
            and hello.role in ROLES[RunStart]
            and owner in ("", user)
        )
        if is_scanner and not self._scanner:
            self._patient_until_ns = min(self._patient_until_ns, now_ns + RETURN_NS)
        is_back = bool(owner and hello.run) and not self._has_scanner(now_ns)
        is_back |= not self._scanner
        if self._scanner in former or (is_scanner and is_back):
            self._scanner = peer
        heard = self._ledger.answering(hello.run) or Heard("")
        welcome = Welcome(
            run=heard.run_id,
            stream=stream,
            publish=self._publish,
            replay=self._replay,
            received=heard.expected(stream),
            is_running=self.state == "RUNNING" and heard.run_id == self.run_id,
        )
        return [Reply(peer, welcome)]

    def _owner(self, hello: Hello, user: str, now_ns: int) -> str:
        """Say whose key a stream has in the run under way; refuse who cannot use it.

        Only who may begin the next run can use another key's, once its scanner is gone.
        """
        run = self._ledger.run
        if run is None or self.state != "RUNNING" or hello.role == "observer":
            return ""
        owner = run.heard.users.get(hello.stream, "")
        if owner in ("", user):
            return owner
        if hello.role not in ROLES[RunStart]:
            raise PeerError("UNAUTHORISED", f"stream {hello.stream!r} is another key's")
        if self._has_scanner(now_ns):
            raise PeerError("BUSY", f"run {run.start.run!r} is under way")
        return owner

    def _standing(
        self, peer: bytes, known: Peer, echo_ns: int | None = None
    ) -> list[Acknowledge]:
        heard, stream = self._ledger.answering(known.run), known.stream
        if not stream or heard is None:
            return []
        received = heard.expected(stream)
        return [Acknowledge(peer, heard.run_id, stream, received, echo_ns)]

    def _repeated(
        self, peer: bytes, envelope: Envelope, heard: Heard
    ) -> list[Action] | None:
        record = envelope.record
        crcs = heard.crcs.get(record.stream, [])
        if record.sequence >= len(crcs):
            return None
        if crcs[record.sequence] != envelope.crc32:
            if isinstance(record, RunStart) and heard.run_id != self.run_id:
                return None  # not the same run again, but its name
            raise PeerError(
                "CONFLICT", f"sequence {record.sequence} came before, different"
            )
        accepted = len(crcs)
        return [Acknowledge(peer, record.run, record.stream, accepted, record.sent_ns)]

    def _accept(
        self, peer: bytes, known: Peer, envelope: Envelope, now_ns: int
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
        is_scanners = isinstance(record, Volume | Missing | RunEnd)
        if known.stream != scanner and known.role == "scanner" and is_scanners:
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
        if known.stream == scanner and known.role in ROLES[RunStart]:
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
        if not start.run:
            raise PeerError("WRONG_RUN", "expected a name, found none")
        if start.sequence != 0:
            raise PeerError("SEQUENCE_JUMP", f"expected 0, found {start.sequence}")
        if self._ledger.has_had(start.run):
            raise PeerError("WRONG_RUN", f"{start.run!r} has been; name the run anew")
        if self.state == "RUNNING" and self._has_scanner(now_ns):
            raise PeerError("BUSY", f"run {self.run_id!r} is under way")
        # What never begins ends no other.
        self._admit(start)
        if self.state == "RUNNING":
            # The abandoned run gets its end first; this message will be sent again.
            return self._abort("RUN_TAKEN_OVER")
        self._scanner = peer
        user = self._peers[peer].user
        began = self._ledger.fold(envelope, now_ns, peer=peer, user=user)
        return [
            Log(envelope),
            *began,
            *self._owned(self._peers[peer], is_first=True),
            Acknowledge(peer, start.run, start.stream, 1, start.sent_ns),
        ]

    def _owned(self, known: Peer, *, is_first: bool) -> list[Action]:
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
        return owner is not None and not owner.is_silent(now_ns)

    def _abort(self, why: Literal["RUN_TAKEN_OVER", "SERVER_STOPPED"]) -> list[Action]:
        note = DecisionNote(run=self.run_id, stream="server", what=why)
        return [Note(note), *self._ledger.fold(encode(note), 0)]
