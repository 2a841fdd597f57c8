"""One run's acquisitions: which index is due, which is lost, which trial is known.

Pure: no socket, no clock. The theory is told in `bci_bridge.protocol`.
"""

from typing import Final

import msgspec

from bci_bridge.actions import (
    Action,
    AddTrial,
    AddVolume,
    EndRun,
    Note,
    Refuse,
    SkipVolume,
)
from bci_bridge.clock_offset import is_one_clock
from bci_bridge.header import RejectReason
from bci_bridge.messages import (
    DecisionNote,
    Event,
    Missing,
    RunEnd,
    RunStart,
    Volume,
)
from bci_bridge.wire import Envelope
from runtime.errors import PeerError

MAX_INDEX_JUMP: Final = 64
"""An index further ahead of both this and the expected length is nonsense."""

DEADLINE: Final = "DEADLINE"
"""Why an acquisition is missing that time has given up."""

_FUTURE_NS: Final = 1_000_000_000
"""An instant further ahead of the server's clock is another clock's."""

_OVERDUE_NS: Final = 10_000_000_000
"""So far beyond its budget may a volume be while nothing confirms its instant, if it
says that it was acquired before the run began. That much time is given up at once if
its clock has jumped back."""

_EARLY_TRS: Final = 1.5
"""No acquisition ends earlier than this before the schedule lets expect: one TR because
a recording may be played faster, half of one because volumes that arrived out of order
are sent in order, with the instants at which they arrived."""


class AcquisitionsState(msgspec.Struct, frozen=True, kw_only=True):
    """All that `Acquisitions` knows besides the run's start."""

    next_index: int
    anchor: tuple[int, int] | None
    began_ns: int | None = None
    schedule_ns: int | None = None
    came: int
    missed: list[int]
    trials: list[str]


