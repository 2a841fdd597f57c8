"""The chain of a log's segments: each link holds the hash of the one before.

What was recorded can then not be changed, removed or put elsewhere in one place alone:
everything after it would have to be made anew, up to the head, which fits on a note.
Pure: names, sizes and hashes in, values out. `bci_bridge.chain_file` reads and writes.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, structs

from bci_bridge.segment_name import PATTERN, not_a_segment, segment_number
from runtime import small_json
from runtime.errors import RecordingError

CHAIN: Final = "segments.json"
MAX_CHAIN_BYTES: Final = 64 << 20
"""Of the file; a terabyte of segments takes 5 MB."""
BEGIN: Final = "0" * 64
"""Stands for the link before the first."""

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Link(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One segment that nothing is written to any more."""

    segment: Annotated[str, Meta(pattern=PATTERN)]
    size: Annotated[int, Meta(ge=0)]
    sha256: Sha256
    """Of the whole file."""
    chain: Sha256
    """Of the link before and all of this."""

    @property
    def number(self) -> int:
        """The segment's place in the log."""
        return number_of(self.segment)


class Chain(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `segments.json` holds."""

    version: Literal[1] = 1
    links: tuple[Link, ...] = ()

    @property
    def head(self) -> str:
        """What all of the recording follows from."""
        return self.links[-1].chain if self.links else BEGIN

    @property
    def last(self) -> int:
        """Number of the last segment; -1 before the first."""
        return self.links[-1].number if self.links else -1

    def head_after(self, count: int) -> str:
        """What the first so many segments follow from."""
        return self.links[count - 1].chain if count else BEGIN

    def with_segment(self, segment: str, size: int, sha256: str) -> "Chain":
        """Add a link at the end."""
        chain = _hashed(self.head, segment, size, sha256)
        link = Link(segment=segment, size=size, sha256=sha256, chain=chain)
        return structs.replace(self, links=(*self.links, link))


def number_of(segment: str) -> int:
    """Return the number in a segment's name; -1 where that is none."""
    number = segment_number(segment)
    return -1 if number is None else number


def _hashed(before: str, segment: str, size: int, sha256: str) -> str:
    text = f"neuroflow recording 1\n{before}\n{segment}\n{size}\n{sha256}\n"
    return hashlib.sha256(text.encode()).hexdigest()


def first_break(chain: Chain, found: Mapping[str, tuple[int, str]]) -> str:
    """Name the first segment that does not fit; empty where all do.

    Args:
        chain: As it was read.
        found: Size and sha256 of each segment that is there. One after the last link is
            no break: nobody has vouched for it yet.
    """
    before, last, listed = BEGIN, -1, {link.segment for link in chain.links}
    strangers = [name for name in sorted(found, key=number_of) if name not in listed]
    for name in strangers:
        if number_of(name) < 0:
            return not_a_segment(name)
    for link in chain.links:
        for name in strangers:
            if last < number_of(name) < link.number:
                return f"{name}: expected no such segment, found one"
        if link.number <= last:
            return f"{link.segment}: expected a number above {last:06d}, found it after"
        expected = _hashed(before, link.segment, link.size, link.sha256)
        if link.chain != expected:
            return f"{link.segment}: expected chain {expected}, found {link.chain}"
        if link.segment not in found:
            return f"{link.segment}: expected a segment, found none"
        size, sha256 = found[link.segment]
        if size != link.size:
            return f"{link.segment}: expected {link.size} bytes, found {size}"
        if sha256 != link.sha256:
            return f"{link.segment}: expected sha256 {link.sha256}, found {sha256}"
        before, last = link.chain, link.number
    return ""


def decoded(data: bytes, source: str) -> Chain:
    """Read a chain.

    Raises:
        RecordingError: It is none.
    """
    return small_json.decoded(
        data, Chain, source, most_bytes=MAX_CHAIN_BYTES, error=RecordingError
    )
