"""How a verb ends: an exit status, and one clear line where it is not 0."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from runtime.errors import NeuroFlowError


def exit_status(verb: Callable[[], object]) -> int:
    """Run a verb; return 0 done, 1 failed, or 2 wrong usage.

    Failures are one line on standard error. SIGTERM ends a verb as Ctrl-C does.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        verb()
        # What cannot be written must fail here, not while the interpreter ends.
        sys.stdout.flush()
    except NeuroFlowError as error:
        return _failed(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _failed("interrupted")
    except BrokenPipeError:
        _silence_output()
        return 1
    except OSError as error:
        _silence_output()
        return _failed(_refused_by_system(error))
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # SIGTERM unwinds as Ctrl-C does, so that children end and scratch folders go.
    raise KeyboardInterrupt


def _failed(line: str, status: int = 1) -> int:
    print(f"neuroflow: {line}", file=sys.stderr)
    return status


def _refused_by_system(error: OSError) -> str:
    # Verbs explain the failures that they foresee; a full disk can come anywhere.
    reason = error.strerror or type(error).__name__
    what = error.filename2 or error.filename or "output"
    return f"{what}: expected to read or write it, found: {reason}"


def _silence_output() -> None:
    # Python flushes standard output once more at its end and would complain there.
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
