"""What became of the runs so far, for whoever goes on after a killed process.

Pure. Which files are a run's is said once, by the operator, when the first process
starts; a successor is told the same instead of guessing from names or times.
"""

import msgspec

from bci_bridge.header import Count, Text


class Left(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which files of a folder are not sent, because they were there before."""

    folder: str
    """Digest of where it is and of the pattern of names: elsewhere files are others."""
    names: tuple[str, ...] = ()
    """Digests of names, which may tell a person's. All other files are the runs'."""


class Past(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an earlier process did."""

    run: Text = ""
    """Name of the first run."""
    begun: Count = 0
    complete: Count = 0
    series: str | None = None
    """Of the run under way; None where there is none, empty where nobody knows it."""
    first: Count = 0
    """What the source of that series counts as number 0."""
    over: tuple[str, ...] = ()
    """Series whose volumes are not wanted any more."""
    left: Left | None = None
    """None where no folder was read, or nobody knows."""
    is_stopped: bool = False
    """By the operator, who says anew whose the files are that a folder holds."""
    stopped: str = ""
    """The series that this ended; empty where none was under way."""

    def taken_up_again(self) -> "Past":
        """Return the same without the operator's stop: its series may go on."""
        over = tuple(one for one in self.over if one != self.stopped)
        return msgspec.structs.replace(self, over=over, is_stopped=False, stopped="")
