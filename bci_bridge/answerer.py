"""A process that answers, or stands by: both logs in, outcomes out.

Whoever holds the lock answers. The kernel takes the lock from a process that dies, and
gives it to the one that waits: no other sign of death is as sure or as fast. What the
dead one has written is in the log, so that its successor answers the rest.
"""

import contextlib
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bci_bridge.answering import Answering
from bci_bridge.bell import Bell
from bci_bridge.decoder import Decoder
from bci_bridge.messages import Heartbeat, RigNote, RunStart
from bci_bridge.outcomes import Outcome, RunEnded
from bci_bridge.places import INPUTS, OUTCOMES, Places
from bci_bridge.recorder import Recorder
from bci_bridge.recovery import (
    is_folded,
    is_spilt_since,
    next_order,
    outbox_segment,
    run_segment,
    runs_before,
)
from bci_bridge.segment import Logged
from bci_bridge.settings import POLL_MS, PUBLISHER, WORKERS, WorkerReport
from bci_bridge.tail import Tail
from bci_bridge.wire import Envelope, encode

DEGRADED: Final = "RECORDING_DEGRADED"
TURN_NS: Final = 50_000_000
"""A turn ends about here, so that whoever is far behind still shows life."""


class Turn:
    """Whose turn it is to answer: a lock that dies with its holder."""

    def __init__(self, path: Path, on_taken: Callable[[], None]) -> None:
        """Begin to wait for it.

        Args:
            path: The lock.
            on_taken: Called, in a thread of its own, once it is ours.
        """
        self.is_ours = False
        self._on_taken = on_taken
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # A thread that waits in the kernel: it cannot be told to stop, only the end of
        # the process or of the other holder ends it.
        self._thread = threading.Thread(target=self._wait, name="turn", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        with contextlib.suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            self.is_ours = True
            self._on_taken()

    def close(self) -> None:
        """Give it back."""
        if self.is_ours:
            self._thread.join()
        os.close(self._fd)


class Answerer:
    """One worker.

    Attributes:
        is_active: It answers; otherwise it stands by.
        has_caught_up: It answers, or has taken all that was settled when it came.
    """

    def __init__(
        self,
        name: str,
        places: Places,
        decoder: Decoder,
        clock_ns: Callable[[], int],
        stack: contextlib.ExitStack,
        rig: RigNote | None = None,
    ) -> None:
        """Catch up with both logs, and wait for the turn to answer.

        Args:
            name: One of `bci_bridge.settings.WORKERS`.
            places: Where the logs are.
            decoder: Loaded and warm.
            clock_ns: The server's monotonic clock.
            stack: Closes what is opened here.
            rig: What the decoder computes with, for the record.
        """
        self.is_active = self._is_busy = self.has_caught_up = False
        self._is_ending = False
        self._places, self._clock_ns, self._rig = places, clock_ns, rig
        self._stack = stack
        self._recorder: Recorder | None = None
        self._answering = Answering(decoder, clock_ns, rig)
        self._bell = Bell(places.moment, name)
        self._others = [other for other in (PUBLISHER, *WORKERS) if other != name]
        stack.callback(self._bell.close)
        self._outcomes = Tail(places.folders(OUTCOMES), segment=outbox_segment(places))
        stack.callback(self._outcomes.close)
        self._inputs = Tail(places.folders(INPUTS), segment=run_segment(places))
        stack.callback(self._inputs.close)
        self._waiting: deque[Logged] = deque()
        # As far as is known from the log of outcomes.
        self._run, self._next_order = "", 0
        # Where the run under way began in it; None between runs.
        self._began_in: int | None = None
        self._past = runs_before(places, self._learn())
        self._turn = Turn(places.active, lambda: self._bell.ring([name]))
        stack.callback(self._turn.close)

    @property
    def socket(self) -> int:
        """What to sleep on."""
        return self._bell.fileno()

    def turn(self) -> None:
        """Answer all that is new, or follow who does."""
        self._bell.hush()
        if not self.is_active:
            is_ours = self._turn.is_ours
            # Read after the lock is ours: these are the last words of the other one.
            self._follow(is_ours=is_ours)
            if is_ours and (not self._is_ending or self._owes()):
                self._take_over()
        if self.is_active:
            self._answer()
        if self.is_active or not self._is_busy:
            self.has_caught_up = True

    def sleep_ms(self) -> int:
        """Say for how long nothing needs to be done unless the bell rings."""
        return 0 if self._is_busy else POLL_MS

    def drain(self) -> None:
        """Answer all that has come, before the end.

        Who stands by and finds the other one gone takes over only where that one left
        something unsaid: a segment of its own would hold nothing.
        """
        self._is_ending = True
        self.turn()
        while self._is_busy:
            self.turn()

    def report(self) -> WorkerReport:
        """Account for what was written."""
        if self._recorder is None or self._places.recording is None:
            return WorkerReport()
        return WorkerReport(syncs=self._recorder.syncs)

    @property
    def unread(self) -> dict[str, int]:
        """By log, messages that were logged and cannot be read; without those of 0."""
        logs = {INPUTS: self._inputs, OUTCOMES: self._outcomes}
        return {name: tail.unread for name, tail in logs.items() if tail.unread}

    def _learn(self, *, is_ours: bool = False) -> frozenset[str]:
        """Read on in the log of outcomes to its end; name the runs that begin there.

        Args:
            is_ours: Nobody writes to it any more.
        """
        begun: set[str] = set()
        tail = self._outcomes
        for logged in tail.read_through() if is_ours else iter(tail.read, []):
            for one in logged:
                # Learned while there is time: when the other one dies, nothing that is
                # as long as the log may be read again.
                self._next_order = max(self._next_order, one.order + 1)
                match one.envelope.record:
                    case RunStart(run=run):
                        self._run, self._began_in = run, self._outcomes.segment
                        begun.add(run)
                    case RunEnded():
                        self._began_in = None
                self._answering.know(one)
        return frozenset(begun)

    def _follow(self, *, is_ours: bool) -> None:
        self._learn(is_ours=is_ours)
        self._is_busy = False
        until_ns = self._clock_ns() + TURN_NS
        while self._has_input() and self._answering.is_settled(self._waiting[0]):
            self._answering.take(self._waiting.popleft())
            if self._clock_ns() > until_ns:
                self._is_busy = True
                return

    def _owes(self) -> bool:
        """Take all that has come; say whether it leads to what is not on record."""
        while self._has_input():
            self._answering.take(self._waiting.popleft())
        return not self._answering.is_all_said

    def _has_input(self) -> bool:
        while not self._waiting and (logged := self._inputs.read()):
            found = [one for one in logged if is_folded(one)]
            if (state := self._inputs.state) is not None:
                # Of what is lost before it: a run may have begun there.
                found.insert(0, state)
                self._inputs.state = None
            self._waiting += [
                one for one in found if one.envelope.record.run not in self._past
            ]
        return bool(self._waiting)

    def _take_over(self) -> None:
        folder, spill = self._places.log(OUTCOMES), self._places.spill(OUTCOMES)
        self._recorder = Recorder(
            folder,
            spill=spill,
            first_order=self._next_order or next_order(self._places, OUTCOMES),
            preface=lambda: encode(Heartbeat(run=self._run, stream="server")),
            keeps_all=self._places.recording is not None,
            is_degraded=self._began_in is not None
            and is_spilt_since(self._places, OUTCOMES, self._began_in),
        )
        self._stack.callback(self._recorder.close)
        self.is_active = True
        if self._rig is not None:
            self._recorder.append("rig", encode(self._rig), self._clock_ns())
        # What was taken while standing by and is not on record, the other one owed.
        self._write(self._answering.emit(self._degraded()))

    def _answer(self) -> None:
        if self._recorder is not None:
            self._recorder.rotate(self._clock_ns())
        self._is_busy = False
        until_ns = self._clock_ns() + TURN_NS
        while self._has_input():
            self._answering.take(self._waiting.popleft())
            self._write(self._answering.emit(self._degraded()))
            if self._clock_ns() > until_ns:
                self._is_busy = True
                return
        # One at a time, so that an input which came meanwhile does not wait for two.
        update = self._answering.update(self._degraded())
        if update is not None:
            self._write([update])
            self._is_busy = True

    def _write(self, emitted: list[Envelope]) -> None:
        if self._recorder is None:
            return
        for envelope in emitted:
            record = envelope.record
            if isinstance(record, RunStart):
                self._run = record.run
            topic = "out" if isinstance(record, Outcome) else "run"
            # Unwritten it is not published: who takes over answers it.
            self._recorder.append_or_raise(topic, envelope, self._clock_ns())
        if emitted:
            self._bell.ring(self._others)

    def _degraded(self) -> tuple[str, ...]:
        is_whole = self._recorder is None or self._recorder.state == "ON"
        return () if is_whole and not self._inputs.is_spilt else (DEGRADED,)
