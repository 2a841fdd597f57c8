"""Other processes as Linux shows them, to tests that start some."""

import time
from pathlib import Path


def children(pid: int) -> list[int]:
    """Process ids of what the first thread of a process has started and not buried."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
    return [int(child) for child in found.split()]


def command_of(pid: int) -> bytes:
    """The words a process was started with, each ended by 0; none once it is gone.

    A child seen a moment ago may be: some are forked for one task and end with it.
    """
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_gone(pid: int, within_s: float = 10.0) -> bool:
    """Wait until a process is gone; False where it is not."""
    end = time.monotonic() + within_s
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
