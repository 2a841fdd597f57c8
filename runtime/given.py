"""What a program hands over, refused in a line where it can be nothing of the kind.

A command line converts and checks what it is given; a call from Python is checked here.
"""

from pathlib import Path

from runtime.arrays import is_number
from runtime.errors import UsageError


def folder_from(what: str, given: str | Path) -> Path:
    """Return the folder that a caller named.

    Raises:
        UsageError: It is no path, nor the text of one; an empty text is none, though
            `Path` takes it for the current folder.
    """
    if not isinstance(given, str | Path):
        raise UsageError(f"{what}: expected a path, found {type(given).__name__}")
    if given == "":
        raise UsageError(
            f'{what}: expected a path, found an empty text. Write "." for the current '
            "folder."
        )
    return Path(given)


def check_abstain_below(abstain_below: float) -> None:
    """Refuse a limit that no confidence can be held against: below NaN is none.

    Raises:
        UsageError: It is no number from 0 to 1.
    """
    if not (is_number(abstain_below) and 0 <= abstain_below <= 1):
        raise UsageError(
            f"abstain_below: expected 0 to 1, found {shown(abstain_below)}"
        )


def shown(number: object) -> str:
    """Spell what was to be a number so that a text of digits looks like none."""
    return str(number) if is_number(number) else repr(number)
