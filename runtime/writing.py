"""What a full disk says, whoever meets it: one line that names what was written."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from runtime.errors import ArtifactError


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Write something whole.

    Args:
        out: What it is called; whoever writes leaves nothing of it where he fails.

    Raises:
        ArtifactError: The system refused: no room, no permission, a broken disk.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"{out}: expected a place to write, found {_reason(error)}"
        ) from error


def _reason(error: OSError | SafetensorError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # Not an OSError, but it has the system's number in its words.
    number = re.search(r"\(os error (\d+)\)", str(error))
    return os.strerror(int(number[1])) if number else " ".join(str(error).split())
