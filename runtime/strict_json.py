"""JSON in which every key is said once, into typed structs.

Of a key that is said twice one reader takes the first and another the last, so that the
same hash would name two contents. Pure: bytes in, structs out.
"""

import json
import re
from typing import Any, Final, TypeVar

import msgspec

from runtime.errors import BundleError

T = TypeVar("T")

_VERSION: Final = re.compile(r"Invalid enum value (.+) - at `\$\.schema_version`")
_FIELD: Final = re.compile(r"Object contains (unknown field `.*)", re.DOTALL)
_OTHER: Final = "another version of neuroflow-rt"
_REMEDY: Final = "use that one, or make it again with this one."


def decode_once(data: bytes, kind: type[T], what: str) -> T:
    """Decode JSON of a known type.

    Args:
        data: The text.
        kind: A struct that forbids unknown fields, which bounds the nesting.
        what: File that it came from, for the message.

    Raises:
        BundleError: Not JSON, not of this type, or a key said twice.
    """
    try:
        found = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{what}: {_said(error, kind)}") from error
    check_keys(data, what)
    return found


def _said(error: Exception, kind: type[Any]) -> str:
    """Return what an error says, with a remedy where another version may have written.

    Its schema's number may be the same: a field that is new to us is its only sign.
    """
    version, field = (one.fullmatch(str(error)) for one in (_VERSION, _FIELD))
    if version is not None:
        fields = msgspec.structs.fields(kind)
        ours = next(one.default for one in fields if one.name == "schema_version")
        return (
            f"schema_version: expected {ours}, found {version[1]}. It is of {_OTHER}: "
            f"{_REMEDY}"
        )
    if field is not None:
        return (
            f"expected fields that this version knows, found {field[1]}. Perhaps it is "
            f"of {_OTHER}: {_REMEDY}"
        )
    return str(error)


def check_keys(data: bytes, what: str) -> None:
    """Refuse JSON that says a key twice in one object.

    Raises:
        BundleError: It does, or it is not JSON.
    """
    try:
        json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{what}: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"expected every key once, found {twice!r} twice")
    return found
