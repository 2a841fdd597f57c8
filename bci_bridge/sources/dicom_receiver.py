"""DICOM files, one after another, to the volumes of the functional series.

Pure: files arrive as bytes, the time is told. What every way by which DICOM comes has
in common: which series is decoded, whose it is, and which volumes are whole. Their
order is the feed's business.
"""

from typing import Final

from bci_bridge.sources.dicom_elements import read_elements
from bci_bridge.sources.dicom_image import Broken, Slice, contents, facts_of
from bci_bridge.sources.dicom_values import IncompleteError
from bci_bridge.sources.series_choice import Choice, SeriesFacts, why_left_out
from bci_bridge.sources.slice_collector import SliceCollector, check_slices
from bci_bridge.sources.source import Refused
from bci_bridge.sources.volume import ScannedVolume
from runtime.errors import ScanError

MOST_LEFT_OUT: Final = 1024
"""Reasons that are remembered, so that each is said once."""
MOST_SERIES: Final = 16
"""Of which slices are collected at a time."""


class DicomReceiver:
    """What all files of a sending session have in common.

    Args:
        choice: Of the series.
        salt: Random bytes, at most 16, that never leave memory.
        slices: In a volume, where files hold one slice and do not say.

    Raises:
        UsageError: No volume has so many slices.
    """

    def __init__(
        self, choice: Choice, salt: bytes, *, slices: int | None = None
    ) -> None:
        self._choice = choice
        self._salt = salt
        self._slices = check_slices(slices)
        self._patient: bytes | None = None
        self._said: set[tuple[str, str]] = set()
        self._collectors: dict[str, SliceCollector] = {}

    def take(
        self, data: bytes, what: str, now_s: float
    ) -> list[ScannedVolume | Refused]:
        """Read a file.

        Args:
            data: Its bytes.
            what: Names it, without identity.
            now_s: On a clock that never steps.

        Returns:
            The volumes that are whole with it, and what was refused.

        Raises:
            IncompleteError: It ends early: perhaps it is still being written.
        """
        try:
            return self._take(data, what, now_s)
        except IncompleteError:
            raise
        except ScanError as error:
            return [Refused(what, str(error))]
        except MemoryError:
            found = f"{len(data) >> 20} MiB that do not fit"
            return [Refused(what, f"file: expected what memory holds, found {found}")]

    def overdue(self, now_s: float) -> list[ScannedVolume | Refused]:
        """Give up volumes that will not be whole."""
        return [
            Refused(f"volume {number}", collector.give_up(number))
            for collector in self._collectors.values()
            for number in collector.overdue(now_s)
        ]

    def _take(
        self, data: bytes, what: str, now_s: float
    ) -> list[ScannedVolume | Refused]:
        elements = read_elements(data, self._salt)
        facts = facts_of(elements)
        reason = why_left_out(facts, self._choice)
        if reason is not None:
            return self._leave_out(facts, reason)
        found = list(contents(elements, facts.key))
        if self._patient not in (None, elements.patient):
            raise ScanError(
                "patient: expected that of the first image, found another."
                " Start `neuroflow send` anew for another participant"
            )
        self._patient = elements.patient
        arrivals: list[ScannedVolume | Refused] = []
        for one in found:
            if isinstance(one, Slice):
                arrivals += self._collector(facts.key).add(one, now_s)
            elif isinstance(one, Broken):
                arrivals.append(Refused(what, f"volume {one.number}: {one.why}"))
            else:
                arrivals.append(one)
        return arrivals

    def _collector(self, series: str) -> SliceCollector:
        found = self._collectors.pop(series, None)
        if found is None:
            found = SliceCollector(series, self._slices)
        # The one that was used last stands last, and the first goes.
        self._collectors[series] = found
        if len(self._collectors) > MOST_SERIES:
            del self._collectors[next(iter(self._collectors))]
        return found

    def _leave_out(
        self, facts: SeriesFacts, reason: str
    ) -> list[ScannedVolume | Refused]:
        if (facts.key, reason) in self._said or len(self._said) == MOST_LEFT_OUT:
            return []
        self._said.add((facts.key, reason))
        name = "?" if facts.number is None else str(facts.number)
        return [Refused(f"series {name}", f"left out: {reason}")]
