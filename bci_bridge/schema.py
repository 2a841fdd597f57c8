"""The wire as a JSON Schema, made from the types: ``python -m bci_bridge.schema``.

The headers travel as msgpack; their maps, names, types and ranges are those of this
schema. What a schema cannot say (frames, CRC, sequences) is in `docs/wire.md`.
"""

import json
import sys
import types
from typing import Any, Final, get_args

import msgspec

from bci_bridge.header import VERSION, Header
from bci_bridge.messages import Message

TITLE: Final = f"NeuroFlow wire, version {VERSION}: the record of a header frame"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def message_types() -> tuple[type[Header], ...]:
    """List the types of all messages, in the order of the union."""
    if not isinstance(Message, types.UnionType):
        raise TypeError(f"messages: expected a union, found {Message!r}")
    return get_args(Message)


def schema() -> dict[str, Any]:
    """Make the schema of any one message."""
    (union,), components = msgspec.json.schema_components(
        (Message,), ref_template="#/$defs/{name}"
    )
    return {"$schema": DIALECT, "title": TITLE, **union, "$defs": components}


def text() -> str:
    """Write it as it is committed: sorted, so that a difference shows what changed."""
    return json.dumps(schema(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
