"""Siemens' CSA header: named lists of texts within an element of a DICOM file.

Layout as measured on files of Siemens' software E11: ``SV10``, four bytes, the number
of tags, 77; then each tag's name, multiplicity, representation, kind, number of items,
a mark; then each item's length and bytes, padded to a multiple of four. Little endian.
Every length is held against what is left before it is believed. Pure.
"""

import struct
from collections.abc import Set as AbstractSet
from typing import Final

from runtime.errors import ScanError

MAGIC: Final = b"SV10"
MAX_TAGS: Final = 1024
MAX_ITEMS: Final = 4096
"""Far above what a console writes: about 100 tags, and an item for each slice."""

_TAG: Final = struct.Struct("<64s i 4s 3i")
_ITEM: Final = struct.Struct("<4i")


def csa_values(header: bytes, wanted: AbstractSet[str]) -> dict[str, tuple[str, ...]]:
    """Return the texts of the tags that are asked for; empty items are left out.

    It reads no further than to the last of them.

    Raises:
        ScanError: The header is not of this layout.
    """
    if header[:4] != MAGIC or len(header) < 16:
        raise ScanError("CSA header: expected one that begins with SV10, found another")
    (count,) = struct.unpack_from("<i", header, 8)
    if not 0 < count <= MAX_TAGS:
        raise ScanError(f"CSA header: expected 1 to {MAX_TAGS} tags, found {count}")
    found: dict[str, tuple[str, ...]] = {}
    at = 16
    for _ in range(count):
        if len(found) == len(wanted):
            break
        at = _require(header, at, _TAG.size)
        name, _, _, _, items, _ = _TAG.unpack_from(header, at - _TAG.size)
        if not 0 <= items <= MAX_ITEMS:
            raise ScanError(
                f"CSA header: expected at most {MAX_ITEMS} items, found {items}"
            )
        ends = []
        for _ in range(items):
            at = _require(header, at, _ITEM.size)
            size = _ITEM.unpack_from(header, at - _ITEM.size)[1]
            if size < 0:
                raise ScanError(f"CSA header: expected a length, found {size}")
            ends.append((at, _require(header, at, size)))
            # Beyond the end is met by the next read, if there is one.
            at += -(-size // 4) * 4
        key = _text(name)
        if key in wanted:
            texts = [_text(header[begin:end]) for begin, end in ends]
            found[key] = tuple(text for text in texts if text)
    return found


def _require(header: bytes, at: int, size: int) -> int:
    if at + size > len(header):
        raise ScanError(f"CSA header: expected {at + size} bytes, found {len(header)}")
    return at + size


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("latin-1").strip()