class Acquisitions:
    """The outcomes that a run owes and has given.

    Attributes:
        next_index: First acquisition without an outcome.
    """

    def __init__(self, start: RunStart, began_ns: int | None = None) -> None:
        """Owe everything.

        Args:
            start: What the run has.
            began_ns: When that was read; None where it is not known.
        """
        self.next_index = 0
        self._start, self._began_ns = start, began_ns
        # Index and end of acquisition of the newest volume, on the server's clock.
        self._anchor: tuple[int, int] | None = None
        # When the first one ended at the earliest, by all instants that are believed.
        self._schedule_ns: int | None = None
        # One more than the highest index of which the source has spoken.
        self._came = 0
        self._missed: set[int] = set()
        self._trials: set[str] = set()

    @classmethod
    def from_state(cls, start: RunStart, known: AcquisitionsState) -> "Acquisitions":
        """Go on from what `state` gave."""
        made = cls(start, known.began_ns)
        made.next_index, made._anchor = known.next_index, known.anchor
        made._schedule_ns, made._came = known.schedule_ns, known.came
        if known.anchor is not None and known.schedule_ns is None:
            # As an earlier version knew it.
            made._schedule_ns = made._first_ns(*known.anchor)
        made._missed, made._trials = set(known.missed), set(known.trials)
        return made

    def state(self) -> AcquisitionsState:
        """Give all that is known, as plain values."""
        return AcquisitionsState(
            next_index=self.next_index,
            anchor=self._anchor,
            began_ns=self._began_ns,
            schedule_ns=self._schedule_ns,
            came=self._came,
            missed=sorted(self._missed),
            trials=sorted(self._trials),
        )

    def check_end(self, end: RunEnd) -> None:
        """Refuse a count that contradicts what came.

        A run that is broken off may end below an index that time declared missing:
        that outcome is out and stays.

        Raises:
            PeerError: If fewer, or absurdly more, acquisitions are claimed.
        """
        if not self._came <= end.count <= self._limit:
            raise PeerError(
                "BAD_COUNT",
                f"expected {self._came} to {self._limit}, found {end.count}",
            )

    def take(self, peer: bytes, envelope: Envelope, now_ns: int) -> list[Action]:
        """Use the content of an accepted message, or say why it cannot be used."""
        match envelope.record:
            case Volume() as volume:
                return self._volume(peer, envelope, volume, now_ns)
            case Missing(volume_index=index):
                refusal = self._unusable_index(index)
                if refusal is not None:
                    return [Refuse(peer, envelope, *refusal)]
                actions = self._miss_up_to(index)
                self._came = index + 1
                return [*actions, self._miss(index, "SOURCE")]
            case Event(trial_id=trial_id) as event:
                if trial_id in self._trials:
                    detail = f"trial {trial_id!r} was announced before"
                    return [Refuse(peer, envelope, "DUPLICATE_TRIAL", detail)]
                self._trials.add(trial_id)
                return [AddTrial(event)]
            case RunEnd(count=count) as end:
                return [*self._miss_up_to(count), EndRun(end)]
            case _:
                return []

    def due_ns(self) -> int | None:
        """Say when the next acquisition will be missing; None if never by time."""
        if self.next_index >= self._start.expected_volumes:
            return None
        return self._deadline_ns(self.next_index)

    def tick(self, now_ns: int) -> list[Action]:
        """Declare missing what the live deadline has passed over."""
        actions: list[Action] = []
        due_ns = self.due_ns()
        while due_ns is not None and now_ns > due_ns:
            actions += self.declare_missing()
            due_ns = self.due_ns()
        return actions

    def declare_missing(self) -> list[Action]:
        """Give up the next acquisition because of the time, and put that on record."""
        note = DecisionNote(
            run=self._start.run,
            stream="server",
            what="MISSING_BY_DEADLINE",
            volume_index=self.next_index,
        )
        return [Note(note), self._miss(self.next_index, DEADLINE)]

    @property
    def _limit(self) -> int:
        return max(self._start.expected_volumes, self.next_index + MAX_INDEX_JUMP)

    def _unusable_index(self, index: int) -> tuple[RejectReason, str] | None:
        if index < self.next_index:
            return "DUPLICATE_VOLUME", f"volume {index} has its outcome"
        # The limit is never below the expected length.
        if index >= self._start.expected_volumes and index >= self._limit:
            return "INDEX_JUMP", f"expected below {self._limit}, found {index}"
        return None

    def _volume(
        self, peer: bytes, envelope: Envelope, volume: Volume, now_ns: int
    ) -> list[Action]:
        index = volume.volume_index
        if index in self._missed:
            if index >= self._came:
                # Else a scanner that once paused would be late for the rest of its run.
                self._move_anchor(volume, now_ns)
            self._came = max(self._came, index + 1)
            self._missed.discard(index)
            return [
                Note(
                    DecisionNote(
                        run=volume.run,
                        stream="server",
                        what="LATE_VOLUME_NOT_USED",
                        volume_index=index,
                    )
                )
            ]
        refusal = self._unusable_index(index)
        if refusal is not None:
            return [Refuse(peer, envelope, *refusal)]
        actions = [] if index == self.next_index else self._miss_up_to(index)
        degraded = self._move_anchor(volume, now_ns)
        self.next_index = self._came = index + 1
        deadline_ns = self._deadline_ns(index)
        reason = None
        if volume.shape != self._start.shape:
            reason = "SHAPE_MISMATCH"
        elif index >= self._start.expected_volumes:
            reason = "BEYOND_EXPECTED"
        if reason is None:
            add = AddVolume(volume, envelope, now_ns, deadline_ns, degraded)
            return [*actions, add]
        skip = SkipVolume(
            index,
            "INVALID",
            reason,
            deadline_ns,
            volume,
            envelope.crc32,
            now_ns,
            degraded,
        )
        return [*actions, skip]

    def _move_anchor(self, volume: Volume, now_ns: int) -> tuple[str, ...]:
        """Expect what follows after the newest volume; return what is odd about it."""
        index, acquired_ns = volume.volume_index, _on_server_clock(volume)
        earliest_ns = self._earliest_ns(index, now_ns)
        is_plausible = earliest_ns <= acquired_ns <= now_ns + _FUTURE_NS
        if self._start.pace == "live" and not is_plausible:
            self._anchor = (index, now_ns)
            return ("TIME_ANOMALY",)
        self._anchor = (index, acquired_ns)
        first_ns, known_ns = self._first_ns(index, acquired_ns), self._schedule_ns
        self._schedule_ns = first_ns if known_ns is None else min(first_ns, known_ns)
        return ()

    def _first_ns(self, index: int, acquired_ns: int) -> int:
        """Say when the first acquisition ended, by the instant of another."""
        return acquired_ns - round(index * self._start.tr_s * 1e9)

    def _earliest_ns(self, index: int, now_ns: int) -> int:
        """Say before when the instant of this acquisition cannot be.

        However old may be what fits: a sender that was cut off says when its volumes
        were acquired. What is within its budget costs nothing if it is wrong.
        """
        in_time_ns = now_ns - round(self._start.budget_s * 1e9)
        if self._schedule_ns is None:
            began_ns = now_ns if self._began_ns is None else self._began_ns
            return min(in_time_ns - _OVERDUE_NS, began_ns)
        due_ns = self._schedule_ns + round(
            (index - _EARLY_TRS) * self._start.tr_s * 1e9
        )
        return min(in_time_ns, due_ns)

    def _miss_up_to(self, index: int) -> list[Action]:
        return [
            self._miss(missed, "SKIPPED") for missed in range(self.next_index, index)
        ]

    def _miss(self, index: int, reason: str) -> Action:
        self.next_index = index + 1
        self._missed.add(index)
        return SkipVolume(index, "MISSING", reason, self._deadline_ns(index))

    def _deadline_ns(self, index: int) -> int | None:
        if self._start.pace != "live" or self._anchor is None:
            return None
        known, acquired_ns = self._anchor
        ahead_s = (index - known) * self._start.tr_s + self._start.budget_s
        return acquired_ns + round(ahead_s * 1e9)


def _on_server_clock(volume: Volume) -> int:
    """Say when a volume was acquired, on the server's clock."""
    offset_ns, uncertainty_ns = volume.clock_offset_ns, volume.clock_uncertainty_ns
    if offset_ns is None or is_one_clock(offset_ns, uncertainty_ns):
        return volume.acquired_ns
    return volume.acquired_ns - offset_ns
