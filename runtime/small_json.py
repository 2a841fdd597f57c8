"""Small typed JSON files that people read too: keys, signatures, chains.

Pure: bytes in, structs out. Nothing of a file's values is ever in a message, because
some are secrets.
"""

from typing import TypeVar

import msgspec
from msgspec import Struct

from runtime.errors import NeuroFlowError

T = TypeVar("T")


def decoded(
    data: bytes,
    kind: type[T],
    source: str,
    *,
    most_bytes: int,
    error: type[NeuroFlowError],
) -> T:
    """Read one file; whatever is not exactly of its kind is refused.

    Args:
        data: The file's bytes.
        kind: A struct that forbids unknown fields.
        source: Name of the file for the message.
        most_bytes: What such a file takes at most.
        error: Raised where it is none.

    Raises:
        NeuroFlowError: `error`, in one line.
    """
    if len(data) > most_bytes:
        raise error(f"{source}: expected at most {most_bytes} bytes, found more")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as found:
        # One line, whatever name of a field it quotes.
        why = " ".join(str(found).split())
        raise error(f"{source}: damaged: {why}") from found


def encoded(record: Struct) -> bytes:
    """Write one, indented."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
