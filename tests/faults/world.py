"""A server, its processes, its sender and their network, on a clock that is not real.

The very code that decides in the real server (`Protocol`, `Ledger`, `Answering`,
`Outbox`) and in the real sender (`Delivery`) runs here; sockets, files and processes
are played. One thread, one random generator: a seed is a history.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Sized
from typing import Any

from bci_bridge import actions as do
from bci_bridge.admission import Admission
from bci_bridge.answering import Answering
from bci_bridge.decoder import Decoder
from bci_bridge.header import Header
from bci_bridge.ledger import Ledger
from bci_bridge.messages import Ack, Heartbeat, RunStart
from bci_bridge.outbox import KEPT_RUNS, Outbox
from bci_bridge.outcomes import Outcome
from bci_bridge.protocol import Protocol
from bci_bridge.rejects import reject_from
from bci_bridge.segment import Logged
from bci_bridge.wire import Envelope, decode, encode
from runtime.errors import PeerError

MS = 1_000_000
SEGMENT = 64
"""Messages of a segment, at whose beginning the writer puts what it knows."""

SYNC_NS = 200 * MS


class World:
    """Time, and what happens in it."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.now_ns = 10**12
        # The count keeps the order of what happens at the same instant.
        self._agenda: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, delay_ns: int, act: Callable[..., None], *given: Any) -> None:
        """Let something happen later."""
        self.at(self.now_ns + delay_ns, act, *given)

    def at(self, instant_ns: int, act: Callable[..., None], *given: Any) -> None:
        """Let something happen at an instant that is not over."""
        self._count += 1
        heapq.heappush(self._agenda, (instant_ns, self._count, act, given))

    def run_until(self, until_ns: int, inbox: Sized = ()) -> None:
        """Let time pass, up to an instant or until something is in an inbox."""
        agenda = self._agenda
        while not inbox:
            if not agenda or agenda[0][0] > until_ns:
                if until_ns > self.now_ns:
                    self.now_ns = until_ns
                return
            self.now_ns, _, act, given = heapq.heappop(agenda)
            act(*given)

    def clock(self) -> int:
        """Show the time."""
        return self.now_ns


