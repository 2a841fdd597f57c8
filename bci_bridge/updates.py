"""Which trial an earlier estimate may be sent of, and whether there is time for it.

Pure: instants are given. An estimate must never make a volume wait: none is begun
unless twice the time that the last answer took is left until the next volume is due.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from bci_bridge.messages import RunStart

MARGIN: Final = 2
"""Times what an answer took last: how long one may take at most."""


class Updates:
    """What could be said of one run's trials before they are due.

    Attributes:
        is_on: The run asks for estimates.
    """

    def __init__(self) -> None:
        self.is_on, self._tr_ns = False, 0
        self._cost_ns: int | None = None
        self._read_ns: int | None = None
        self._next_ns = 0
        self._trials: deque[str] = deque()

    def start(self, run: RunStart) -> None:
        """Begin a run; how long an answer takes is kept from the one before."""
        # Where volumes come as fast as they are answered, there is no time between.
        self.is_on = run.updates and run.pace == "live"
        self._tr_ns = round(run.tr_s * 1e9)
        self._read_ns = None
        self._trials.clear()

    def renew(self, read_ns: int, waiting: Iterable[str]) -> None:
        """Let every trial that waits have an estimate: an acquisition is over.

        Args:
            read_ns: When it was read. The next one comes a TR later, or as long after
                it as it came after the last: a recording may be played faster.
            waiting: Trials that are announced and not answered.
        """
        if not self.is_on:
            return
        last_ns, self._read_ns = self._read_ns, read_ns
        if last_ns is not None:
            self._next_ns = read_ns + min(self._tr_ns, read_ns - last_ns)
            self._trials = deque(waiting)

    def stop(self) -> None:
        """End the run: nothing follows its end."""
        self.is_on = False
        self._trials.clear()

    def took(self, cost_ns: int) -> None:
        """Learn how long an answer takes."""
        self._cost_ns = cost_ns

    def next(self, now_ns: int) -> str | None:
        """Name the next trial; None where there is none, or no time for it.

        Before the first answer nobody knows how long one takes, and none is named.
        """
        if not self._trials or self._cost_ns is None:
            return None
        if now_ns + MARGIN * self._cost_ns > self._next_ns:
            self._trials.clear()
            return None
        return self._trials.popleft()
