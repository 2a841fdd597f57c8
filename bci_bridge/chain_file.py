"""`segments.json` beside a log's segments: kept by its writer, checked by a reader.

Only what is finished is chained: the writer's thread that syncs hashes a few megabytes
at a time, so that what waits to become durable never waits for a whole segment. What a
killed writer left is chained by the next one, before anything of its own.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bci_bridge.chain import (
    CHAIN,
    MAX_CHAIN_BYTES,
    Chain,
    decoded,
    first_break,
    number_of,
)
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.recorded_file import open_recorded
from bci_bridge.recording_folder import segments_of, strangers_in
from bci_bridge.segment_name import not_a_segment
from runtime.errors import ArtifactError, RecordingError
from runtime.private_file import replace_whole
from runtime.small_json import encoded

STEP_BYTES: Final = 8 << 20
"""Hashed between two syncs; about ten milliseconds."""
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Checked:
    """What a log's chain says of its segments.

    Attributes:
        segments: How many are chained and fit.
        head: Hash that all of them follow from.
        unchained: Segments after the last link, for which nobody has vouched.
        trouble: The first that does not fit, or why there is no chain; empty if none.
            Of `check_chain` also a file that passes for a segment and is none.
        has_chain: False where the log has none at all.
        chain: As it was read.
        strangers: What passes for a segment and is none; `check_chain` looks for them.
    """

    segments: int
    head: str
    unchained: tuple[str, ...]
    trouble: str
    has_chain: bool = True
    chain: Chain = field(default_factory=Chain)
    strangers: tuple[str, ...] = ()


class Chainer:
    """Chains finished segments; only one thread uses it.

    A chain that cannot be read or written is left as it is found: it is evidence, and
    the recording itself goes on.
    """

    def __init__(self, folder: Path, *, is_kept: bool = True) -> None:
        """Begin with what earlier writers left.

        Args:
            folder: Of the log; this process is its only writer.
            is_kept: False where old segments are removed: nothing is chained then.
        """
        self._folder, self._is_kept = folder, is_kept
        self._waiting = _names(folder) if is_kept else []
        self._chain: Chain | None = None
        self._hashing: Iterator[int] | None = None

    @property
    def last(self) -> int:
        """Number of the last segment on the chain; -1 where there is none to read."""
        try:
            return _read(self._folder).last if self._is_kept else -1
        except (OSError, ArtifactError):
            return -1

    def add(self, path: Path) -> None:
        """Take in a segment that nothing is written to any more."""
        if self._is_kept and path.parent == self._folder:
            self._waiting.append(path.name)

    def step(self, max_bytes: int = STEP_BYTES) -> bool:
        """Hash some bytes; say whether there is more to do."""
        if not self._waiting:
            return False
        try:
            if self._chain is None:
                self._chain = _read(self._folder)
            self._hash(self._chain, max_bytes)
        except (OSError, ArtifactError):
            self._is_kept, self._waiting = False, []
        return bool(self._waiting)

    def finish(self) -> None:
        """Chain all that waits."""
        while self.step():
            pass

    def _hash(self, chain: Chain, max_bytes: int) -> None:
        name = self._waiting[0]
        if number_of(name) <= chain.last:
            self._waiting.pop(0)
            return
        if self._hashing is None:
            self._digest = hashlib.sha256()
            self._size = 0
            self._hashing = _hashed(self._folder / name, self._digest)
        for read in self._hashing:
            self._size += read
            max_bytes -= read
            if max_bytes <= 0:
                return
        self._hashing = None
        self._waiting.pop(0)
        chain = chain.with_segment(name, self._size, self._digest.hexdigest())
        replace_whole(self._folder / CHAIN, encoded(chain), 0o600)
        self._chain = chain


def check_chain(folder: Path) -> Checked:
    """Hold a log's segments against its chain.

    Args:
        folder: Of the log; a writer may still be at it.

    Raises:
        RecordingError: A segment cannot be read.
    """
    has_chain = os.path.lexists(folder / CHAIN)
    try:
        # The chain first: a segment that is chained meanwhile is only one too many.
        chain = _read(folder)
    except RecordingError as error:
        return Checked(0, "", (), str(error))
    names, found = _names(folder), {}
    for name in names:
        digest, size = hashlib.sha256(), 0
        try:
            for read in _hashed(folder / name, digest):
                size += read
        except OSError as error:
            raise RecordingError(
                f"{folder / name}: expected a segment, found {error.strerror}"
            ) from error
        found[name] = size, digest.hexdigest()
    after = tuple(name for name in names if number_of(name) > chain.last)
    strangers = strangers_in(folder)
    trouble = first_break(chain, found)
    if strangers and not trouble:
        trouble = not_a_segment(strangers[0])
    elif not has_chain:
        trouble = f"{CHAIN}: expected the chain of the segments, found none"
    return Checked(
        len(chain.links), chain.head, after, trouble, has_chain, chain, strangers
    )


def changes_in(recording: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Hold both logs of a recording against their chains.

    Returns:
        What does not fit, one line a log; and of each log without a chain that it has
        none: made before there were chains, killed in its first segment, or removed.

    Raises:
        RecordingError: A segment cannot be read.
    """
    changed: list[str] = []
    unproved: list[str] = []
    for log in (INPUTS, OUTCOMES):
        checked = check_chain(recording / log)
        if checked.trouble:
            is_changed = checked.has_chain or bool(checked.strangers)
            found = changed if is_changed else unproved
            found.append(f"{log}: {checked.trouble}")
    return tuple(changed), tuple(unproved)


def chain_as_left(folder: Path) -> Checked:
    """Read what a log's chain says, without its segments, which takes long.

    Args:
        folder: Of the log; no writer is at it.
    """
    has_chain = os.path.lexists(folder / CHAIN)
    try:
        chain = _read(folder)
    except RecordingError as error:
        return Checked(0, "", (), str(error))
    after = tuple(name for name in _names(folder) if number_of(name) > chain.last)
    said = {link.segment: (link.size, link.sha256) for link in chain.links}
    trouble = first_break(chain, said)
    return Checked(len(chain.links), chain.head, after, trouble, has_chain, chain)


def _names(folder: Path) -> list[str]:
    return [path.name for path in segments_of(folder).values()]


def _read(folder: Path) -> Chain:
    try:
        with open_recorded(folder / CHAIN, CHAIN) as file:
            data = file.read(MAX_CHAIN_BYTES + 1)
    except FileNotFoundError:
        return Chain()
    except OSError as error:
        raise RecordingError(
            f"{CHAIN}: expected the chain of the segments, found {error.strerror}"
        ) from error
    return decoded(data, CHAIN)


def _hashed(path: Path, digest: "hashlib._Hash") -> Iterator[int]:
    """Read a file into a digest; yield how many bytes each time."""
    with open_recorded(path, str(path)) as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
            yield len(data)
