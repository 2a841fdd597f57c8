"""What a source of volumes is to the loop that sends them.

One interface for files that appear in a folder, images that a console pushes, and
sockets that other software holds: asked again and again, it never blocks for longer
than it is told. A source parses in its own process, never in the server's.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from bci_bridge.sources.volume import ScannedVolume


@dataclass(frozen=True, slots=True)
class SeriesEnded:
    """The scanner's software says that a series is over."""

    series: str
    is_aborted: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Something arrived that is no volume of this run; it is counted and said once.

    Attributes:
        what: File, message or element, without identity.
        why: One clear line: expected, found, remedy.
    """

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Nothing will ever come again: what was sent is a recording, and it is over."""


@dataclass(frozen=True, slots=True)
class Reading:
    """More files are there than could be read yet: what has not come may be theirs."""


Arrival = ScannedVolume | SeriesEnded | Refused | Exhausted | Reading
"""What a source can give."""


@runtime_checkable
class Source(Protocol):
    """A way out of a scanner."""

    def poll(self, wait_s: float) -> Arrival | None:
        """Return what came next, in the scanner's order where it tells one.

        Args:
            wait_s: The longest time to wait; 0 looks only.

        Returns:
            None where nothing has come yet.

        Raises:
            ScanError: The source itself is gone: a folder that vanished, a port that
                is taken. The message says what the operator can do.
        """
        ...

    def close(self) -> None:
        """Release folder, port and threads."""
        ...