class Server:
    """Two logs that survive everything, and the processes around them."""

    def __init__(self, world: World, decoder: Callable[[], Decoder]) -> None:
        self.world, self._decoder = world, decoder
        self.inputs: list[Logged] = []
        self.outcomes: list[Logged] = []
        self._states: list[tuple[int, Envelope]] = []
        self._next_segment = 0
        # Where each run begins among the outcomes.
        self._begun: dict[str, int] = {}
        # What is on disk: so many messages, and so far for each run and stream.
        self._counted, self._is_syncing = 0, False
        self._on_disk: dict[tuple[str, str], int] = {}
        # How an answer goes its way to a peer.
        self.ways: dict[bytes, Callable[[Header], None]] = {}
        self.deaths: dict[str, int] = {}
        self.protocol: Protocol | None = None
        self.outbox: Outbox | None = None
        self.active, self.spare = self._worker(), self._worker()
        self._spare_at = 0
        self._alarm_ns: int | None = None
        self._admission = Admission.of(decoder())
        self.start_ingress()
        self.start_publisher()

    def start_ingress(self) -> None:
        """Know again what is on record, as `bci_bridge.recovery` does."""
        at, ledger = 0, Ledger()
        if self._states:
            at, note = self._states[-1]
            ledger = Ledger.from_note(note)
        for logged in self.inputs[at:]:
            ledger.fold(logged.envelope, logged.log_ns)
        self.protocol = Protocol(
            admit=self._admission.check, ledger=ledger, now_ns=self.world.now_ns
        )
        self._set_alarm()

    def start_publisher(self) -> None:
        """Fill the outbox from the log, as far back as it keeps runs."""
        self.outbox = Outbox()
        begin = min([*self._begun.values()][-KEPT_RUNS:], default=0)
        for logged in self.outcomes[begin:]:
            self._publish(logged)

    def kill(self, name: str) -> None:
        """Let a process die, and another take its place a little later."""
        self.deaths[name] = self.deaths.get(name, 0) + 1
        dice = self.world.dice
        if name == "ingress" and self.protocol is not None:
            self.protocol = None
            self.world.after(dice.randrange(5, 400) * MS, self.start_ingress)
        elif name == "publisher":
            self.outbox = None
            self.world.after(dice.randrange(5, 400) * MS, self.start_publisher)
        elif name == "standby":
            self._begin_spare()
        elif name == "worker":
            self._hand_over()

    def receive(self, peer: bytes, frames: tuple[bytes, bytes]) -> None:
        """Take what has come through the socket, if somebody listens."""
        protocol = self.protocol
        if protocol is None:
            return
        if len(self.inputs) >= self._next_segment:
            self._next_segment = len(self.inputs) + SEGMENT
            self._states.append((len(self.inputs), protocol.ledger.note()))
        now_ns = self.world.now_ns
        envelope = decode(frames)
        try:
            todo = protocol.receive(peer, envelope, now_ns)
        except PeerError as error:
            self._send(peer, reject_from(envelope.record, error, now_ns))
            return
        self._carry_out(todo)
        match envelope.record:
            case Heartbeat():
                pass  # moves no deadline
            case _:
                self._set_alarm()

    def _carry_out(self, todo: list[do.Action]) -> None:
        for action in todo:
            match action:
                case do.Acknowledge():
                    self._acknowledge(action)
                case do.Log(envelope):
                    self._log(f"in/{envelope.record.stream}", envelope)
                case do.Note(record):
                    self._log("note", encode(record))
                case do.Reply(peer, record):
                    self._send(peer, record)

    def _acknowledge(self, action: do.Acknowledge) -> None:
        run, stream, received = action.run, action.stream, action.received
        on_disk = self._on_disk.get((run, stream), 0)
        ack = Ack(
            run=run,
            stream=stream,
            sent_ns=self.world.now_ns,
            received=received,
            echo_ns=action.echo_ns,
            durable=on_disk if on_disk < received else received,
        )
        self._send(action.peer, ack)

    def _log(self, topic: str, envelope: Envelope) -> None:
        logged = Logged(len(self.inputs), self.world.now_ns, topic, envelope)
        self.inputs.append(logged)
        self.active.behind.append(logged)
        if self.spare is not None:
            self.spare.behind.append(logged)
        if not self._is_syncing:
            self._is_syncing = True
            self.world.after(SYNC_NS, self._sync)
        self.active.answer(self)
        if self.spare is not None:
            self.spare.follow()

    def write(self, envelope: Envelope) -> None:
        """Put an outcome on record, and give it out if somebody does."""
        logged = Logged(len(self.outcomes), self.world.now_ns, "out", envelope)
        match envelope.record:
            case RunStart(run=run):
                self._begun.setdefault(run, logged.order)
        self.outcomes.append(logged)
        if self.spare is not None:
            self.spare.answering.know(logged)
        self._publish(logged)

    def _publish(self, logged: Logged) -> None:
        if self.outbox is None:
            return
        match logged.envelope.record:
            case Outcome():
                self.outbox.keep(logged.envelope)
            case RunStart(run=run):
                self.outbox.start_run(run)

    def _worker(self) -> "Worker":
        return Worker(Answering(self._decoder(), self.world.clock))

    def _begin_spare(self) -> None:
        self.spare = None
        self._spare_at += 1
        mine = self._spare_at

        def loaded() -> None:
            if mine == self._spare_at:
                self.spare = self._caught_up()

        self.world.after(self.world.dice.randrange(500, 5000) * MS, loaded)

    def _caught_up(self) -> "Worker":
        worker = self._worker()
        inputs, outcomes = self._last_run(self.inputs), self._last_run(self.outcomes)
        for logged in self.outcomes[outcomes:]:
            worker.answering.know(logged)
        worker.behind.extend(self.inputs[inputs:])
        worker.follow()
        return worker

    @staticmethod
    def _last_run(log: list[Logged]) -> int:
        for at in range(len(log) - 1, -1, -1):
            if isinstance(log[at].envelope.record, RunStart):
                return at
        return 0

    def _hand_over(self) -> None:
        if self.spare is None:
            # No spare: who begins anew answers what there is when it is loaded.
            self.active = self._caught_up()
        else:
            self.active = self.spare
        self._begin_spare()
        self.active.take_over(self)

    def _send(self, peer: bytes, record: Header) -> None:
        way = self.ways.get(peer)
        if way is not None:
            way(record)

    def _sync(self) -> None:
        self._is_syncing = False
        for logged in self.inputs[self._counted :]:
            if logged.topic.startswith("in/"):
                record = logged.envelope.record
                self._on_disk[record.run, record.stream] = record.sequence + 1
        self._counted = len(self.inputs)
        if self.protocol is not None:
            for standing in self.protocol.standings():
                self._acknowledge(standing)

    def _set_alarm(self) -> None:
        due_ns = None if self.protocol is None else self.protocol.deadline_ns()
        if due_ns is None or due_ns == self._alarm_ns:
            return
        self._alarm_ns = due_ns
        self.world.at(max(due_ns, self.world.now_ns) + 1, self._ring, due_ns)

    def _ring(self, due_ns: int) -> None:
        if due_ns != self._alarm_ns:
            return  # another instant counts by now
        self._alarm_ns = None
        if self.protocol is not None:
            self._carry_out(self.protocol.tick(self.world.now_ns))
            self._set_alarm()


class Worker:
    """One worker: what it knows, and what it has yet to take."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.behind: deque[Logged] = deque()

    def follow(self) -> None:
        """Take what is settled, as a standby does."""
        while self.behind and self.answering.is_settled(self.behind[0]):
            self.answering.take(self.behind.popleft())

    def answer(self, server: Server) -> None:
        """Answer all, as the active one does."""
        while self.behind:
            self.answering.take(self.behind.popleft())
            for envelope in self.answering.emit():
                server.write(envelope)
        while (update := self.answering.update()) is not None:
            server.write(update)

    def take_over(self, server: Server) -> None:
        """Say what the dead one owed, then go on."""
        self.follow()
        for envelope in self.answering.emit():
            server.write(envelope)
        self.answer(server)
