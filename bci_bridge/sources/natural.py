"""The order of names with numbers in them: run9 comes before run10."""

import re
from typing import Final

_NUMBERS: Final = re.compile(r"([0-9]+)")


def natural(name: str) -> tuple[str | int, ...]:
    """Return what sorts names by the words and the numbers in them."""
    parts = _NUMBERS.split(name)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts))
