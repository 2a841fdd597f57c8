"""What is written about the wire for other languages is what the types say."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from bci_bridge import acquisitions, header, leases, protocol, publisher, schema, wire
from bci_bridge.authority import SAYS
from bci_bridge.header import Header, RejectReason, VoxelType
from bci_bridge.messages import Hello
from bci_bridge.outcomes import Outcome

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "wire.md").read_text("utf-8")
FLAT = " ".join(TEXT.split())
TYPES = {kind.__struct_config__.tag: kind for kind in schema.message_types()}


def rows(first):
    """The rows of the table whose head begins with a word, as lists of cells."""
    lines = TEXT[TEXT.index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def names(text):
    return re.findall(r"`([a-z0-9_]+)`", text)


def test_the_committed_schema_is_the_one_of_the_types():
    assert (DOCS / "wire.schema.json").read_text("utf-8") == schema.text()


def test_every_reference_of_the_schema_leads_to_a_definition():
    found = schema.schema()
    references = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(found)))

    assert len(found["anyOf"]) == len(TYPES)
    assert references <= set(found["$defs"])


def test_the_table_lists_every_kind_with_its_own_fields():
    table = {row[0]: row for row in rows("kind")}

    assert list(table) == list(TYPES)
    for tag, kind in TYPES.items():
        base = Outcome if issubclass(kind, Outcome) else Header
        own = [f for f in kind.__struct_fields__ if f not in base.__struct_fields__]
        assert names("".join(table[tag][2:])) == own, tag


def test_the_table_names_the_role_that_a_key_needs():
    said = {row[0]: row[1] for row in rows("kind")}
    roles = {"scanner", "stimulus", "observer", "operator"}

    assert {tag: role for tag, role in said.items() if role in roles} == {
        kind.__struct_config__.tag: role for kind, role in SAYS.items()
    }
    assert {tag for tag, who in said.items() if who == "server"} >= {
        tag for tag, kind in TYPES.items() if issubclass(kind, Outcome)
    }


def test_the_shared_fields_are_all_described():
    fields = [row[0].strip("`") for row in rows("field")]
    shared = [f for f in Outcome.__struct_fields__ if f not in Header.__struct_fields__]

    assert fields == ["kind", *Header.__struct_fields__]
    assert all(f"`{field}`" in FLAT for field in shared)


@pytest.mark.parametrize(
    "statement",
    [
        f"A header of a peer has at most {wire.INPUT_HEADER_BYTES} bytes",
        f"one of the server at most {wire.OUTCOME_HEADER_BYTES};",
        f"at most {header.MAX_PAYLOAD_BYTES} bytes",
        f"the server takes {header.VERSION} or",
        f"up to {protocol.MAX_AHEAD} beyond",
        f"at least every {leases.LEASE_NS // 10**9} seconds",
        f"beyond {leases.MAX_PEERS} peers, or {leases.MOST_OF_A_KEY} of one key",
        f"more than {acquisitions._FUTURE_NS // 10**9} s ahead",
        f"more than {acquisitions._EARLY_TRS} TRs before",
        f"may be {acquisitions._OVERDUE_NS // 10**9} s older",
        f"every {publisher.HEARTBEAT_NS // 10**6} ms",
        f"one of {', '.join(f'`{name}`' for name in get_args(VoxelType))};",
        ", ".join(f"`{name}`" for name in get_args(RejectReason)),
    ],
)
def test_a_figure_of_the_document_is_the_one_of_the_code(statement):
    assert statement in FLAT


def test_the_example_is_a_message():
    block = re.search(r"```text\n([0-9a-f\n]+)```", TEXT)
    example = bytes.fromhex(block[1].replace("\n", ""))

    assert f"{len(example)} bytes long" in FLAT
    assert example[:1] == b"\x92"
    assert example[-6:-4] == b"\xc4\x04"
    envelope = wire.decode([example, b""])
    assert envelope.record == Hello(role="observer", software="example")
