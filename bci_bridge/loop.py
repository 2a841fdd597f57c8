"""The live system's heart: sockets around the protocol, the decoder and the log.

One thread: read all that has arrived, carry out what the protocol says, let time pass.
The edge, thin on purpose: what is decided is decided in `bci_bridge.protocol` and
`bci_bridge.worker`. Time that nobody waits for (sync to disk) is spent elsewhere.
"""

import contextlib
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import zmq

from bci_bridge import actions as do
from bci_bridge.announcer import Announcer
from bci_bridge.authority import check_authority
from bci_bridge.endpoints import bound
from bci_bridge.gate import Gate, Letter
from bci_bridge.header import Header
from bci_bridge.messages import (
    Ack,
    Heartbeat,
    Reject,
    RejectReason,
    ReplayRequest,
    RigNote,
)
from bci_bridge.outbox import Outbox
from bci_bridge.protocol import Protocol
from bci_bridge.recorder import Recorder
from bci_bridge.settings import Endpoints, ServeConfig, ServeReport
from bci_bridge.wire import Envelope, decode, encode
from bci_bridge.worker import Decoder, Outgoing, Worker
from bci_bridge.zap import INPUTS, PUBLISH, REPLAY
from runtime.errors import PeerError

POLL_MS = 100
"""Longest sleep: bounds how late `stop` is noticed."""

DURABLE_POLL_MS = 20
"""Sleep while a sender waits to hear that its messages are on disk."""

READ_AT_ONCE = 64
"""Messages taken in one turn, so that a flood cannot starve replay and `stop`."""

HEARTBEAT_NS = 250_000_000
"""Subscribers hear at least this often how many outcomes there are."""


