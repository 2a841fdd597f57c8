"""What of a log cannot be read: how much, and each loss told once.

Pure: counts in, lines out. Several processes follow the same log, and one that takes
another's place finds the same loss again.
"""

from collections.abc import Mapping


def unread_line(log: str, count: int) -> str:
    """Say that messages of a log cannot be read."""
    return (
        f"{log}: expected every message of the log, found {count} lost or damaged. "
        "What they said is not given out again; `neuroflow replay` names them."
    )


class UnreadTold:
    """Remembers what was told."""

    def __init__(self) -> None:
        self._told: dict[str, int] = {}

    def news(self, unread: Mapping[str, int]) -> list[str]:
        """Give a line for each log of which more is known to be lost than before."""
        lines = []
        for log, count in unread.items():
            if count > self._told.get(log, 0):
                self._told[log] = count
                lines.append(unread_line(log, count))
        return lines
