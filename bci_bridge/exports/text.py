"""Text from the wire in files that other software splits at tabs and line breaks.

Pure. What peers write as free text is data and must stay data: a tab would begin a new
cell, a quotation mark swallow the rest of a line, a leading ``=`` run in a spreadsheet.
"""

import unicodedata
from collections.abc import Iterable
from typing import Final

NOT_AVAILABLE: Final = "n/a"
SEPARATOR: Final = ";"
UNKNOWN: Final = "unknown"

_NAMED: Final = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_FORMULA: Final = "=+-@"


def plain(text: str) -> str:
    r"""Escape what is no printable character, and what a reader takes for syntax.

    Backslash, tab and line breaks become ``\\``, ``\t``, ``\n`` and ``\r``, others
    ``\xNN``, ``\uNNNN`` or ``\UNNNNNNNN``, so that no two texts become equal.
    """
    if text == NOT_AVAILABLE:
        return "n\\x2fa"
    last = len(text) - 1
    return "".join(
        _escaped(one)
        if _is_syntax(one)
        or (at == 0 and one in _FORMULA)
        or (at in (0, last) and one.isspace())
        else one
        for at, one in enumerate(text)
    )


def joined(texts: Iterable[str]) -> str:
    """Put several texts into one cell, in which only semicolons part them."""
    return SEPARATOR.join(plain(text).replace(SEPARATOR, "\\x3b") for text in texts)


def safe_name(name: str) -> str:
    """Give a run's name for a file or a group; no two alike.

    The wire's names hold no slash, but one that begins with a dot is a path or hidden.
    """
    return name if name[:1].isalnum() else f"_{name}"


def labels(names: Iterable[str], prefix: str) -> dict[str, str]:
    """Give each name a BIDS label: letters and digits, no two alike.

    Args:
        names: As the wire gave them; an empty one becomes ``unknown``.
        prefix: The entity, which some write before their labels, as in ``sub-01``.

    Returns:
        Label by name. Labels differ in more than the case of their letters, because
        some file systems know no other difference.
    """
    bare = {name: _alphanumeric(name.removeprefix(f"{prefix}-")) for name in names}
    made: dict[str, str] = {}
    taken: set[str] = set()
    # A name that needs no change keeps its own label, whoever came first.
    for name in sorted(bare, key=lambda one: (bare[one] != one, one)):
        label, count = bare[name], 1
        while label.lower() in taken:
            count += 1
            label = f"{bare[name]}x{count}"
        taken.add(label.lower())
        made[name] = label
    return made


def _alphanumeric(name: str) -> str:
    kept = "".join(one for one in name if one.isascii() and one.isalnum())
    return kept or UNKNOWN


def _is_syntax(one: str) -> bool:
    category = unicodedata.category(one)
    return one in '\\"' or category[0] == "C" or category in ("Zl", "Zp")


def _escaped(one: str) -> str:
    code = ord(one)
    if one in _NAMED:
        return _NAMED[one]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
