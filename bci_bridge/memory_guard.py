"""A limit on what a worker holds: by its resident size, as metrics tell it.

A limit on address space, as the processes that meet peers have it, is wrong for a
worker: an engine maps gigabytes that it never touches. So it is measured and not
enforced by the kernel, and who is found beyond it is ended only while the other worker
can answer: a run without answers is worse than a process that is too large.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from bci_bridge.settings import WORKERS
from bci_bridge.setup import Ready
from runtime.errors import UsageError

LOOK_NS: Final = 1_000_000_000
"""How often workers are weighed."""


@dataclass(frozen=True, slots=True)
class Held:
    """One worker, and what it holds."""

    name: str
    resident_bytes: int | None
    """None where nothing is known."""
    is_ready: bool
    """It could answer the next volume."""
    is_active: bool
    """It does."""

    @classmethod
    def by(cls, name: str, resident_bytes: int | None, ready: Ready | None) -> "Held":
        """Put together what was measured and what a worker says of itself."""
        return cls(
            name,
            resident_bytes,
            is_ready=ready is not None and not ready.is_behind,
            is_active=ready is not None and ready.is_active,
        )

    def is_beyond(self, limit_mb: int) -> bool:
        """Say whether it holds more than the limit."""
        return self.resident_bytes is not None and self.resident_bytes > limit_mb << 20


def too_large(workers: Iterable[Held], limit_mb: int) -> Held | None:
    """Choose who is to be ended, if anybody; at most one at a time.

    Args:
        workers: All of them.
        limit_mb: What each may hold, in MiB.
    """
    workers = list(workers)
    beyond = [
        one
        for one in workers
        if one.is_beyond(limit_mb)
        and any(other.is_ready for other in workers if other is not one)
    ]
    # Whose end costs nobody an answer goes first.
    return min(beyond, key=lambda one: one.is_active, default=None)


class MemoryGuard:
    """Weighs the workers of a server once a second, where there is a limit."""

    def __init__(self, limit_mb: int | None, weigh: Callable[[str], Held]) -> None:
        """Know the limit.

        Args:
            limit_mb: What each worker may hold, in MiB; None for no limit.
            weigh: Measures a worker, by its name.
        """
        self._limit_mb, self._weigh = limit_mb, weigh
        self._weighed_ns = 0
        self._notices: list[str] = []

    def require_room(self, name: str) -> None:
        """Refuse a limit that a worker is beyond as soon as it has loaded.

        Raises:
            UsageError: It is; no restart would mend that.
        """
        if self._limit_mb is None:
            return
        worker = self._weigh(name)
        if worker.is_beyond(self._limit_mb):
            raise UsageError(
                f"{self._said_of(worker)} with nothing answered yet. Allow it more"
            )

    def whom_to_end(self, now_ns: int) -> str:
        """Name the worker that is to be ended now; nobody, mostly.

        Args:
            now_ns: This instant.
        """
        if self._limit_mb is None or now_ns - self._weighed_ns < LOOK_NS:
            return ""
        self._weighed_ns = now_ns
        found = too_large(map(self._weigh, WORKERS), self._limit_mb)
        if found is None:
            return ""
        self._notices.append(
            f"{self._said_of(found)}: ended, for the other worker to answer. If it "
            "grows again and again, report it; else allow it more"
        )
        return found.name

    def notices(self) -> list[str]:
        """Hand over what must be told, of what happened since this was asked last."""
        told, self._notices = self._notices, []
        return told

    def _said_of(self, worker: Held) -> str:
        found_mb = (worker.resident_bytes or 0) / 2**20
        return (
            f"{worker.name}: expected {self._limit_mb:,} MiB of memory at most "
            f"(worker_memory_mb), found {found_mb:,.0f} MiB"
        )
