"""How sure the senders are of their clocks, as they said last. Pure."""

from collections.abc import Collection

from bci_bridge.header import Header
from bci_bridge.messages import Clocked


class Clocks:
    """The newest uncertainty of each stream."""

    def __init__(self) -> None:
        self._uncertainty_ns: dict[str, int] = {}

    def hear(self, record: Header) -> None:
        """Take a message; one that says nothing of its clock changes nothing."""
        if isinstance(record, Clocked) and record.clock_uncertainty_ns is not None:
            self._uncertainty_ns[record.stream] = record.clock_uncertainty_ns

    def of(self, streams: Collection[str]) -> dict[str, int]:
        """Give it of those among some streams that said it, and forget the others.

        Whoever has left is unknown and not well: what it said ages.
        """
        said = self._uncertainty_ns.items()
        self._uncertainty_ns = {name: ns for name, ns in said if name in streams}
        return dict(self._uncertainty_ns)
