"""A recording in the scanner's place: its volumes, when a scanner would give them.

Volume i comes at the end of its acquisition, ``(i + 1) * TR``, or as soon as it is
asked for. A recording that cannot be read to its end gives what it has, says so, and is
over.
"""

import gzip
import math
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Final

from bci_bridge.sources.source import Arrival, Exhausted, Refused
from bci_bridge.sources.volume import ScannedVolume
from runtime.errors import ScanError, UsageError

TORN: Final = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading a file raises that is not, or not yet, whole."""


def check_speed(speed: float | None) -> None:
    """Refuse a pace that no clock can keep.

    Raises:
        UsageError: It is not a positive number.
    """
    if speed is not None and not 0 < speed < math.inf:
        raise UsageError(f"--speed: expected a number above 0, found {speed:g}")


class Recorded:
    """The volumes of one file.

    Attributes:
        volumes: How many it announces.
    """

    def __init__(
        self,
        name: str,
        volumes: int,
        read: Iterator[ScannedVolume],
        speed: float | None = 1.0,
        *,
        tr_s: float | None = None,
        on_close: Callable[[], None] = lambda: None,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin.

        Args:
            name: Of the file, for messages.
            volumes: How many it announces.
            read: Reads them, one at each step.
            speed: 1 is real time; None is as fast as it is asked.
            tr_s: Overrules the TR of its volumes.
            on_close: Lets go of the file.
            clock_s: Monotonic clock.
            sleep: Lets time pass.

        Raises:
            UsageError: The speed is not positive.
        """
        check_speed(speed)
        self.volumes = volumes
        self._name, self._read, self._speed = name, read, speed
        self._tr_s = tr_s
        self._on_close, self._clock_s, self._sleep = on_close, clock_s, sleep
        self._begin_s: float | None = None
        self._next: ScannedVolume | None = None
        self._n_given, self._is_over = 0, False

    def poll(self, wait_s: float) -> Arrival | None:
        """Give the next volume when it is due, at last `Exhausted`."""
        if self._begin_s is None:
            self._begin_s = self._clock_s()
        if self._next is None:
            if self._is_over:
                return Exhausted()
            try:
                self._next = next(self._read)
            except StopIteration:
                self._is_over = True
                return Exhausted()
            except (OSError, *TORN) as error:
                return self._refused(
                    f"expected {self.volumes} whole volumes, found {self._n_given} "
                    f"({error}). Copy the file again"
                )
            except ScanError as error:
                return self._refused(str(error))
            except MemoryError:
                return self._refused("expected what memory holds, found more")
        tr_s = self._next.geometry.tr_s if self._tr_s is None else self._tr_s
        if self._speed is not None and tr_s > 0:
            due_s = self._begin_s + (self._n_given + 1) * tr_s / self._speed
            left_s = due_s - self._clock_s()
            if left_s > 0:
                self._sleep(min(left_s, wait_s))
            if left_s > wait_s:
                return None
        volume, self._next = self._next, None
        self._n_given += 1
        return volume

    def close(self) -> None:
        """Let go of the file."""
        self._on_close()

    def _refused(self, why: str) -> Refused:
        self._is_over = True
        return Refused(self._name, why)
