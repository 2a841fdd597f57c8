"""How far each stream's messages are safe from a loss of power. Pure.

A message that is in the log is acknowledged as received; once the log's disk has it, as
durable. The sync tells only how far the log is safe; here that becomes a sequence for
each stream.
"""

from collections import Counter, deque
from collections.abc import Collection, Mapping


class Durability:
    """What is in the log, and what of it is on disk."""

    def __init__(self) -> None:
        # Order of a logged input not yet on disk; its run, stream and sequence.
        self._waiting: deque[tuple[int, str, str, int]] = deque()
        self._durable: Counter[tuple[str, str]] = Counter()

    @property
    def is_waiting(self) -> bool:
        """Say whether a sync has news for a sender."""
        return bool(self._waiting)

    def logged(self, order: int, run: str, stream: str, upto: int) -> None:
        """Take a message that was written to the log.

        Args:
            order: Its place in the log.
            run: Its run.
            stream: Its stream.
            upto: The sequence that comes after it.
        """
        self._waiting.append((order, run, stream, upto))

    def settle(self, order: int) -> bool:
        """Take that the log is on disk before this place; say whether that is news."""
        has_changed = False
        while self._waiting and self._waiting[0][0] < order:
            _, run, stream, upto = self._waiting.popleft()
            self._durable[run, stream] = upto
            has_changed = True
        return has_changed

    def give_up(self) -> None:
        """Wait for no sync: the log does not reach its disk."""
        self._waiting.clear()

    def keep_only(self, runs: Collection[str]) -> None:
        """Forget the other runs."""
        for known in [key for key in self._durable if key[0] not in runs]:
            del self._durable[known]

    def upto(self, run: str, stream: str) -> int:
        """Give the first sequence of a stream that is not known to be on disk."""
        return self._durable[run, stream]

    def lag(self, run: str, received: Mapping[str, int]) -> int:
        """Count the messages of a run that are received but not known to be on disk.

        Args:
            run: The run.
            received: By stream, the sequence expected next.
        """
        return sum(
            expected - self._durable[run, stream]
            for stream, expected in received.items()
        )
