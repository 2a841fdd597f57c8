"""Tables with a data dictionary, and how they are spelled as TSV. Pure."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from bci_bridge.exports.text import NOT_AVAILABLE, SEPARATOR, joined, plain

Cell = str | int | float | None
Raw = Cell | tuple[str, ...] | tuple[int, ...]
Kind = Literal["text", "integer", "number"]


@dataclass(frozen=True, slots=True)
class Column:
    """What a column holds, and where that comes from."""

    name: str
    kind: Kind
    description: str
    value: Callable[[Any], Raw]
    """Reads it from the message that makes the row; several texts share a cell."""
    units: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows; texts are escaped."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def table_of(columns: Iterable[Column], messages: Iterable[object]) -> Table:
    """Read one row from each message."""
    columns = tuple(columns)
    return Table(
        columns,
        tuple(
            tuple(_safe(column.value(message)) for column in columns)
            for message in messages
        ),
    )


def tsv_of(table: Table) -> str:
    """Spell a table as BIDS does: tabs, line feeds and n/a, no quotation marks."""
    lines = ["\t".join(column.name for column in table.columns)]
    lines += ["\t".join(map(_spelled, row)) for row in table.rows]
    return "\n".join(lines) + "\n"


def dictionary_of(table: Table) -> dict[str, dict[str, str]]:
    """Describe the columns as a BIDS sidecar does."""
    return {
        column.name: {
            "Description": column.description,
            **({"Units": column.units} if column.units else {}),
        }
        for column in table.columns
    }


def _safe(raw: Raw) -> Cell:
    if isinstance(raw, str):
        return plain(raw)
    if isinstance(raw, tuple):
        # Numbers as they are: a minus at their beginning is no formula.
        texts = [joined([one]) if isinstance(one, str) else str(one) for one in raw]
        return SEPARATOR.join(texts)
    if isinstance(raw, float) and not math.isfinite(raw):
        return None
    return raw


def _spelled(cell: Cell) -> str:
    if cell is None or cell == "":
        return NOT_AVAILABLE
    return repr(cell) if isinstance(cell, float) else str(cell)
