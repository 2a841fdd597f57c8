"""How much one peer may say: a bucket of tokens for each, and an end to patience.

Pure: time is an argument. A peer's bucket holds `burst` tokens and gains `rate_per_s`;
each message takes one. What comes while the bucket is empty is refused, and the peer
hears so at most once a second: to answer each message of a flood would double it. A
peer that goes on, by as much again as it may say in a second, is expelled: all that it
says is passed over for `OUT_NS`, and then it begins with an empty bucket.

A bucket is one instant, that at which it will be full again (the "generic cell rate
algorithm"): nothing has to be refilled, and a full bucket is none at all. So peers that
come and go under ever new names leave nothing behind.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Literal

SAY_NS: Final = 1_000_000_000
"""A peer is told at most this often that it says too much."""

OUT_NS: Final = 5_000_000_000
"""An expelled peer is not heard for this long: as long as a lease lasts."""

SWEEP_AT: Final = 256
"""Buckets that are kept without looking which of them are full again."""

Verdict = Literal["TAKE", "REFUSE", "DROP", "EXPEL"]
"""Take it; refuse it and say so; refuse it in silence; or part with the peer too."""


@dataclass(slots=True)
class _Bucket:
    full_ns: int
    """When it will be full, if nothing more comes."""
    told_ns: int | None = None
    refused: int = 0
    """Since it was full."""
    is_out: bool = False


class Tokens:
    """The buckets of all peers."""

    def __init__(self, rate_per_s: int, burst: int) -> None:
        """Begin with full buckets.

        Args:
            rate_per_s: Messages that a peer may send each second, for ever.
            burst: Messages that it may send at once, after it was quiet.
        """
        self._cost_ns = max(1, 1_000_000_000 // rate_per_s)
        self._depth_ns = burst * self._cost_ns
        self._patience = rate_per_s
        self._buckets: dict[Hashable, _Bucket] = {}
        self._sweep_at = SWEEP_AT

    def __len__(self) -> int:
        """Count the buckets that are kept."""
        return len(self._buckets)

    def take(self, who: Hashable, now_ns: int) -> Verdict:
        """Decide on one message.

        Args:
            who: The key under which it came, or the peer where there are no keys.
            now_ns: When it was read; never runs backwards.
        """
        bucket = self._buckets.get(who)
        if bucket is None or self._is_over(bucket, now_ns):
            bucket = self._buckets[who] = _Bucket(now_ns)
            self._sweep(now_ns)
        elif bucket.full_ns <= now_ns:
            bucket.full_ns, bucket.refused = now_ns, 0
        if bucket.full_ns + self._cost_ns - now_ns <= self._depth_ns:
            bucket.full_ns += self._cost_ns
            bucket.is_out = False
            return "TAKE"
        if bucket.is_out:
            return "DROP"
        bucket.refused += 1
        if bucket.refused > self._patience:
            bucket.full_ns = now_ns + OUT_NS + self._depth_ns
            bucket.is_out, bucket.refused = True, 0
            return "EXPEL"
        if not self._may_tell(bucket, now_ns):
            return "DROP"
        bucket.told_ns = now_ns
        return "REFUSE"

    def _may_tell(self, bucket: _Bucket, now_ns: int) -> bool:
        return bucket.told_ns is None or now_ns - bucket.told_ns >= SAY_NS

    def _is_over(self, bucket: _Bucket, now_ns: int) -> bool:
        """Say whether a bucket is as good as none."""
        return bucket.full_ns <= now_ns and self._may_tell(bucket, now_ns)

    def _sweep(self, now_ns: int) -> None:
        if len(self._buckets) < self._sweep_at:
            return
        for who in [w for w, b in self._buckets.items() if self._is_over(b, now_ns)]:
            del self._buckets[who]
        # Twice what is left: each message pays for a bounded part of the sweeps.
        self._sweep_at = max(SWEEP_AT, 2 * len(self._buckets))
