"""Durations counted by size, as a monitor wants them. Pure."""

from bisect import bisect_left
from typing import Final

import msgspec

BUCKETS_S: Final = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
"""Upper ends, inclusive; what is slower comes after them."""


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Durations by size."""

    counts: tuple[int, ...] = (0,) * (len(BUCKETS_S) + 1)
    """Per bucket, not cumulative; the last is beyond all of them."""
    sum_ns: int = 0

    @property
    def count(self) -> int:
        """All of them."""
        return sum(self.counts)

    def with_one(self, duration_ns: int) -> "Histogram":
        """Add one."""
        place = bisect_left(BUCKETS_S, duration_ns / 1e9)
        counts = list(self.counts)
        counts[place] += 1
        return Histogram(counts=tuple(counts), sum_ns=self.sum_ns + duration_ns)

    def after(self, earlier: "Histogram") -> "Histogram":
        """Add what was counted before."""
        pairs = zip(self.counts, earlier.counts, strict=True)
        return Histogram(
            counts=tuple(mine + theirs for mine, theirs in pairs),
            sum_ns=self.sum_ns + earlier.sum_ns,
        )
