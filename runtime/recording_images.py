"""Which images of a BIDS folder are runs: of each run one, and of that its magnitude.

What was acquired once may lie there several times: by echo, by part of its complex
values, by reconstruction. Each such image has the same events, and would count as a
repeat of the same trials. Looks at names only, never into a file.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from runtime.errors import RecordingError
from runtime.image_file import image_stem

_RUN: Final = ("sub", "ses", "task", "acq", "ce", "dir", "run")
"""What tells one acquisition from another, by the standard."""
_VERSION: Final = ("echo", "part", "rec")
"""What tells images of one acquisition from each other, by the standard."""

LeftOut = dict[str, list[str]]
"""Names of what is no run of its own, by why."""


def labels_of(file: Path) -> dict[str, str]:
    """Return the labels in an image's name by their entities: ``01`` by ``sub``."""
    pairs = (part.partition("-") for part in image_stem(file).split("_"))
    return {entity: label for entity, dash, label in pairs if dash}


def one_image_a_run(
    files: Iterable[Path], events_of: Callable[[Path], Path | None]
) -> tuple[list[Path], LeftOut]:
    """Return the image to read of each run, in order, and what is left out.

    Taken is the magnitude, of the first echo, as the scanner reconstructed it first.

    Args:
        files: All images of runs.
        events_of: Finds the events of an image.

    Raises:
        RecordingError: It cannot be told which image of a run that is, or two that
            differ in what the standard does not know have the very same events.
    """
    versions: dict[tuple[object, ...], list[Path]] = {}
    for file in files:
        others = {k: v for k, v in labels_of(file).items() if k not in _VERSION}
        key = (file.parent, *sorted(others.items()))
        versions.setdefault(key, []).append(file)
    left_out: LeftOut = {}
    taken = [_one_of(several, left_out) for several in versions.values()]
    _refuse_same_events(taken, events_of)
    return sorted(taken), left_out


def said_of(left_out: LeftOut) -> str:
    """Say what was left out and why, in one line; empty where nothing was."""
    said = (
        f"{len(names)} {why} (such as {names[0]})" for why, names in left_out.items()
    )
    return f"images left out: {', '.join(said)}" if left_out else ""


def _one_of(several: list[Path], left_out: LeftOut) -> Path:
    magnitude = _keep(
        several,
        lambda labels: labels.get("part", "mag") == "mag",
        "of phase or another part of complex values",
        left_out,
    )
    if not magnitude:
        raise RecordingError(
            f"{several[0]}: expected the magnitude of this run beside it, found none. "
            "Take it out of the folder, or add the magnitude"
        )
    first = magnitude
    if any("rec" not in labels_of(file) for file in magnitude):
        first = _keep(
            magnitude,
            lambda labels: "rec" not in labels,
            "of a further reconstruction",
            left_out,
        )
    numbers = [labels_of(file).get("echo", "") for file in first]
    # Where another than all of them is numbered, the rest may be made of these.
    if all(number.isdecimal() for number in numbers):
        lowest = min(map(int, numbers))
        first = _keep(
            first,
            lambda labels: int(labels["echo"]) == lowest,
            "of a further echo",
            left_out,
        )
    if len(first) > 1:
        raise RecordingError(
            f"{first[1]}: expected one image of a run, found {first[0].name} beside "
            "it, of the same acquisition. Take one of the two out of the folder"
        )
    return first[0]


def _keep(
    files: list[Path],
    is_kept: Callable[[dict[str, str]], bool],
    why: str,
    left_out: LeftOut,
) -> list[Path]:
    kept = [file for file in files if is_kept(labels_of(file))]
    # Where nothing is kept it is refused, and nothing is left out.
    for file in files if kept else ():
        if file not in kept:
            left_out.setdefault(why, []).append(file.name)
    return kept


def _refuse_same_events(
    taken: list[Path], events_of: Callable[[Path], Path | None]
) -> None:
    """Refuse what may be versions of one run that the standard has no word for."""
    runs: dict[tuple[object, ...], list[Path]] = {}
    for file in taken:
        labels = labels_of(file)
        key = (file.parent, *(labels.get(entity) for entity in _RUN))
        runs.setdefault(key, []).append(file)
    for files in runs.values():
        seen: dict[Path, Path] = {}
        for file in files if len(files) > 1 else ():
            events = events_of(file)
            if events is None:
                continue
            if events in seen:
                raise RecordingError(
                    f"{file}: expected events of its own, or another run- in its "
                    f"name, found {events.name} for {seen[events].name} too, which "
                    "may be the same run. Take one of the two out of the folder"
                )
            seen[events] = file
