"""What a segment is called: its place in the log, and one name for each place.

The only statement of it: who writes, follows, chains, reads or exports a log asks here.
Were there two names for one place, a run could be slipped in between two segments that
a chain vouches for. Pure: names and numbers.
"""

import re
from typing import Final

PATTERN: Final = r"^([0-9]{6}|[1-9][0-9]{6,17})\.mcap\Z"
"""Six digits; more only where the number needs them."""

_SUFFIX: Final = ".mcap"
_NAME: Final = re.compile(PATTERN)


def segment_name(number: int) -> str:
    """Name the segment at a place of its log, counted from 0."""
    return f"{number:06d}{_SUFFIX}"


def segment_number(name: str) -> int | None:
    """Give the place of a segment; None where no writer gives a file this name."""
    return int(name.removesuffix(_SUFFIX)) if _NAME.match(name) else None


def is_stranger(name: str) -> bool:
    """Say whether a file passes for a segment and is none."""
    return name.lower().endswith(_SUFFIX) and segment_number(name) is None


def not_a_segment(name: str) -> str:
    """Refuse a file that passes for a segment, in one line whatever it is called."""
    shown = name if name.isprintable() else ascii(name)
    return (
        f"{shown}: expected segments alone, named like {segment_name(0)}, found "
        "another file. Move it out of the recording."
    )
