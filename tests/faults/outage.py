"""How long a death is felt. Pure: what was heard of each volume, and who died when.

The outage of a kill is the longest time from a volume's acquisition until a subscriber
had its outcome, over the volumes that had no outcome yet when the kill came and those
acquired within the second after it, less the median of that time over the whole test.
It is taken of measured kills only: all was well before them, and nobody else was killed
in their second, so that it needs no guess whose fault a delay is.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WINDOW_NS = 1_000_000_000


@dataclass(frozen=True)
class Kill:
    """One death."""

    at_ns: int
    victim: str
    is_measured: bool


@dataclass(frozen=True)
class Heard:
    """One volume, on one machine's monotonic clock."""

    acquired_ns: int
    heard_ns: int

    @property
    def latency_ns(self) -> int:
        return self.heard_ns - self.acquired_ns


def outages_ms(kills: Iterable[Kill], volumes: Sequence[Heard]) -> dict[str, list[int]]:
    """Measure each measured kill; by victim, in whole milliseconds."""
    found: dict[str, list[int]] = {}
    if not volumes:
        return found
    median_ns = statistics.median(one.latency_ns for one in volumes)
    for kill in kills:
        felt = [
            one.latency_ns - median_ns
            for one in volumes
            if one.heard_ns >= kill.at_ns and one.acquired_ns < kill.at_ns + WINDOW_NS
        ]
        if kill.is_measured and felt:
            ms = max(0, round(max(felt) / 1e6))
            found.setdefault(kill.victim, []).append(ms)
    return found


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed; nan of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    # In whole numbers: 0.99 * 100 is not 99 for a computer.
    rank = -(-round(percent * 100) * len(ordered) // 10_000)
    return ordered[max(rank, 1) - 1]
