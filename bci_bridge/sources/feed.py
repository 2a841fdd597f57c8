"""From what a source yields to what a sender says: every decision on the way.

Pure: no socket, no file, no clock. `Feed.take` and `Feed.tick` are given an instant and
return what to do, in order; `bci_bridge.sources.driver` does it.

**Run.** The first volume of a series begins a run and fixes its geometry, even where it
is one of those to be discarded: whoever shows stimuli can connect from then on. A
volume of another geometry or TR is refused and ends the run as aborted; all that was
said before stays said. A new series of the same shape and TR means that the scanner was
started again: the run under way ends, and another begins under a name of its own. A
series unlike the one under way is left alone.

**Going on.** Whoever goes on with a killed process's run is told its series, where that
one's numbers began, and which series are over (`Past`). A folder's source knows which
files are not the runs', and gives those of the series under way first.

**Index.** The volume index is the source's number less the discarded ones. An index
that came before is ignored. One that comes ahead of its turn is held for a little while
(`Plan.reorder` volumes, half of a TR or of the budget, whichever is less), because an
answer that waits for a lost volume would come late itself; then the ones before it are
said to be missing. A volume that comes after that is sent all the same: the server
records it, by a decision of its own not to use it.

**End.** A run is complete when its announced number of acquisitions is said; it ends
aborted when its series does, or falls silent, before that.

**Instants.** `acquired_ns` is when the volume arrived here, on this host's monotonic
clock: the scanner's own time of day (`ScannedVolume.acquired_s`) is on another clock,
and no source knows by how much. What reconstruction and export take is therefore no
part of the compute latency that the server reports.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from bci_bridge.messages import RunStart
from bci_bridge.sources.notices import Notices
from bci_bridge.sources.order import Order
from bci_bridge.sources.past import Past
from bci_bridge.sources.plan import TR_TOLERANCE_S, Plan
from bci_bridge.sources.source import Arrival, Exhausted, Reading, Refused, SeriesEnded
from bci_bridge.sources.speech import (
    Action,
    Begin,
    End,
    SayMissing,
    SayVolume,
    Tell,
)
from bci_bridge.sources.volume import Geometry, ScannedVolume
from bci_bridge.sources.voxels import oddity
from runtime.arrays import Shaped

_SECOND: Final = 1_000_000_000
_REMEMBERED: Final = 1000
"""So many series that are over does a successor learn of."""
_SHORT: Final = 20
"""The progress of a run below this many volumes is not told."""


class _Arrived(NamedTuple):
    voxels: Shaped[np.ndarray, "x y z"]
    at_ns: int


@dataclass(slots=True)
class _Run:
    start: RunStart
    series: str
    """Empty where an earlier process did not leave it: that of the next volume."""
    order: Order[_Arrived]
    heard_ns: int
    said_before: int = 0
    """Acquisitions below were said by an earlier process."""
    first: int | None = None
    """What the source of its series counts as number 0."""
    beside: dict[str, None] = field(default_factory=dict)
    """Series that came while it was under way, and were left alone."""


class Feed:
    """The runs of one source.

    Attributes:
        is_exhausted: The source will give nothing more.
    """

    def __init__(self, plan: Plan, past: Past | None = None) -> None:
        """Wait for a first volume.

        Args:
            plan: What the operator announces.
            past: What an earlier process did.
        """
        past = past or Past()
        self.is_exhausted = False
        self._plan = plan
        self._run: _Run | None = None
        self._begun, self._complete = past.begun, past.complete
        self._over = dict.fromkeys(past.over)
        self._sent = dict.fromkeys(past.sent)
        # The series that began last, and the counts before it.
        self._before = "", past.begun, past.complete
        self._notices = Notices()
        self._first = past.first
        # Left alone while a run was under way that is complete.
        self._beside: dict[str, None] = {}

    @property
    def is_done(self) -> bool:
        """As many runs are complete as were wanted."""
        return self._complete >= self._plan.runs

    @property
    def is_running(self) -> bool:
        """A run is under way."""
        return self._run is not None

    @property
    def past(self) -> Past:
        """What a successor of this process must know."""
        return Past(
            run=self._plan.run,
            begun=self._begun,
            complete=self._complete,
            series=None if self._run is None else self._run.series,
            first=None if self._run is None else self._run.first,
            over=tuple(self._beside | self._over)[-_REMEMBERED:],
            sent=tuple(self._sent)[-_REMEMBERED:],
        )

    def resume(self, start: RunStart, series: str, said: int, now_ns: int) -> None:
        """Go on with a run that an earlier process began.

        Args:
            start: As it was announced.
            series: Whose volumes they are; empty if nobody knows.
            said: Acquisitions of which it spoke, the given up ones included.
            now_ns: The present.
        """
        self._run = self._new_run(start, series, said, now_ns)
        self._run.first = self._first

    def take(self, arrival: Arrival, now_ns: int) -> list[Action]:
        """Decide on what a source gave.

        Args:
            arrival: A volume, the end of a series, what was refused, or that there is
                more to be read.
            now_ns: When it came, on this host's monotonic clock.
        """
        match arrival:
            case ScannedVolume():
                return self._volume(arrival, now_ns)
            case Refused(what=what, why=why):
                return self._notice("refused", f"{what}: {why}", why)
            case SeriesEnded(series=series, is_aborted=is_aborted):
                if self._run is None or series != self._run.series:
                    return []
                why = "broken off at the scanner" if is_aborted else "its series ended"
                return self._end(why, now_ns)
            case Reading():
                if self._run is not None:
                    # A run's own files may lie behind thousands that give nothing.
                    self._run.heard_ns = now_ns
                return []
            case Exhausted():
                self.is_exhausted = True
                return self._end("the recording ended", now_ns)

    def tick(self, now_ns: int) -> list[Action]:
        """Decide on what has not come."""
        run = self._run
        if run is None:
            return []
        actions = self._advance(now_ns)
        quiet_s = self._plan.patience_s(run.start)
        if self._run is run and now_ns - run.heard_ns > quiet_s * _SECOND:
            actions += self._end(f"nothing came for {quiet_s:g} s", now_ns)
        return actions

    def stop(self, why: str, now_ns: int) -> list[Action]:
        """End the run under way."""
        return self._end(why, now_ns)

    def refuse(self, why: str) -> list[Action]:
        """Give up a run that was to begin, because the server does not take it."""
        series, self._begun, self._complete = self._before
        self._over[series] = None
        self._run = None
        return [Tell(f"this series is left out: {why}")]

    def _volume(self, volume: ScannedVolume, now_ns: int) -> list[Action]:
        run = self._run
        series = volume.series or ("" if run is None else run.series)
        if series in self._over:
            return self._notice(
                "of a series that is over",
                "volumes of a series that is over came; they are ignored",
            )
        actions: list[Action] = []
        is_mine = run is not None and run.series in ("", series)
        if run is not None and is_mine:
            if run.series != series:
                run.series, run.first = series, volume.first
        elif run is not None and not self._is_alike(run, volume.geometry):
            if len(run.beside) < _REMEMBERED:
                run.beside[series] = None
            return self._notice(
                "of another series",
                "another series came, of another shape or TR; it is left alone",
            )
        else:
            actions += self._end("another series began", now_ns)
            if self.is_done:
                return actions
            actions += self._begin(volume, now_ns)
            run = self._run
        if run is None:
            return actions
        run.heard_ns = now_ns
        differs = self._plan.difference(run.start, volume.geometry)
        if differs:
            return actions + self._end(f"volume {volume.number}, {differs}", now_ns)
        return actions + self._place(run, volume, now_ns)

    def _begin(self, volume: ScannedVolume, now_ns: int) -> list[Action]:
        unfit = self._plan.unfit(volume.geometry)
        if unfit:
            self._over[volume.series] = None
            return [Tell(f"this series is left out: {unfit}")]
        self._before = volume.series, self._begun, self._complete
        self._begun += 1
        start = self._plan.start(self._plan.name(self._begun), volume.geometry)
        self._run = self._new_run(start, volume.series, 0, now_ns)
        self._run.first = volume.first
        sides = " x ".join(map(str, start.shape))
        line = (
            f"run {start.run}: begins, {sides} voxels, TR {start.tr_s:g} s, "
            f"{start.expected_volumes} volumes"
        )
        return [Begin(start), Tell(line)]

    def _place(self, run: _Run, volume: ScannedVolume, now_ns: int) -> list[Action]:
        if volume.number < 0:
            return self._notice(
                "numbered below the first",
                f"volume {volume.number}: expected 0 or more; it is ignored",
            )
        index = volume.number - self._plan.discard
        if index < run.said_before:
            return []  # to be discarded, or said by an earlier process
        if index >= run.start.expected_volumes:
            return self._notice(
                "beyond the announced number",
                f"volume {index}: expected {run.start.expected_volumes} volumes as "
                "announced, found more; the rest is ignored",
            )
        actions: list[Action] = []
        match run.order.push(index, _Arrived(volume.voxels, now_ns), now_ns):
            case "DUPLICATE":
                return self._notice(
                    "twice", f"volume {index} came again; the first one counts"
                )
            case "LATE":
                actions.append(SayVolume(index, volume.voxels, now_ns))
                actions += self._notice(
                    "late", f"volume {index} came after it was given up"
                )
        found = oddity(volume.voxels)
        if found:
            actions += self._notice("odd", f"volume {index}: {found}")
        return actions + self._advance(now_ns)

    def _advance(self, now_ns: int, *, is_over: bool = False) -> list[Action]:
        """Say whatever has its turn, and end the run where that was all of it."""
        run = self._run
        if run is None:
            return []
        actions: list[Action] = []
        for index, arrived in run.order.due(now_ns, is_over=is_over):
            if arrived is not None:
                actions.append(SayVolume(index, arrived.voxels, arrived.at_ns))
                actions += self._progress(run, index + 1)
                continue
            actions.append(SayMissing(index, "did not come from the scanner"))
            actions += self._notice("missing", f"volume {index} is missing")
        is_complete = run.order.next_index >= run.start.expected_volumes
        return actions + self._end("", now_ns) if is_complete else actions

    def _progress(self, run: _Run, said: int) -> list[Action]:
        total = run.start.expected_volumes
        if (
            total < _SHORT
            or said == total
            or said * 10 // total == (said - 1) * 10 // total
        ):
            return []
        return [Tell(f"run {run.start.run}: {said} of {total} volumes")]

    def _end(self, why: str, now_ns: int) -> list[Action]:
        run = self._run
        if run is None:
            return []
        total = run.start.expected_volumes
        if run.order.next_index < total:
            actions = self._advance(now_ns, is_over=True)
            if self._run is None:
                return actions
        else:
            actions = []
        count = run.order.next_index
        is_complete = count >= total
        self._run = None
        self._over[run.series] = None
        self._complete += is_complete
        if is_complete:
            self._sent[run.series] = None
            self._beside |= run.beside
        how = "complete" if is_complete else "aborted"
        line = f"run {run.start.run}: {how}, {count} of {total} volumes"
        noted = self._notices.summary()
        line += f" ({noted})" if noted else ""
        line += f": {why}" if why else ""
        return [*actions, End(count, not is_complete), Tell(line)]

    def _new_run(self, start: RunStart, series: str, said: int, now_ns: int) -> _Run:
        wait_ns = round(min(start.tr_s, start.budget_s) / 2 * _SECOND)
        order = Order[_Arrived](said, self._plan.reorder, wait_ns)
        return _Run(start, series, order, now_ns, said)

    def _is_alike(self, run: _Run, geometry: Geometry) -> bool:
        tr_s = self._plan.tr_s_of(geometry)
        return (
            geometry.shape == run.start.shape
            and abs(tr_s - run.start.tr_s) <= TR_TOLERANCE_S
        )

    def _notice(self, kind: str, line: str, about: str = "") -> list[Action]:
        said = self._notices.count(kind, line, about)
        return [Tell(said)] if said else []
