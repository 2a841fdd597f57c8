"""How one stream's messages come to a server's disk: each of them, once, in order.

A message is kept, in memory or in a spool, until the server says that it is on disk (or
that it records nothing). What is under way is sent again, with all after it, when
acknowledgements stand still. A server that is away is waited for: meanwhile messages
queue up behind the window, and leave as fast as acknowledgements come once it is back.
A server that does not know the sender any more is greeted again, and says where to go
on.

Single-threaded: `Delivery.pump` turns the crank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bci_bridge.clock_offset import ClockOffset
from bci_bridge.header import Header
from bci_bridge.line import GREET_MS, Line
from bci_bridge.messages import (
    Ack,
    Clocked,
    Heartbeat,
    Hello,
    Reject,
    Welcome,
    kind_of,
)
from bci_bridge.spool import Spool
from bci_bridge.window import Window
from bci_bridge.wire import INPUT_HEADER_BYTES, Envelope, checked, encode
from runtime.errors import ArtifactError, BackendError, PeerError, UsageError

RESEND_NS: Final = 50_000_000
"""Without progress for this long, all that is unacknowledged is sent again."""

SILENCE_NS: Final = 3_000_000_000
"""A server that leaves this long unanswered what it was told is connected anew."""

HEARTBEAT_NS: Final = 250_000_000
_GREET_NS: Final = GREET_MS * 1_000_000
_HARMLESS = frozenset({"BAD_CRC", "BAD_HEADER", "BAD_SIZE", "BAD_PARTS", "RATE"})
"""Damage on the way, or too much at once: sending again, later, heals it."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server may be silent."""

    timeout_ns: int
    """Before it knows the run, or once the sender is told to end."""
    outage_ns: int
    """Afterwards."""
    is_cancelled: Callable[[], bool]


