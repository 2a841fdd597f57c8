"""Which file of ``stimuli/`` a name means, and which names mean one picture.

Looks at what the file system says of files, never into one.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from runtime.errors import RecordingError

_Identity = tuple[int, int]
"""Device and number of a file: one, however many links and spellings lead to it."""


def picture_file(stimuli: Path, name: str) -> Path | None:
    """Return the file that a name means: itself, or with ``.png``; None if none is.

    A name that leads out of the folder means none.

    Args:
        stimuli: The folder of pictures.
        name: What `stim_id`, `stim_file` or ``gallery.tsv`` says.

    Raises:
        RecordingError: Both are there, and are two pictures.
    """
    path = Path(name)
    if not name or path.is_absolute() or ".." in path.parts:
        return None
    files = (stimuli / name, stimuli / f"{name}.png")
    # Unlike Path.is_file it says False, too, of a name that no file can have.
    there = [file for file in files if os.path.isfile(file)]
    if len(there) == 2 and identity(there[0]) != identity(there[1]):
        raise RecordingError(
            f"{there[0]}: expected one picture of this name, found {there[1].name} "
            "beside it, which is another. Rename one of the two"
        )
    return there[0] if there else None


def identity(file: Path) -> _Identity:
    """Return what tells a file from all others, and is the same for its every name."""
    found = file.stat()
    return found.st_dev, found.st_ino


def one_name_each(
    stimuli: Path, shown: Iterable[str], listed: Iterable[str]
) -> dict[str, str]:
    """Return by which name each picture goes, however trials name it.

    One that all trials name alike keeps that name. Else it is that of ``gallery.tsv``,
    or the shortest, so ``cat`` before ``cat.png``. A name that means no file of the
    folder stays as it is.

    Args:
        stimuli: The folder of pictures.
        shown: The names that trials have.
        listed: Those that ``gallery.tsv`` has.

    Raises:
        RecordingError: ``gallery.tsv`` has two names of one picture that trials name in
            several ways, or a name means two pictures.
    """
    rows: dict[_Identity, list[str]] = {}
    for name in dict.fromkeys(listed):
        if (of := _identity_of(stimuli, name)) is not None:
            rows.setdefault(of, []).append(name)
    goes_by = {name: name for name in shown}
    pictures: dict[_Identity, list[str]] = {}
    for name in goes_by:
        if (of := _identity_of(stimuli, name)) is not None:
            pictures.setdefault(of, []).append(name)
    for of, names in pictures.items():
        if len(names) == 1:
            continue
        known = rows.get(of, [])
        if len(known) > 1:
            raise RecordingError(
                f"{stimuli / 'gallery.tsv'}: expected one line for the picture that "
                f"trials show as {' and '.join(names)}, found {' and '.join(known)}, "
                "which are one file. Remove one of the two"
            )
        kept = known[0] if known else min(names, key=lambda name: (len(name), name))
        goes_by |= dict.fromkeys(names, kept)
    return goes_by


def _identity_of(stimuli: Path, name: str) -> _Identity | None:
    file = picture_file(stimuli, name)
    return None if file is None else identity(file)
