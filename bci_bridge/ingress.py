"""The process that meets the scanner: validate, log, acknowledge; no numerics.

One thread: read all that has arrived, carry out what the protocol says, let time pass.
The edge, thin on purpose: what is decided is decided in `bci_bridge.protocol`. What is
logged is what the workers follow; nothing else leaves this process but the answers to
its peers. It alone reads what strangers send, so its memory is capped. Killed, it goes
on from the log.
"""

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import zmq

from bci_bridge import actions as do
from bci_bridge.admission import Admission
from bci_bridge.bell import Bell
from bci_bridge.clocks import Clocks
from bci_bridge.durability import Durability
from bci_bridge.endpoints import bound
from bci_bridge.gate import Gate, Letter
from bci_bridge.header import Header
from bci_bridge.histogram import Histogram
from bci_bridge.messages import Ack
from bci_bridge.places import INPUTS as LOG
from bci_bridge.places import Places
from bci_bridge.protocol import Protocol
from bci_bridge.recorder import Recorder
from bci_bridge.recovery import recovered_ledger, spilt_runs
from bci_bridge.rejects import FLOOD, consumed, reject_from
from bci_bridge.settings import (
    INGRESS,
    POLL_MS,
    WORKERS,
    IngressReport,
    Outlet,
    ServeConfig,
)
from bci_bridge.tokens import Tokens
from bci_bridge.wire import Envelope, decode, encode
from bci_bridge.zap import INPUTS
from runtime.errors import PeerError

DURABLE_POLL_MS = 20
"""Sleep while a sender waits to hear that its messages are on disk."""

READ_AT_ONCE = 64
"""Messages taken in one turn, so that a flood cannot starve the clock and the guard."""

FULL_TURNS = 8
"""Turns of a flood after which time tells what is missing. ZeroMQ takes from its peers
in turn: of 64 peers each has been read eight times by then."""


