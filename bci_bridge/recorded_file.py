"""Open a file of a recording, which strangers may have put there: a plain one only."""

import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from runtime.errors import RecordingError

_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_recorded(file: Path, name: str, *, may_be_link: bool = True) -> BinaryIO:
    """Open a file to read, as `descriptor_of` does."""
    return os.fdopen(descriptor_of(file, name, may_be_link=may_be_link), "rb")


def descriptor_of(file: Path, name: str, *, may_be_link: bool = True) -> int:
    """Open a file to read; never wait for the other end of a pipe.

    Args:
        file: What to open.
        name: What a message calls it.
        may_be_link: False where a link is refused, too. Segments may be links: whoever
            keeps large files elsewhere puts them there.

    Raises:
        OSError: It is missing or cannot be opened.
        RecordingError: It is no plain file.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    if not may_be_link:
        flags |= os.O_NOFOLLOW
    descriptor = os.open(file, flags)
    # Asked of what was opened: a pipe may have taken the place of what was looked at.
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise RecordingError(
            f"{name}: expected a plain file, found {_KINDS.get(kind, 'another kind')}. "
            "Put the recorded file there."
        )
    return descriptor
