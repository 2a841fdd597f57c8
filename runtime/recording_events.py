"""A BIDS run's `_events.tsv`: what was shown when, or one line that says what is wrong.

Knows no image and no run: whether an onset lies within its run, its reader says. Of
pictures it asks only whether they are there.
"""

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from runtime.errors import RecordingError
from runtime.picture_names import identity, picture_file
from runtime.recording_run import RecordedEvent, text_of

_TIMES: Final = ("onset", "duration")
_MARK: Final = "\ufeff"
"""What some spreadsheets write before UTF-8."""


def read_events(file: Path, stimuli: Path) -> tuple[RecordedEvent, ...]:
    """Read a table of events; one without a line below its head has none.

    A picture that is shown needs a duration above 0, because a beta is in units of the
    response to a stimulus that lasts, and a split where the table has that column.

    Args:
        file: The table.
        stimuli: The folder in which `stim_file` names a file.

    Raises:
        RecordingError: The table is empty, has no `onset` or `duration`, a line is
            short, or what it says cannot be, such as two pictures at once. The message
            names the line.
    """
    events: list[RecordedEvent] = []
    lines: dict[str, int] = {}
    shown: dict[tuple[float, object], int] = {}
    for number, (line, row) in enumerate(_rows(file)):
        event = _event(f"{file}: line {line}", number, row, stimuli)
        if event.trial_id in lines:
            raise RecordingError(
                f"{file}: expected each trial_id once, found {event.trial_id} twice"
            )
        lines[event.trial_id] = line
        found = picture_file(stimuli, event.stimulus_id)
        of = event.stimulus_id if found is None else identity(found)
        picture = (event.onset_s, of)
        if event.stimulus_id and picture in shown:
            raise RecordingError(
                f"{file}: line {line}: expected another onset or picture than in line "
                f"{shown[picture]}, found {event.stimulus_id} at {event.onset_s:g} s "
                "again. Remove one of the two"
            )
        shown[picture] = line
        events.append(event)
    return tuple(events)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield every line's number, from 1, and its cells; unknown ones are empty."""
    text = text_of(file).removeprefix(_MARK)
    table = csv.reader(text.splitlines(), delimiter="\t")
    head = next(table, [])
    if not head:
        raise RecordingError(
            f"{file}: expected a table with the columns onset and duration, found it "
            "empty. Copy it again"
        )
    if missing := [name for name in _TIMES if name not in head]:
        raise RecordingError(
            f"{file}: columns: expected {' and '.join(missing)}, separated by tabs, "
            f"found {', '.join(repr(name) for name in head)}"
        )
    for cells in table:
        if not cells:
            continue
        if len(cells) != len(head):
            raise RecordingError(
                f"{file}: line {table.line_num}: expected {len(head)} columns as in "
                f"the first line, found {len(cells)}. The file may be cut; copy it "
                "again"
            )
        # BIDS writes n/a for what is unknown.
        known = ("" if cell == "n/a" else cell for cell in cells)
        yield table.line_num, dict(zip(head, known, strict=True))


def _event(
    place: str, number: int, row: Mapping[str, str], stimuli: Path
) -> RecordedEvent:
    onset_s, duration_s = (_seconds(place, name, row[name]) for name in _TIMES)
    name, shown = row.get("stim_id", ""), row.get("stim_file", "")
    _refuse_two_pictures(place, name, shown, stimuli)
    stimulus = _stimulus(name, shown, stimuli)
    if duration_s < 0:
        raise RecordingError(
            f"{place}: duration: expected 0 or more seconds, found {duration_s:g}"
        )
    if stimulus and duration_s == 0:
        raise RecordingError(
            f"{place}: duration: expected more than 0 seconds for a picture, found 0. "
            "Write how long it was shown"
        )
    if stimulus and "split" in row and not row["split"].strip():
        raise RecordingError(
            f"{place}: split: expected a name for a picture, as the table has this "
            "column, found none"
        )
    return RecordedEvent(
        onset_s=onset_s,
        duration_s=duration_s,
        trial_id=row.get("trial_id") or f"trial-{number:03}",
        stimulus_id=stimulus,
        trial_type=row.get("trial_type") or "",
        split=row.get("split") or "",
    )


def _refuse_two_pictures(place: str, name: str, file: str, stimuli: Path) -> None:
    by_id, by_file = picture_file(stimuli, name), picture_file(stimuli, file)
    if by_id is None or by_file is None or identity(by_id) == identity(by_file):
        return
    raise RecordingError(
        f"{place}: expected stim_id and stim_file to name one picture, found {name} "
        f"and {file}, which are two that are there. Correct or empty one of the two "
        "cells"
    )


def _stimulus(name: str, file: str, stimuli: Path) -> str:
    """Return what was shown: the file that is there, or else the identifier.

    An identifier need not be the name of a file; where it is that of this file but for
    ``.png``, it stands, because ``gallery.tsv`` knows pictures by it.
    """
    if file and file not in (name, f"{name}.png") and (stimuli / file).is_file():
        return file
    return name or file


def _seconds(place: str, name: str, cell: str) -> float:
    try:
        seconds = float(cell)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise RecordingError(
            f"{place}: expected onset and duration in seconds, found {name} "
            f"{cell or 'n/a'!r}"
        )
    return seconds
