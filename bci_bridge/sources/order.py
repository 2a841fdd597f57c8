"""Acquisitions that come out of order, put in order; and which of them never come.

What arrives ahead of its turn is held. Its turn comes when all before it have arrived,
or are given up: when more are held than the window takes, or one of them has waited for
too long. Pure: no clock; instants are arguments.
"""

from collections.abc import Iterator
from typing import Generic, Literal, TypeVar

Item = TypeVar("Item")


class Order(Generic[Item]):
    """The acquisitions of one run, each said once and in order.

    Attributes:
        next_index: The first that is neither said nor given up.
    """

    def __init__(self, next_index: int, window: int, wait_ns: int) -> None:
        """Begin at an index.

        Args:
            next_index: What is below was said before, and counts as said.
            window: How many may be held; 0 holds none.
            wait_ns: How long one may be held.
        """
        self.next_index = next_index
        self._window, self._wait_ns = window, wait_ns
        self._held: dict[int, tuple[Item, int]] = {}
        self._given_up: set[int] = set()

    def push(
        self, index: int, item: Item, now_ns: int
    ) -> Literal["TAKEN", "LATE", "DUPLICATE"]:
        """Take what has arrived, or say why it is not held.

        Returns:
            LATE where it was given up before, which happens once; DUPLICATE where it
            came before.
        """
        if index in self._given_up:
            self._given_up.remove(index)
            return "LATE"
        if index < self.next_index or index in self._held:
            return "DUPLICATE"
        self._held[index] = item, now_ns
        return "TAKEN"

    def due(
        self, now_ns: int, *, is_over: bool = False
    ) -> Iterator[tuple[int, Item | None]]:
        """Give what has its turn, in order; None for one that is given up.

        Args:
            now_ns: The present.
            is_over: Nothing else will come: nothing is held any longer.
        """
        while self._held:
            index = self.next_index
            found = self._held.pop(index, None)
            if found is None:
                oldest_ns = min(held_ns for _, held_ns in self._held.values())
                is_patient = (
                    len(self._held) <= self._window
                    and now_ns - oldest_ns < self._wait_ns
                )
                if is_patient and not is_over:
                    return
                self._given_up.add(index)
            self.next_index += 1
            yield index, None if found is None else found[0]
