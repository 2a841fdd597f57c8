"""Limits of a server that few need to change: ``--limit NAME=NUMBER`` of `serve`."""

from typing import Final

import msgspec

from bci_bridge.settings import ServeConfig
from runtime.errors import UsageError

NAMES: Final = ("memory_mb", "worker_memory_mb", "rate_per_s", "burst")


def with_limits(config: ServeConfig, limits: tuple[str, ...]) -> ServeConfig:
    """Return a configuration with some limits of its own.

    Args:
        config: All else.
        limits: Of each its name, an equals sign, and a number.

    Raises:
        UsageError: Another name, one twice, or no number within its range.
    """
    found: dict[str, int] = {}
    for one in limits:
        name, _, text = one.partition("=")
        if name not in NAMES or name in found:
            raise UsageError(
                f"--limit: expected NAME=NUMBER with each of {', '.join(NAMES)} once "
                f"at most, found {one}"
            )
        low, high = _range_of(name)
        value = int(text) if text.isascii() and text.isdigit() else -1
        if not low <= value <= high:
            raise UsageError(
                f"--limit {name}: expected a whole number from {low:,} to {high:,}, "
                f"found {text or 'nothing'}"
            )
        found[name] = value
    return msgspec.structs.replace(config, **found)


def _range_of(name: str) -> tuple[int, int]:
    """Read the range off the configuration's own type."""
    kind = msgspec.inspect.type_info(ServeConfig)
    if not isinstance(kind, msgspec.inspect.StructType):
        raise TypeError(f"expected a struct, found {kind}")
    field = next(one for one in kind.fields if one.name == name)
    union = field.type
    choices = union.types if isinstance(union, msgspec.inspect.UnionType) else (union,)
    for choice in choices:
        if isinstance(choice, msgspec.inspect.IntType):
            return choice.ge or 0, choice.le or 0
    raise TypeError(f"{name}: expected a whole number, found {union}")