class Delivery:
    """The messages of one stream of one run, and the line to their server.

    Attributes:
        refusals: REJECTs of messages whose content the server does not use.
        welcome: What the server said when it was greeted last.
        resent: Messages that were sent more than once.
    """

    def __init__(
        self,
        line: Line,
        hello: Hello,
        run: str,
        spool: Spool | None,
        clock_ns: Callable[[], int],
        patience: Patience,
    ) -> None:
        """Greet the server, and go on where it stands with what the spool holds.

        Raises:
            BackendError: If no server answers, or the wait was cancelled.
            PeerError: If the server refuses the stream, or does not know the run of
                which it has acknowledged messages.
            ArtifactError: If the server has messages that the spool has lost.
        """
        self.refusals: list[Reject] = []
        self.resent = 0
        self._offset = ClockOffset()
        self._line, self._hello, self._run = line, hello, run
        self._spool, self._clock_ns, self._patience = spool, clock_ns, patience
        held = None if spool is None else spool.held
        self._is_known = held is not None and held.is_begun
        self._window = (
            Window() if spool is None else Window(spool.first, after=spool.next)
        )
        # What an earlier process left may be on the server's disk without our knowing.
        self._is_whole = self._window.next == 0
        self._highest_sent = 0
        self._is_greeting = False
        # Since when the server owes an answer; None while it does not.
        self._asked_ns: int | None = None
        # Progress: of what is received, or since it was last sent again.
        now_ns = clock_ns()
        self._progress_ns = self._advanced_ns = self._sent_ns = now_ns
        self._greeted_ns = now_ns
        greeting = line.greet(
            hello, patience.timeout_ns, clock_ns, patience.is_cancelled
        )
        self.welcome = greeting.welcome
        # The first message says it, too: all onsets count from the first pulse.
        self._offset.add(greeting.asked_ns, greeting.welcome.sent_ns, greeting.heard_ns)
        if self._window.next > 0:
            self._stand(self.welcome)
        elif self.welcome.run == run and self.welcome.received > 0:
            self._join(self.welcome.received)

    @property
    def count(self) -> int:
        """Messages so far, those of an earlier process included."""
        return self._window.next

    @property
    def is_received(self) -> bool:
        """The server has acknowledged a message of this run."""
        return self._is_known

    @property
    def is_settled(self) -> bool:
        """Nothing is left to wait for."""
        return self._window.is_settled

    @property
    def is_behind(self) -> bool:
        """One more message would have to wait for the server."""
        return self._window.is_full

    def post(self, record: Header, payload: bytes = b"") -> None:
        """Take one message; waits only where there is neither memory nor disk for it.

        Raises:
            UsageError: If a field is out of its range, or all of them are too long.
            PeerError: If the server refuses the stream.
            BackendError: If the server is away for too long.
        """
        if not self._has_room:
            self.wait(lambda: self._has_room)
        now_ns = self._clock_ns()
        if self._window.received == self._window.next:
            self._progress_ns = self._advanced_ns = now_ns
        filled = checked(
            record,
            **self._clocked(record, now_ns),
            run=self._run,
            stream=self._hello.stream,
            sequence=self._window.next,
            sent_ns=now_ns,
            nbytes=len(payload),
        )
        envelope = encode(filled, payload)
        nbytes = len(envelope.header)
        if nbytes > INPUT_HEADER_BYTES:
            # No server reads it, nor knows whose it is: it would be sent for ever.
            raise UsageError(
                f"{kind_of(record)} of run {self._run!r}: expected "
                f"{INPUT_HEADER_BYTES} bytes of header at most, found {nbytes}. "
                "Shorten its names and texts"
            )
        is_spooled = self._spool is not None and self._spool.append(envelope)
        self._window.push(envelope, is_spooled=is_spooled)
        self.pump()

    def pump(self, timeout_ms: int = 0) -> None:
        """Wait for answers, send what is due, send again what is lost, show life."""
        if self._line.poll(timeout_ms):
            self._read()
        now_ns = self._clock_ns()
        if self._asked_ns is not None and now_ns - self._asked_ns > SILENCE_NS:
            self._line.reconnect()
            self._greet(now_ns)
        elif self._is_greeting:
            if now_ns - self._greeted_ns > _GREET_NS:
                self._greet(now_ns)
        else:
            if self._window.received < self._window.next:
                self._send_due(now_ns)
            if now_ns - self._sent_ns > HEARTBEAT_NS:
                beat = Heartbeat(stream=self._hello.stream, sent_ns=now_ns)
                self._transmit(encode(beat), now_ns)
        is_waiting = self._is_known and self._window.received < self._window.next
        if is_waiting and now_ns - self._advanced_ns > self._patience.outage_ns:
            raise self._silence(self._patience.outage_ns)

    def wait(self, is_done: Callable[[], bool]) -> None:
        """Pump until something is so.

        Raises:
            BackendError: If the server does not get on for too long.
        """
        begin_ns = self._clock_ns()
        while not is_done():
            self.pump(10)
            patience = self._patience
            limit_ns = patience.outage_ns if self._is_known else patience.timeout_ns
            if patience.is_cancelled():
                limit_ns = min(limit_ns, patience.timeout_ns)
            if self._clock_ns() - max(begin_ns, self._advanced_ns) > limit_ns:
                raise self._silence(limit_ns)

    def _clocked(self, record: Header, now_ns: int) -> dict[str, int]:
        found = self._offset.at(now_ns)
        if found is None or not isinstance(record, Clocked):
            return {}
        offset_ns, uncertainty_ns = found
        return {"clock_offset_ns": offset_ns, "clock_uncertainty_ns": uncertainty_ns}

    @property
    def _has_room(self) -> bool:
        has_disk = self._spool is not None and self._spool.state == "ON"
        return has_disk or self._window.has_memory

    def _silence(self, limit_ns: int) -> BackendError:
        return BackendError(
            f"server {self._line.address}: expected acknowledgements, found "
            f"none that is new for {limit_ns / 1e9:g} s"
        )

    def _send_due(self, now_ns: int) -> None:
        window = self._window
        if window.received < window.sent and now_ns - self._progress_ns > RESEND_NS:
            self._progress_ns = now_ns
            window.go_back()
        for sequence in window.due():
            if not self._transmit(self._message(sequence), now_ns):
                # No connection at the moment; the next turn of the crank tries again.
                return
            window.sent_up_to(sequence + 1)
            if sequence < self._highest_sent:
                self.resent += 1
            else:
                self._highest_sent = sequence + 1

    def _message(self, sequence: int) -> Envelope:
        kept = self._window.kept(sequence)
        if kept is not None:
            return kept
        if self._spool is None:
            raise ArtifactError(f"message {sequence}: expected to be held, found gone")
        return self._spool.read(sequence)

    def _transmit(self, envelope: Envelope, now_ns: int) -> bool:
        self._sent_ns = now_ns
        if self._asked_ns is None:
            self._asked_ns = now_ns
        return self._line.transmit(envelope)

    def _greet(self, now_ns: int) -> None:
        self._is_greeting, self._greeted_ns = True, now_ns
        self._asked_ns = None
        self._transmit(encode(self._hello), now_ns)

    def _read(self) -> None:
        for record in self._line.answers():
            self._asked_ns = None
            match record:
                case Ack():
                    now_ns = self._clock_ns()
                    if record.echo_ns is not None:
                        self._offset.add(record.echo_ns, record.sent_ns, now_ns)
                    if record.run == self._run:
                        self._acknowledged(record, now_ns)
                case Welcome() if self._is_greeting:
                    self._is_greeting, self.welcome = False, record
                    self._stand(record)
                case Reject():
                    self._rejected(record)

    def _acknowledged(self, ack: Ack, now_ns: int) -> None:
        is_received, is_durable = self._window.acknowledge(ack)
        if is_received:
            self._received(now_ns)
        if is_received or is_durable:
            self._advanced_ns = now_ns
        if self._spool is not None:
            self._spool.settle(self._window.first)

    def _received(self, now_ns: int) -> None:
        self._is_known, self._progress_ns = True, now_ns
        if self._spool is not None:
            self._spool.mark_begun()

    def _stand(self, welcome: Welcome) -> None:
        """Go on where a server stands that has just greeted."""
        window, run = self._window, self._run
        if welcome.run != run:
            # A power cut may have taken a run that had only just begun: begin it again.
            is_new = self._is_whole and not welcome.is_running and window.resume(0)
            if self._is_known and not is_new:
                raise PeerError(
                    "WRONG_RUN",
                    f"expected a server that goes on with run {run!r}, found one that "
                    f"{'has ' + repr(welcome.run) if welcome.run else 'knows no run'}",
                )
            return
        if welcome.received > window.next:
            raise ArtifactError(
                f"run {run!r}: expected at most {window.next} messages at the server, "
                f"found {welcome.received}: more than are held here. "
                "The spool was damaged or its disk was full; name the run anew."
            )
        before = window.received
        if not window.resume(welcome.received):
            raise PeerError(
                "SEQUENCE_JUMP",
                f"expected a server that has {window.first} messages of run {run!r}, "
                f"found {welcome.received}: it lost some that it had on disk",
            )
        now_ns = self._clock_ns()
        if window.received > before:
            self._advanced_ns = now_ns
        if window.received > 0:
            self._received(now_ns)

    def _join(self, received: int) -> None:
        """Go on with a stream of which nothing is held here, but the server has some.

        Raises:
            ArtifactError: Its sender held the run's beginning, or had a spool.
        """
        if self._spool is not None or self._hello.role != "stimulus":
            raise ArtifactError(
                f"run {self._run!r}: expected a server that has nothing of this "
                f"stream, found {received} messages of an earlier sender. Go on with "
                "its spool, or name the run anew."
            )
        # Events do not rest on each other: what comes now follows what came.
        self._window = Window(received, after=received)
        self._highest_sent = received
        self._is_whole, self._is_known = False, True

    def _rejected(self, reject: Reject) -> None:
        if reject.is_consumed:
            self.refusals.append(reject)
        elif reject.reason == "NO_HELLO":
            if not self._is_greeting:
                self._greet(self._clock_ns())
        elif reject.reason == "BUSY" and self._is_greeting:
            return  # another routing id of ours still has the lease: ask again
        elif reject.reason not in _HARMLESS:
            raise PeerError(reject.reason, reject.detail)

    def close(self) -> None:
        """Disconnect; what is not settled stays in the spool."""
        self._line.close()