class Ingress:
    """The socket for inputs, and the log of what came through it.

    Attributes:
        endpoint: Where it listens, with the real port.
    """

    def __init__(
        self,
        config: ServeConfig,
        places: Places,
        outlet: Outlet,
        admission: Admission,
        clock_ns: Callable[[], int],
        stack: contextlib.ExitStack,
        *,
        is_restart: bool = False,
    ) -> None:
        """Go on from the log, then listen.

        Args:
            config: Where to listen.
            places: Where the log is.
            outlet: Where outcomes are to be had, for WELCOME.
            admission: Which runs fit.
            clock_ns: The server's monotonic clock.
            stack: Closes what is opened here.
            is_restart: The server's attack on itself has failed before.

        Raises:
            UsageError: An address or the recording is not allowed.
            BackendError: The address cannot be bound.
            ArtifactError: A key file is missing, damaged or open to others.
        """
        self._clock_ns, self._is_recording = clock_ns, places.recording is not None
        ledger, first_order = recovered_ledger(places)
        self._protocol = Protocol(
            publish=outlet.publish,
            replay=outlet.replay,
            admit=admission.check,
            ledger=ledger,
            now_ns=clock_ns(),
        )
        self._tokens = Tokens(config.rate_per_s, config.burst)
        self._spilt = spilt_runs(places, LOG, ledger)
        self._recorder = Recorder(
            places.log(LOG),
            spill=places.spill(LOG),
            first_order=first_order,
            preface=ledger.note,
            keeps_all=self._is_recording,
            is_degraded=ledger.state == "RUNNING" and ledger.run_id in self._spilt,
        )
        stack.callback(self._recorder.close)
        self._bell = Bell(places.moment, INGRESS)
        stack.callback(self._bell.close)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        stack.callback(context.term)
        # Closed after the socket: while it listens, someone answers for it.
        self._gate = Gate(None if config.keys is None else Path(config.keys), context)
        stack.callback(self._gate.close)
        self._inputs, self.endpoint = bound(
            context,
            zmq.ROUTER,
            config.address,
            high_water=config.input_queue,
            lock=self._gate.lock(INPUTS),
        )
        stack.callback(self._inputs.close)
        stack.callback(self._gate.stop_attack)
        self._gate.attack([("inputs", self.endpoint, zmq.DEALER)], is_proven=is_restart)
        self._durability = Durability()
        for heard in ledger.heard:
            for stream, upto in heard.received.items():
                if heard.run_id not in self._spilt:
                    place = first_order - 1
                    self._durability.logged(place, heard.run_id, stream, upto)
        self._runs, self._has_logged, self._full_turns = 0, False, 0
        self._rejected, self._clocks = Counter[str](), Clocks()

    @property
    def socket(self) -> "zmq.Socket[bytes]":
        """What to sleep on."""
        return self._inputs

    def turn(self) -> None:
        """Deal with all that has arrived, and with the time that has passed."""
        # Before anything is read: now the ledger knows what the log holds, no more.
        self._recorder.rotate(self._clock_ns())
        # Only after everything that has arrived was read can time tell what has not. In
        # a flood that never is: then after so many that every peer has had its turn.
        self._full_turns = 0 if self._read_inputs() else self._full_turns + 1
        if self._full_turns % FULL_TURNS == 0:
            self._carry_out(self._protocol.tick(self._clock_ns()), self._clock_ns())
        if self._has_logged:
            self._has_logged = False
            self._bell.ring(WORKERS)
        self._report_durable()
        self._gate.check()
        allowed = self._gate.newly_allowed()
        if allowed is not None:
            self._protocol.expel(allowed)

    def sleep_ms(self) -> int:
        """Say for how long nothing needs to be done unless something arrives."""
        sleep_ms = DURABLE_POLL_MS if self._durability.is_waiting else POLL_MS
        deadline_ns = self._protocol.deadline_ns()
        if deadline_ns is not None:
            left_ms = (deadline_ns - self._clock_ns()) // 1_000_000 + 1
            sleep_ms = min(sleep_ms, max(left_ms, 0))
        return sleep_ms

    def has_held(self) -> bool:
        """Say whether the attack on itself has failed, as it must."""
        return self._gate.has_held()

    @property
    def trouble(self) -> str:
        """What must not stay silent, but stops nothing; empty while all is well."""
        return self._gate.trouble

    def finish(self, *, is_urgent: bool = False) -> None:
        """Take what has arrived, and end the run.

        Args:
            is_urgent: Nothing more is read: nobody guards the socket.
        """
        if not is_urgent:
            self._read_inputs()
        self._carry_out(self._protocol.stop(), self._clock_ns())
        self._bell.ring(WORKERS)

    def report(self) -> IngressReport:
        """Account for everything."""
        protocol, is_kept = self._protocol, self._is_recording
        run, heard = protocol.run_id, protocol.ledger.heard_of(protocol.run_id)
        received = {} if heard is None else heard.received
        return IngressReport(
            runs=self._runs,
            run=run,
            acquisitions=protocol.next_index,
            is_over=protocol.state == "ENDED",
            ack_lag=self._durability.lag(run, received) if is_kept else None,
            syncs=self._recorder.syncs if is_kept else Histogram(),
            uncertainty_ns=self._clocks.of(protocol.streams),
            rejected=dict(self._rejected),
            recording=self._recording,
            self_attacks=self._gate.attacks_passed,
            accepted=self._gate.accepted,
            refused=self._gate.refused,
        )

    @property
    def _recording(self) -> Literal["ON", "DEGRADED", "OFF"]:
        return self._recorder.state if self._is_recording else "OFF"

    def _recording_of(self, run_id: str) -> Literal["ON", "DEGRADED", "OFF"]:
        protocol = self._protocol
        is_over = run_id != protocol.run_id or protocol.state != "RUNNING"
        # Its end may be in memory alone, whatever has become of the disk since.
        is_unsafe = is_over and run_id in self._spilt and self._recording == "ON"
        return "DEGRADED" if is_unsafe else self._recording

    def _read_inputs(self) -> bool:
        for _ in range(READ_AT_ONCE):
            try:
                letter = self._gate.receive(self._inputs)
            except zmq.Again:
                return True
            self._take(letter)
        return False

    def _take(self, letter: Letter) -> None:
        now_ns = self._clock_ns()
        envelope: Envelope | None = None
        verdict = self._tokens.take(letter.user or letter.peer, now_ns)
        if verdict != "TAKE":
            self._rejected["RATE"] += 1
            if verdict == "EXPEL":
                self._protocol.forget(letter.peer)
            elif verdict == "REFUSE":
                self._send(letter.peer, encode(reject_from(Header(), FLOOD, now_ns)))
            return
        try:
            # Before decoding: who has no key in force is not listened to.
            device = self._gate.device(letter)
            envelope = decode(letter.frames)
            received = self._protocol.receive(letter.peer, envelope, now_ns, device)
        except PeerError as error:
            self._refuse(letter, envelope, error, now_ns)
        else:
            self._carry_out(received, now_ns)

    def _refuse(
        self, letter: Letter, envelope: Envelope | None, error: PeerError, now_ns: int
    ) -> None:
        if not self._gate.is_own(letter):
            self._rejected[error.reason] += 1
        heard = Header() if envelope is None else envelope.record
        if error.reason == "CONFLICT" and envelope is not None:
            self._recorder.append(f"refused/{heard.stream}", envelope, now_ns)
        self._send(letter.peer, encode(reject_from(heard, error, now_ns)))

    def _carry_out(self, todo: list[do.Action], now_ns: int) -> None:
        for action in todo:
            match action:
                case do.Log(envelope):
                    self._log_input(envelope, now_ns)
                case do.Note(record):
                    self._log("note", encode(record), now_ns)
                case do.Reply(peer, record):
                    sent = msgspec.structs.replace(record, sent_ns=now_ns)
                    self._send(peer, encode(sent))
                case do.Acknowledge():
                    self._acknowledge(action)
                case do.Refuse(peer, envelope, reason, detail):
                    self._rejected[reason] += 1
                    no = consumed(envelope.record, reason, detail, self._clock_ns())
                    self._send(peer, encode(no))
                case do.StartRun():
                    self._runs += 1
                    self._protocol.ledger.begin_in(self._recorder.segment_number)
                case _:
                    pass  # a worker's to do, who finds it in the log

    def _log_input(self, envelope: Envelope, now_ns: int) -> None:
        record = envelope.record
        place, upto = self._recorder.appended, record.sequence + 1
        self._durability.logged(place, record.run, record.stream, upto)
        self._clocks.hear(record)
        self._log(f"in/{record.stream}", envelope, now_ns)

    def _log(self, topic: str, envelope: Envelope, now_ns: int) -> None:
        # Unwritten it is not acknowledged: the sender sends it to who comes next.
        self._recorder.append_or_raise(topic, envelope, now_ns)
        self._has_logged = True

    def _acknowledge(self, action: do.Acknowledge) -> None:
        ack = Ack(
            run=action.run,
            stream=action.stream,
            sent_ns=self._clock_ns(),
            received=action.received,
            durable=self._durability.upto(action.run, action.stream),
            recording=self._recording_of(action.run),
            echo_ns=action.echo_ns,
        )
        self._send(action.peer, encode(ack))

    def _send(self, peer: bytes, envelope: Envelope) -> None:
        # A peer that has gone, or does not read, misses its acknowledgement and will
        # ask by sending again; it must not hold up the others.
        with contextlib.suppress(zmq.Again, zmq.ZMQError):
            self._inputs.send_multipart([peer, *envelope.frames], zmq.NOBLOCK)

    def _report_durable(self) -> None:
        if not self._durability.is_waiting:
            return
        is_on = self._recording == "ON"
        if not is_on:
            self._durability.give_up()
        if self._durability.settle(self._recorder.durable) or not is_on:
            # Also of the run before: another may begin while its end is on the way to
            # the disk, and its sender waits to hear that it is there.
            heard = self._protocol.ledger.heard
            self._durability.keep_only([one.run_id for one in heard])
            for standing in self._protocol.standings():
                self._acknowledge(standing)
