"""The process that gives outcomes out: announced as they come, and handed out again.

It follows the log of outcomes, so that nothing is published that is not on record, and
so that killed, it goes on where the log does. What it announces is a convenience; what
it hands out on request is the truth.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import zmq

from bci_bridge.announcer import Announcer
from bci_bridge.authority import check_authority
from bci_bridge.bell import Bell
from bci_bridge.endpoints import bound
from bci_bridge.gate import Gate, Letter
from bci_bridge.header import Header
from bci_bridge.ingress import READ_AT_ONCE
from bci_bridge.messages import Heartbeat, ReplayRequest, RunStart
from bci_bridge.outbox import Outbox
from bci_bridge.outcomes import Outcome
from bci_bridge.places import OUTCOMES, Places
from bci_bridge.recovery import outbox_segment, run_going_on
from bci_bridge.rejects import FLOOD, reject_from
from bci_bridge.segment import Logged
from bci_bridge.settings import (
    POLL_MS,
    PUBLISHER,
    Outlet,
    PublisherReport,
    ServeConfig,
)
from bci_bridge.tail import Tail
from bci_bridge.tally import Counts, Tally
from bci_bridge.tokens import Tokens
from bci_bridge.wire import Envelope, decode, encode
from bci_bridge.zap import PUBLISH, REPLAY
from runtime.errors import PeerError

HEARTBEAT_NS = 250_000_000
"""Subscribers hear at least this often how many outcomes there are."""


class Publisher:
    """Two sockets: one that announces, one that is asked.

    Attributes:
        outlet: Where they really listen.
    """

    def __init__(
        self,
        config: ServeConfig,
        places: Places,
        clock_ns: Callable[[], int],
        stack: contextlib.ExitStack,
        *,
        is_restart: bool = False,
        counted: Counts | None = None,
    ) -> None:
        """Learn what there is, then listen.

        Args:
            config: Where to listen.
            places: Where the log is.
            clock_ns: The server's monotonic clock.
            stack: Closes what is opened here.
            is_restart: The server's attack on itself has failed before.
            counted: What the process counted that this one replaces.

        Raises:
            UsageError: An address is not allowed.
            BackendError: An address cannot be bound.
            ArtifactError: A key file is missing, damaged or open to others.
        """
        self._clock_ns, segment = clock_ns, outbox_segment(places)
        self._outbox = Outbox(run_going_on(places, segment))
        self._bell = Bell(places.moment, PUBLISHER)
        stack.callback(self._bell.close)
        self._tail = Tail(places.folders(OUTCOMES), segment=segment)
        stack.callback(self._tail.close)
        self._tokens = Tokens(config.rate_per_s, config.burst)
        self._tally = Tally(counted)
        self._rejected: Counter[str] = Counter()
        self._handed_out = 0
        self._heartbeat_ns = 0
        # Before the first publisher of a server nobody writes.
        is_first = counted is None
        self._learn(self._tail.read_through() if is_first else None, announce=False)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        stack.callback(context.term)
        self._gate = Gate(None if config.keys is None else Path(config.keys), context)
        stack.callback(self._gate.close)
        self._announcer = Announcer(context, config.publish, self._gate.lock(PUBLISH))
        stack.callback(self._announcer.close)
        self._replays, replay = bound(
            context,
            zmq.ROUTER,
            config.replay,
            high_water=1024,
            lock=self._gate.lock(REPLAY),
        )
        stack.callback(self._replays.close)
        self.outlet = Outlet(publish=self._announcer.endpoint, replay=replay)
        stack.callback(self._gate.stop_attack)
        self._gate.attack(
            [
                ("publisher", self.outlet.publish, zmq.SUB),
                ("replay", self.outlet.replay, zmq.DEALER),
            ],
            is_proven=is_restart,
        )

    @property
    def sockets(self) -> "tuple[zmq.Socket[bytes], int]":
        """What to sleep on."""
        return self._replays, self._bell.fileno()

    def turn(self) -> None:
        """Announce what is new, and answer who asks."""
        self._bell.hush()
        self._learn()
        self._read_requests()
        self._beat()
        self._gate.check()
        if self._gate.newly_allowed() is not None:
            self._announcer.expel()

    def sleep_ms(self) -> int:
        """Say for how long nothing needs to be done unless something arrives."""
        return POLL_MS

    def has_held(self) -> bool:
        """Say whether the attack on itself has failed, as it must."""
        return self._gate.has_held()

    @property
    def trouble(self) -> str:
        """What must not stay silent, but stops nothing; empty while all is well."""
        return self._gate.trouble

    @property
    def unread(self) -> dict[str, int]:
        """By log, messages that were logged and cannot be read; without those of 0."""
        return {OUTCOMES: self._tail.unread} if self._tail.unread else {}

    def report(self) -> PublisherReport:
        """Account for everything."""
        return PublisherReport(
            counts=self._tally.counts,
            run=self._outbox.run_id,
            answered=self._outbox.answered,
            has_end=self._outbox.has_ended,
            handed_out=self._handed_out,
            rejected=dict(self._rejected),
            self_attacks=self._gate.attacks_passed,
            accepted=self._gate.accepted,
            refused=self._gate.refused,
        )

    def _learn(
        self, read: Iterator[list[Logged]] | None = None, *, announce: bool = True
    ) -> None:
        """Read on in the log to its end."""
        for logged in iter(self._tail.read, []) if read is None else read:
            for one in logged:
                record = one.envelope.record
                if isinstance(record, RunStart):
                    self._outbox.start_run(record.run)
                elif not isinstance(record, Outcome):
                    continue
                elif self._outbox.keep(one.envelope):
                    if not announce:
                        self._tally.know(record)
                        continue
                    self._tally.add(record)
                    self._announcer.send(one.envelope.frames)

    def _read_requests(self) -> None:
        # So many at once, that a flood of questions does not silence the announcements.
        for _ in range(READ_AT_ONCE):
            try:
                letter = self._gate.receive(self._replays)
            except zmq.Again:
                return
            with contextlib.suppress(zmq.Again, zmq.ZMQError):
                for envelope in self._answers(letter):
                    self._replays.send_multipart(
                        [letter.peer, *envelope.frames], zmq.NOBLOCK
                    )

    def _answers(self, letter: Letter) -> list[Envelope]:
        now_ns = self._clock_ns()
        verdict = self._tokens.take(letter.user or letter.peer, now_ns)
        if verdict != "TAKE":
            self._rejected["RATE"] += 1
            is_told = verdict == "REFUSE"
            return [encode(reject_from(Header(), FLOOD, now_ns))] if is_told else []
        try:
            device = self._gate.device(letter)
            request = decode(letter.frames).record
            check_authority(device, request)
        except PeerError as error:
            self._rejected[error.reason] += 1
            if error.reason != "UNAUTHORISED":
                return []
            return [encode(reject_from(Header(), error, now_ns))]
        if not isinstance(request, ReplayRequest):
            self._rejected["ILLEGAL_STATE"] += 1
            return []
        answers = self._outbox.replay(request)
        self._handed_out += len(answers) - 1  # the last one says that it is all
        return answers

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
        self._announcer.send(encode(beat).frames)
