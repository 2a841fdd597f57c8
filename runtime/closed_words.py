"""What a field of a configuration may be and what it is, of an error that says one."""

import re
from typing import Any, Final

import msgspec

_UNKNOWN: Final = re.compile(r"Invalid enum value (.+) - at `\$((?:\.\w+)+)`")
_BEYOND: Final = re.compile(
    r"Expected `(int|float)` (>=|<=|>|<) ([-+.\w]+) - at `\$((?:\.\w+|\[\d+\])+)`"
)
_PLACE: Final = re.compile(r"\.(\w+)|\[(\d+)\]")
_NUMBERS: Final = {"int": "a whole number", "float": "a number"}
_LONGEST: Final = 40
"""Of a number that is shown; JSON's have no limit."""


def in_our_words(
    error: msgspec.DecodeError, kind: type[Any], data: bytes
) -> str | None:
    """Say what a field allows and what was found, of an error that says one of them.

    Args:
        error: What msgspec raised.
        kind: The struct that was to be decoded.
        data: The JSON that it was decoded from.

    Returns:
        One line, ``training.path: expected one of cos, linear, found magic`` or
        ``vae.voxels: expected a whole number >= 1, found 0``; None of any other error.
    """
    beyond = _BEYOND.fullmatch(str(error))
    if beyond is not None:
        number, sign, limit, place = beyond.groups()
        value = msgspec.Raw(data)
        for name, position in _PLACE.findall(place):
            if name:
                value = msgspec.json.decode(value, type=dict[str, msgspec.Raw])[name]
            else:
                value = msgspec.json.decode(value, type=list[msgspec.Raw])[
                    int(position)
                ]
        return (
            f"{place.removeprefix('.')}: expected {_NUMBERS[number]} {sign} {limit}, "
            f"found {bytes(value).decode()[:_LONGEST]}"
        )
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