class Loop:
    """Sockets and the order in which they are served."""

    def __init__(
        self,
        config: ServeConfig,
        decoder: Decoder,
        recorder: Recorder | None,
        clock_ns: Callable[[], int],
        stack: contextlib.ExitStack,
        rig: RigNote | None = None,
    ) -> None:
        self._clock_ns, self._recorder = clock_ns, recorder
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        stack.callback(context.term)
        # Closed after the sockets: while one listens, someone answers for it.
        self._gate = Gate(None if config.keys is None else Path(config.keys), context)
        stack.callback(self._gate.close)

        def opened(
            address: str, high_water: int, domain: bytes
        ) -> tuple["zmq.Socket[bytes]", str]:
            lock = self._gate.lock(domain)
            socket, endpoint = bound(
                context, zmq.ROUTER, address, high_water=high_water, lock=lock
            )
            stack.callback(socket.close)
            return socket, endpoint

        self._inputs, inputs = opened(config.address, config.input_queue, INPUTS)
        self._publisher = Announcer(context, config.publish, self._gate.lock(PUBLISH))
        stack.callback(self._publisher.close)
        publish = self._publisher.endpoint
        self._replays, replay = opened(config.replay, 1024, REPLAY)
        self.endpoints = Endpoints(address=inputs, publish=publish, replay=replay)
        stack.callback(self._gate.stop_attack)
        self._gate.attack(self.endpoints)
        self._worker = Worker(decoder, clock_ns)
        self._protocol = Protocol(
            publish=publish, replay=replay, admit=self._worker.admit
        )
        self._outbox = Outbox()
        self._poller = zmq.Poller()
        self._poller.register(self._inputs, zmq.POLLIN)
        self._poller.register(self._replays, zmq.POLLIN)
        # Orders of logged inputs not yet on disk, and what is, per run and stream.
        self._pending: deque[tuple[int, str, str]] = deque()
        self._durable: Counter[tuple[str, str]] = Counter()
        self._heartbeat_ns = 0
        self._runs = 0
        self._outcomes: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        if rig is not None:
            self._log("out", encode(rig))

    def turn(self) -> None:
        """Sleep until something happens, and deal with all of it."""
        ready = dict(self._poller.poll(self._sleep_ms()))
        is_drained = self._inputs not in ready or self._read_inputs()
        if self._replays in ready:
            self._read_replays()
        # Only after everything that has arrived was read can time tell what has not.
        if is_drained:
            self._carry_out(self._protocol.tick(self._clock_ns()))
        self._report_durable()
        self._beat()
        self._guard()

    def has_held(self) -> bool:
        """Say whether the server's attack on itself has failed, as it must."""
        return self._gate.has_held()

    @property
    def trouble(self) -> str:
        """What must not stay silent, but stops nothing; empty while all is well."""
        return self._gate.trouble

    def end_run(self) -> None:
        """End the run, because the server must end at once; nothing more is read."""
        self._carry_out(self._protocol.stop())

    def finish(self) -> ServeReport:
        """Take what has arrived, end the run, and account for everything."""
        self._read_inputs()
        self._carry_out(self._protocol.stop())
        return ServeReport(
            runs=self._runs,
            outcomes=dict(self._outcomes),
            rejected=dict(self._rejected),
            recording=self._recording,
            self_attacks=self._gate.attacks_passed,
        )

    @property
    def _recording(self) -> Literal["ON", "DEGRADED", "OFF"]:
        return "OFF" if self._recorder is None else self._recorder.state

    def _sleep_ms(self) -> int:
        sleep_ms = DURABLE_POLL_MS if self._pending else POLL_MS
        deadline_ns = self._protocol.deadline_ns()
        if deadline_ns is not None:
            left_ms = (deadline_ns - self._clock_ns()) // 1_000_000 + 1
            sleep_ms = min(sleep_ms, max(left_ms, 0))
        return sleep_ms

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
        try:
            # Before decoding: who has no key in force is not listened to.
            device = self._gate.device(letter)
            envelope = decode(letter.frames)
            received = self._protocol.receive(letter.peer, envelope, now_ns, device)
        except PeerError as error:
            self._refuse(letter, envelope, error, now_ns)
        else:
            self._carry_out(received)

    def _refuse(
        self, letter: Letter, envelope: Envelope | None, error: PeerError, now_ns: int
    ) -> None:
        if not self._gate.is_own(letter):
            self._rejected[error.reason] += 1
        heard = Header() if envelope is None else envelope.record
        if error.reason == "CONFLICT" and envelope is not None:
            self._log(f"refused/{heard.stream}", envelope)
        self._send(letter.peer, encode(_reject_from(heard, error, now_ns)))

    def _carry_out(self, todo: list[do.Action]) -> None:
        for action in todo:
            match action:
                case do.Log(envelope):
                    self._log_input(envelope)
                case do.Note(record):
                    self._log("out", encode(record))
                case do.Reply(peer, record):
                    self._send(peer, encode(self._with_count(record)))
                case do.Acknowledge(peer, run, stream, received):
                    self._acknowledge(peer, run, stream, received)
                case do.Refuse(peer, envelope, reason, detail):
                    self._refuse_content(peer, envelope.record, reason, detail)
                case do.StartRun(record):
                    self._runs += 1
                    self._worker.start(record)
                    self._outbox.start_run(record.run)
                case do.AddTrial():
                    self._publish(self._worker.add_trial(action))
                case do.AddVolume():
                    self._publish(self._worker.add_volume(action))
                case do.SkipVolume():
                    self._publish(self._worker.skip_volume(action))
                case do.EndRun():
                    self._publish(self._worker.end(action))

    def _with_count(self, record: Header) -> Header:
        return msgspec.structs.replace(
            record, sent_ns=self._clock_ns(), outcome_count=self._outbox.count
        )

    def _log(self, topic: str, envelope: Envelope) -> None:
        if self._recorder is not None:
            self._recorder.append(topic, envelope, self._clock_ns())

    def _log_input(self, envelope: Envelope) -> None:
        record = envelope.record
        if self._recorder is not None:
            self._pending.append((self._recorder.appended, record.run, record.stream))
        self._log(f"in/{record.stream}", envelope)

    def _refuse_content(
        self, peer: bytes, record: Header, reason: RejectReason, detail: str
    ) -> None:
        self._rejected[reason] += 1
        reject = Reject(
            run=record.run,
            stream=record.stream,
            sequence=record.sequence,
            sent_ns=self._clock_ns(),
            reason=reason,
            detail=detail,
            is_consumed=True,
        )
        self._send(peer, encode(reject))

    def _acknowledge(self, peer: bytes, run: str, stream: str, received: int) -> None:
        ack = Ack(
            run=run,
            stream=stream,
            sent_ns=self._clock_ns(),
            received=received,
            durable=self._durable[run, stream],
            recording=self._recording,
        )
        self._send(peer, encode(ack))

    def _publish(self, outgoing: list[Outgoing]) -> None:
        for outcome, payload in outgoing:
            if self._recording == "DEGRADED":
                outcome = msgspec.structs.replace(
                    outcome, degraded=(*outcome.degraded, "RECORDING_DEGRADED")
                )
            envelope = self._outbox.seal(outcome, payload, self._clock_ns())
            self._log("out", envelope)
            self._publisher.send(envelope.frames)
            self._outcomes[type(outcome).__name__] += 1

    def _send(self, peer: bytes, envelope: Envelope) -> None:
        # A peer that has gone, or does not read, misses its acknowledgement and will
        # ask by sending again; it must not hold up the others.
        with contextlib.suppress(zmq.Again, zmq.ZMQError):
            self._inputs.send_multipart([peer, *envelope.frames], zmq.NOBLOCK)

    def _read_replays(self) -> None:
        try:
            letter = self._gate.receive(self._replays)
        except zmq.Again:
            return
        try:
            device = self._gate.device(letter)
            request = decode(letter.frames).record
            check_authority(device, request)
        except PeerError as error:
            self._rejected[error.reason] += 1
            if error.reason != "UNAUTHORISED":
                return
            answers = [encode(_reject_from(Header(), error, self._clock_ns()))]
        else:
            if not isinstance(request, ReplayRequest):
                self._rejected["ILLEGAL_STATE"] += 1
                return
            answers = self._outbox.replay(request)
        with contextlib.suppress(zmq.Again, zmq.ZMQError):
            for envelope in answers:
                self._replays.send_multipart(
                    [letter.peer, *envelope.frames], zmq.NOBLOCK
                )

    def _report_durable(self) -> None:
        if self._recorder is None or not self._pending:
            return
        if self._recorder.state != "ON":
            self._pending.clear()
        durable, changed = self._recorder.durable, False
        while self._pending and self._pending[0][0] < durable:
            _, run, stream = self._pending.popleft()
            self._durable[run, stream] += 1
            changed = True
        if changed or self._recorder.state != "ON":
            run = self._protocol.run_id
            for peer, stream, received in self._protocol.streams():
                self._acknowledge(peer, run, stream, received)

    def _beat(self) -> None:
        now_ns = self._clock_ns()
        if now_ns - self._heartbeat_ns < HEARTBEAT_NS:
            return
        self._heartbeat_ns = now_ns
        beat = Heartbeat(
            run=self._outbox.run_id,
            stream="server",
            sent_ns=now_ns,
            outcome_count=self._outbox.count,
        )
        self._publisher.send(encode(beat).frames)

    def _guard(self) -> None:
        self._gate.check()
        allowed = self._gate.newly_allowed()
        if allowed is not None:
            self._protocol.expel(allowed)
            self._publisher.expel()


def _reject_from(heard: Header, error: PeerError, now_ns: int) -> Reject:
    return msgspec.convert(
        {
            "kind": "REJECT",
            "run": heard.run,
            "stream": heard.stream,
            "sequence": heard.sequence,
            "sent_ns": now_ns,
            "reason": error.reason,
            "detail": error.detail[:512],
        },
        Reject,
    )
