"""Pictures whose z_v is computed once, and what tells them from others later on.

Where an interruption left off, the pictures that have their z_v are read again and
compared: their file may have been copied anew since, because the rest of it was
damaged. Reading costs next to nothing beside a backbone.
"""

import hashlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Shaped

from training.data.writer import TrialsWriter

Pictures = Shaped[np.ndarray, "images height width channels"]
Read = Callable[[slice], Pictures]


def noted_pictures(
    writer: TrialsWriter, name: str, read: Read, at_once: int = 32
) -> Read:
    """Return a reader that has the writer note what it read, block by block.

    Args:
        writer: Knows how many pictures have their z_v.
        name: What a message calls them.
        read: Gives the pictures of some rows; asked for all rows in order.
        at_once: How many are compared at a time.

    Raises:
        ArtifactError: Those that have their z_v are others now.
    """
    seen = hashlib.sha256()
    done = writer.latents_done
    for first in range(0, done, at_once):
        seen.update(read(slice(first, min(first + at_once, done))).tobytes())
    if done:
        writer.require_pictures(name, seen.hexdigest())

    def read_and_note(rows: slice) -> Pictures:
        found = read(rows)
        seen.update(found.tobytes())
        writer.reads(pictures=seen.hexdigest())
        return found

    return read_and_note
