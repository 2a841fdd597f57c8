"""What goes wrong again and again is counted, and said once."""

from collections import Counter
from typing import Final

MAX_LINES: Final = 20
"""So many lines are said; whoever causes more different ones is only counted."""


class Notices:
    """Counts by kind; pure."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._said: set[tuple[str, str]] = set()

    def count(self, kind: str, line: str, about: str = "") -> str:
        """Count one of a kind.

        Args:
            kind: A word or two, for the summary.
            line: What to say of it.
            about: Tells those of a kind apart that deserve a line each.

        Returns:
            The line where it is to be said, else an empty string.
        """
        self._counts[kind] += 1
        if (kind, about) in self._said or len(self._said) > MAX_LINES:
            return ""
        self._said.add((kind, about))
        if len(self._said) > MAX_LINES:
            return "there is more trouble of other kinds; from here on it is counted"
        return line

    def summary(self) -> str:
        """List what was counted since the last summary, and begin anew."""
        listed = ", ".join(f"{n} {kind}" for kind, n in self._counts.items())
        self._counts.clear()
        self._said.clear()
        return listed
