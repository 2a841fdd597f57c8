"""JSON in which every key is said once, into typed structs.

Of a key that is said twice one reader takes the first and another the last, so that the
same hash would name two contents. Pure: bytes in, structs out.
"""

import json
from typing import Any, TypeVar

import msgspec

from runtime.errors import BundleError

T = TypeVar("T")


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
        raise BundleError(f"{what}: {error}") from error
    check_keys(data, what)
    return found


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
