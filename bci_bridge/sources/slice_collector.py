"""Slices of a series until a volume is whole.

Pure: the time is told. How many slices a volume has is read from the files, told by the
operator, or learned: once two later acquisitions have begun, no more slices of the
first are expected.
"""

from dataclasses import dataclass, field
from typing import Final

from bci_bridge.sources.dicom_image import Slice
from bci_bridge.sources.slices import MAX_SIDE, scanned, stacked
from bci_bridge.sources.source import Refused
from bci_bridge.sources.volume import ScannedVolume
from runtime.errors import ScanError, UsageError

PATIENCE_S: Final = 5.0
"""A volume that got no further slice for so long will get none."""
LATER: Final = 2
"""A volume that two later ones overtook will not be whole: files come in any order, but
not from so long ago."""
MOST_OPEN: Final = 64
"""Acquisitions at a time: one that never ends must not eat the memory."""


@dataclass(slots=True)
class _Acquisition:
    slices: dict[float, Slice] = field(default_factory=dict)
    """By depth along the normal, in hundredths of a millimetre."""
    touched_s: float = 0.0


class SliceCollector:
    """The unfinished volumes of one series.

    Args:
        series: What its volumes say of their series.
        slices: In a volume; None: told by the files, or learned.
    """

    def __init__(self, series: str, slices: int | None = None) -> None:
        self._series = series
        self._slices = slices
        self._open: dict[int, _Acquisition] = {}
        self._whole: set[int] = set()
        self._given_up: set[int] = set()

    def add(self, one: Slice, now_s: float) -> list[ScannedVolume | Refused]:
        """Take a slice; return the volumes that it completes, first to last.

        A slice completes several where it is the one from which their number is
        learned; one whose slices do not lie on one stack costs the others nothing.

        Raises:
            ScanError: There is such a slice, or its volume is over.
        """
        if one.number in self._whole or one.number in self._given_up:
            how = "twice" if one.number in self._whole else "after it was given up"
            raise ScanError(
                f"slice of volume {one.number}: expected once and in time, found {how}"
            )
        if one.number not in self._open and len(self._open) == MOST_OPEN:
            raise ScanError(
                f"slice of volume {one.number}: expected at most {MOST_OPEN} unfinished"
                " volumes, found more. Say how many slices there are with --slices"
            )
        if self._slices is None and one.slices is not None:
            self._slices = one.slices
        mine = self._open.setdefault(one.number, _Acquisition())
        place = round(one.plane.depth * 100)
        if place in mine.slices:
            raise ScanError(
                f"slice of volume {one.number}: expected one at {one.plane.depth:.2f}"
                " mm, found a second. The first is kept"
            )
        mine.slices[place] = one
        mine.touched_s = now_s
        self._learn()
        whole = [n for n, a in self._open.items() if len(a.slices) == self._slices]
        return [self._close(number) for number in sorted(whole)]

    def overdue(self, now_s: float) -> list[int]:
        """Return the volumes that will not be whole.

        Two later ones are, or no slice was added for too long.
        """
        return [
            number
            for number, one in sorted(self._open.items())
            if now_s - one.touched_s >= PATIENCE_S
            or sum(later > number for later in self._whole) >= LATER
        ]

    def give_up(self, number: int) -> str:
        """Close a volume; say what it lacks."""
        found = len(self._open.pop(number).slices)
        self._given_up.add(number)
        expected = "more" if self._slices is None else str(self._slices)
        return (
            f"expected {expected} slices, found {found}. The volume is missing;"
            " the next ones go on"
        )

    def _learn(self) -> None:
        if self._slices is None and len(self._open) > 2:
            first, second, *_ = sorted(self._open)
            self._slices = max(len(self._open[one].slices) for one in (first, second))

    def _close(self, number: int) -> ScannedVolume | Refused:
        slices = list(self._open.pop(number).slices.values())
        self._whole.add(number)
        try:
            return self._stacked(number, slices)
        except ScanError as error:
            return Refused(f"volume {number}", str(error))

    def _stacked(self, number: int, slices: list[Slice]) -> ScannedVolume:
        first = slices[0]
        if any(one.tr_s != first.tr_s for one in slices):
            raise ScanError("TR: expected one, found several")
        times = [one.acquired_s for one in slices if one.acquired_s is not None]
        has_times = len(times) == len(slices)
        stack = stacked(
            [one.plane for one in slices],
            [one.pixels for one in slices],
            [one.scaling for one in slices],
            first.thickness,
            times if has_times and len(set(times)) > 1 else None,
        )
        return scanned(
            stack,
            series=self._series,
            number=number,
            tr_s=first.tr_s,
            acquired_s=min(times) if has_times else None,
        )


def check_slices(slices: int | None) -> int | None:
    """Hold the operator's number of slices against what a volume can have.

    Raises:
        UsageError: It is not 1 to 1,024.
    """
    if slices is not None and not 1 <= slices <= MAX_SIDE:
        raise UsageError(f"--slices: expected 1 to {MAX_SIDE}, found {slices}")
    return slices
