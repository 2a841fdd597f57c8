"""How far a sender's clock is from the server's, and how sure that is. Pure.

Every direct answer of the server names its own instant and repeats that of the message
it answers (`Ack.echo_ns`); of a greeting `line.Greeting` tells the same. The server's
instant lies between sending and receiving, so the middle of the two is off by half the
round trip at most (Mills, 1991, IEEE Trans. Commun. 39(10), section III). The shortest
round trip of the last ones tells most.
"""

from collections import deque
from typing import Final

SAMPLES: Final = 32
DRIFT: Final = 1e-4
"""Clocks of two hosts part by less than this: 100 microseconds a second."""


def is_one_clock(offset_ns: int, uncertainty_ns: int | None) -> bool:
    """Say whether an offset, below its uncertainty, is that of one and the same clock.

    Args:
        offset_ns: A sender's clock minus the server's.
        uncertainty_ns: How far off that may be; None where nobody said.
    """
    return abs(offset_ns) <= (uncertainty_ns or 0)


class ClockOffset:
    """The last exchanges of one sender with its server."""

    def __init__(self) -> None:
        # Number, arrival, offset and half the round trip, which grows from one to the
        # next: an exchange that is older and longer than another never tells most.
        self._samples: deque[tuple[int, int, int, int]] = deque()
        self._count = 0

    def add(self, sent_ns: int, server_ns: int, received_ns: int) -> None:
        """Take one exchange.

        Args:
            sent_ns: On this host's clock, when the message left.
            server_ns: On the server's clock, when it was answered.
            received_ns: On this host's clock, when the answer came; never goes back.
        """
        if received_ns < sent_ns:
            return
        samples = self._samples
        half_ns = (received_ns - sent_ns + 1) // 2
        middle_ns = sent_ns + (received_ns - sent_ns) // 2
        while samples and samples[-1][3] > half_ns:
            samples.pop()
        self._count += 1
        samples.append((self._count, received_ns, middle_ns - server_ns, half_ns))
        if samples[0][0] <= self._count - SAMPLES:
            samples.popleft()

    def at(self, now_ns: int) -> tuple[int, int] | None:
        """Say this clock minus the server's, and how far off that may be, in ns.

        Returns:
            None before the first exchange.
        """
        found: tuple[int, int] | None = None
        for _, then_ns, offset_ns, half_ns in self._samples:
            uncertainty_ns = half_ns + round(max(now_ns - then_ns, 0) * DRIFT)
            if found is None or uncertainty_ns < found[1]:
                found = offset_ns, uncertainty_ns
        return found
