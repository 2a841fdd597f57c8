"""What a configuration may say where only some words are allowed. Pure."""

import re
from typing import Any, Final

import msgspec

_UNKNOWN: Final = re.compile(r"Invalid enum value (.+) - at `\$((?:\.\w+)+)`")


def in_our_words(error: msgspec.DecodeError, kind: type[Any]) -> str | None:
    """Say what a field allows, of an error that says only what it has found.

    Args:
        error: What msgspec raised.
        kind: The struct that was to be decoded.

    Returns:
        One line, ``training.path: expected one of cos, linear, found magic``; None of
        any other error.
    """
    match = _UNKNOWN.fullmatch(str(error))
    if match is None:
        return None
    names = match[2].removeprefix(".").split(".")
    allowed = _allowed(msgspec.inspect.type_info(kind), names)
    # As Python spells it, of a text with quotes around it.
    found = match[1][1:-1] if match[1][0] in "'\"" else match[1]
    return f"{'.'.join(names)}: expected one of {', '.join(allowed)}, found {found}"


def _allowed(kind: msgspec.inspect.Type, names: list[str]) -> list[str]:
    """Return the words of a field, by the names that lead to it."""
    if isinstance(kind, msgspec.inspect.UnionType):
        return [word for one in kind.types for word in _allowed(one, names)]
    if not names:
        if isinstance(kind, msgspec.inspect.LiteralType):
            return [str(word) for word in kind.values]
        return []
    if not isinstance(kind, msgspec.inspect.StructType):
        return []
    return [
        word
        for field in kind.fields
        if field.encode_name == names[0]
        for word in _allowed(field.type, names[1:])
    ]
