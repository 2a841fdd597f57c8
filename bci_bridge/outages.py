"""How long each place of a server was empty: from a death to its replacement's life.

Pure. A supervisor starts a replacement in the instant in which it learns of a death, so
the start of the first replacement begins an outage; one that dies before it has shown
life does not end it.
"""

from bci_bridge.histogram import Histogram


class Outages:
    """The outages of one server's life, by place."""

    def __init__(self) -> None:
        self._restarts: dict[str, int] = {}
        self._since_ns: dict[str, int] = {}
        self._lengths: dict[str, Histogram] = {}

    @property
    def lengths(self) -> dict[str, Histogram]:
        """All that have ended so far."""
        return dict(self._lengths)

    def look(
        self, name: str, *, restarts: int, started_ns: int, last_ns: int | None
    ) -> None:
        """Take how a place is now.

        Args:
            name: The place.
            restarts: Deaths so far.
            started_ns: When who fills it was started.
            last_ns: When that one last showed life; None before the first time.
        """
        if restarts > self._restarts.get(name, 0):
            self._restarts[name] = restarts
            self._since_ns.setdefault(name, started_ns)
        if last_ns is not None and name in self._since_ns:
            length_ns = max(last_ns - self._since_ns.pop(name), 0)
            before = self._lengths.get(name, Histogram())
            self._lengths[name] = before.with_one(length_ns)
