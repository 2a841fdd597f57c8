"""Lines for whoever watches, on standard error.

Who watches may be gone: a terminal that was closed, a `tee` that was killed, a log on a
disk that is full. Nothing that runs may end by that.
"""

import contextlib
import os
import sys

from bci_bridge.printable import printable


def tell(line: str) -> None:
    """Say one line, whatever names it holds; nothing happens where none can be said."""
    # None where the program was started without one.
    if sys.stderr is not None:
        # ValueError: a stream that is closed.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{printable(line)}\n")
            sys.stderr.flush()


def flush_told() -> None:
    """Let no copy of this process hold what this one has yet to write."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


def let_go() -> None:
    """Give up what can be written nowhere.

    Python flushes both streams once more at its end, would complain there, and would
    end with a status of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
