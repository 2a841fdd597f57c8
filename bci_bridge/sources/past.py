"""What became of the runs so far, for whoever goes on after a killed process.

Pure. Which files are a run's is said once, by the operator, when the first process
starts; a successor is told the same instead of guessing from names or times.
"""

from typing import Final, Literal

import msgspec

from bci_bridge.header import Count, Text

STALE_S: Final = 600.0
"""A process that died so long ago left a folder to which anything may have come."""
Said = Literal["", "--new-only", "--from-start"]
"""What the operator says of the files that a folder holds at the start."""


class Left(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which files of a folder are not sent, because they were there before."""

    folder: str
    """Digest of where it is and of the pattern of names: elsewhere files are others."""
    is_new_only: bool = False
    """Those that were there, as the operator said; else none."""
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
    first: Count | None = None
    """What the source of that series counts as number 0; None where nobody knows."""
    over: tuple[str, ...] = ()
    """Series whose volumes are not wanted any more."""
    sent: tuple[str, ...] = ()
    """Those of them that are complete runs."""
    left: Left | None = None
    """None where no folder was read, or nobody knows."""
    is_stopped: bool = False
    """By the operator."""


class Turns:
    """When the series of a folder have their turn for who goes on."""

    def __init__(self, past: Past) -> None:
        """Know the series under way, and those that are over."""
        self._own, self._over = past.series, frozenset(past.over)

    def of(self, series: str) -> bool | None:
        """Return what sorts a series: its own is first; None for one that is over."""
        return None if series in self._over else series != self._own


def is_gone(past: Past, folder: str, age_s: float) -> bool:
    """Say whether what a process did is of no use to one that reads a folder now.

    It was stopped, read another folder, or died too long ago: its run is not gone on
    with, and its series may be others by now, of the same names.

    Args:
        past: What it did.
        folder: As `Left.folder`.
        age_s: How long ago it was alive.
    """
    is_elsewhere = past.left is not None and past.left.folder != folder
    return past.is_stopped or is_elsewhere or age_s > STALE_S


def goes_on(past: Past, said: Said, *, is_under_way: bool) -> bool:
    """Say whether the files that a process left out are left out again.

    While a run is under way they are, whatever the operator says; else only where that
    is not something else than before.

    Args:
        past: What it did, and not gone.
        said: By the operator, now.
        is_under_way: It was killed in a run.
    """
    if past.left is None:
        return False
    before: Said = "--new-only" if past.left.is_new_only else "--from-start"
    return is_under_way or said in ("", before)


def anew(past: Past, folder: str, said: Said) -> Past:
    """Return what is left of it for whoever does not go on: names are used once.

    Who sends what is there sends no complete run of the same folder a second time.
    """
    is_here = past.left is not None and past.left.folder == folder
    sent = past.sent if is_here else ()
    over = sent if said == "--from-start" else ()
    return Past(run=past.run, begun=past.begun, over=over, sent=sent)
