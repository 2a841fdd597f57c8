"""Plain values of DICOM elements, each taken out with its type and bounds checked.

Pure; knows no file and no library that reads one.
"""

from typing import Any, Final

import numpy as np

from runtime.errors import ScanError

Values = dict[str, Any]

NONE: Final = memoryview(b"")


class IncompleteError(ScanError):
    """A file ends before what it announces: perhaps it is still being written."""


class Elements:
    """Plain values by DICOM keyword, each taken out with its type checked."""

    def __init__(
        self, values: Values, patient: bytes = b"", pixels: memoryview = NONE
    ) -> None:
        self._values = values
        self.patient = patient
        """A salted hash of who was scanned."""
        self.pixels = pixels
        """The bytes of PixelData, where they lie in the file."""

    def text(self, name: str) -> str:
        """Return a text, the first of several; empty where there is none."""
        found = self.texts(name)
        return found[0] if found else ""

    def texts(self, name: str) -> tuple[str, ...]:
        """Return all values of a text."""
        return tuple(str(one).strip() for one in self._several(name))

    def numbers(self, name: str, count: int) -> tuple[float, ...] | None:
        """Return finite numbers; None where the element is absent or empty.

        Raises:
            ScanError: There are more or fewer than `count`, or one is no number.
        """
        found = self._several(name)
        if not found:
            return None
        try:
            numbers = tuple(float(one) for one in found)
        except (ValueError, TypeError, OverflowError):
            numbers = ()
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise ScanError(f"{name}: expected {count} finite numbers, found others")
        return numbers

    def number(self, name: str) -> float | None:
        """Return a finite number; None where the element is absent or empty.

        Raises:
            ScanError: It is no number, or several.
        """
        found = self.numbers(name, 1)
        return None if found is None else found[0]

    def whole(self, name: str) -> int | None:
        """Return a whole number; None where the element is absent or empty.

        Raises:
            ScanError: It is no whole number of 32 bits, or several.
        """
        found = self.number(name)
        if found is None:
            return None
        if found != int(found) or not -(1 << 31) <= found < 1 << 32:
            raise ScanError(f"{name}: expected a whole number, found {found:g}")
        return int(found)

    def data(self, name: str) -> bytes:
        """Return raw bytes; empty where there are none."""
        found = self._values.get(name)
        return found if isinstance(found, bytes) else b""

    def items(self, name: str) -> tuple["Elements", ...]:
        """Return the items of a sequence."""
        found = self._values.get(name)
        return found if isinstance(found, tuple) and _are_items(found) else ()

    def item(self, name: str) -> "Elements":
        """Return a sequence's first item; an empty one where there is none."""
        found = self.items(name)
        return found[0] if found else Elements({})

    def _several(self, name: str) -> tuple[Any, ...]:
        found = self._values.get(name)
        if found is None or found == "" or isinstance(found, bytes):
            return ()
        return found if isinstance(found, tuple) else (found,)


def _are_items(found: tuple[Any, ...]) -> bool:
    return all(isinstance(one, Elements) for one in found)
