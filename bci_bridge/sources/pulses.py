"""The scanner's pulses as acquisitions: which one is volume 0, and of which run.

A scanner's pulses come without a name or a number. They are counted from the first one
after a pause; the first `discard` acquisitions are none of the run's. A run is known to
the server only when its first volume has been exported, a TR or two after its pulse:
pulses are kept until a run begins that had none yet, with the instants at which they
came. Pure: no clock, no device, no socket.
"""

import re
from dataclasses import dataclass, field

from bci_bridge.names import require_name
from runtime.errors import UsageError

_MOST = 100_000
"""Acquisitions of a run, at most: what pulses on for days is no run's."""
_BOUNCE_NS = 20_000_000
"""Two pulses within this time are one, and a key or a contact that bounces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PulsePlan:
    """What the operator says of the pulses."""

    run: str
    """Name of the first run, as `send` announces it; further ones are `run-2`, ..."""
    runs: int | None = None
    """Runs to follow, complete or not; all by default."""
    discard: int = 0
    """Acquisitions before volume 0."""
    every: int = 1
    """Pulses of an acquisition: more than one where the scanner gives one a slice."""
    tr_s: float | None = None
    """With it pulses are numbered by their time, so that a lost one shifts nothing."""
    quiet_s: float = 5.0
    """After so long without a pulse counting begins anew."""

    def __post_init__(self) -> None:
        require_name("--run", self.run)
        for what, found, low, high in (
            ("--runs", self.runs, 1, 1000),
            ("--discard", self.discard, 0, 1000),
            ("--every", self.every, 1, 1000),
            ("--tr-s", self.tr_s, 0.05, 60),
            ("--quiet-s", self.quiet_s, 0.1, 3600),
        ):
            if found is not None and not low <= found <= high:
                raise UsageError(f"{what}: expected {low} to {high}, found {found}")
        if self.tr_s is not None and self.tr_s >= self.quiet_s:
            raise UsageError(
                f"--quiet-s: expected more than a TR of {self.tr_s:g} s, "
                f"found {self.quiet_s:g}"
            )

    def is_ours(self, run: str) -> bool:
        """Say whether a run has the name, or that of a repetition."""
        return re.fullmatch(re.escape(self.run) + r"(-\d{1,4})?", run) is not None


@dataclass(slots=True)
class PulseClock:
    """Counts pulses, and gives them to the run that they belong to."""

    plan: PulsePlan
    run: str = ""
    """The run that the present count belongs to; empty until it is known."""
    n_ended: int = 0
    """Runs that are over."""
    _attended: str = ""
    _has_count: bool = False
    """The run attended has a count, even if another has begun since."""
    _is_free: bool = True
    """The present count belongs to no run yet."""
    _first_ns: int | None = None
    _last_ns: int | None = None
    _last_number: int = -1
    """Of the pulse that was counted last, from 0."""
    _counted_ns: int = 0
    _last_index: int = -1
    _kept: list[tuple[int, int]] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """As many runs are over as were to be followed."""
        return self.plan.runs is not None and self.n_ended >= self.plan.runs

    def take(self, pulsed_ns: int) -> None:
        """Count a pulse."""
        last_ns, self._last_ns = self._last_ns, pulsed_ns
        if last_ns is not None and pulsed_ns - last_ns < _BOUNCE_NS:
            return
        is_new = last_ns is None or pulsed_ns - last_ns > self.plan.quiet_s * 1e9
        if is_new:
            self._begin(pulsed_ns)
        step = self._step(pulsed_ns)
        if step < 1:
            return
        self._last_number += step
        self._counted_ns = pulsed_ns
        number, rest = divmod(self._last_number, self.plan.every)
        index = number - self.plan.discard
        if rest == 0 and self._last_index < index < _MOST:
            self._last_index = index
            self._kept.append((index, pulsed_ns))

    def attend(self, run: str) -> None:
        """Learn which run the server has under way; empty where it has none of ours."""
        if run == self._attended:
            return
        if self._attended:
            self.n_ended += 1
            if self.run == self._attended:
                self.run = ""
                self._kept.clear()
        self._attended, self._has_count = run, False
        if run and not self.run and self._first_ns is not None and self._is_free:
            self._assign()

    def due(self) -> list[tuple[int, int]]:
        """Give what can be said of the run: volume indices, and instants."""
        if not self.run:
            return []
        kept, self._kept = self._kept, []
        return kept

    def _begin(self, pulsed_ns: int) -> None:
        self._first_ns = pulsed_ns
        self._last_number = self._last_index = -1
        self._kept.clear()
        self.run, self._is_free = "", True
        if self._attended and not self._has_count:
            self._assign()

    def _assign(self) -> None:
        self.run, self._is_free, self._has_count = self._attended, False, True

    def _step(self, pulsed_ns: int) -> int:
        """Say how many pulses on from the last one this one is."""
        if self._last_number < 0 or self.plan.tr_s is None:
            return 1
        # From pulse to pulse: over a run, a TR that is not quite right adds up.
        pulses_ns = (pulsed_ns - self._counted_ns) * self.plan.every
        return round(pulses_ns / (self.plan.tr_s * 1e9))
