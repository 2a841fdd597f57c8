"""Confounds of a recorded run, from a table with a line a volume. Pure."""

import csv
import math
from collections.abc import Collection, Sequence
from pathlib import Path

from runtime.errors import RecordingError


def confounds_from_table(
    text: str,
    names: Sequence[str],
    volumes: int,
    file: Path,
    missing: Collection[int] = (),
) -> tuple[dict[str, float], ...]:
    """Return the named columns of every volume.

    Args:
        text: Tab-separated, names in its first line.
        names: The columns wanted.
        volumes: How many the run has.
        file: Where the text is from, for the message.
        missing: Volumes whose line need hold no numbers; they have 0 for each.

    Raises:
        RecordingError: Another number of lines, or a value that is no number.
    """
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    if len(rows) != volumes:
        raise RecordingError(
            f"{file}: expected {volumes} lines, one a volume, found {len(rows)}"
        )
    return tuple(
        dict.fromkeys(names, 0.0)
        if volume in missing
        else {name: _number(file, volume + 2, name, row) for name in names}
        for volume, row in enumerate(rows)
    )


def _number(file: Path, line: int, name: str, row: dict[str, str | None]) -> float:
    text = row.get(name)
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        found = "no such column" if text is None else repr(text)
        raise RecordingError(
            f"{file}: expected a number for {name} in line {line}, found {found}"
        )
    return number
