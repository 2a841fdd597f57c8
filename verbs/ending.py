"""How a verb ends: an exit status, and one clear line where it is not 0."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from bci_bridge.signals import heard, let_through
from bci_bridge.telling import let_go, tell
from runtime.errors import NeuroFlowError


def exit_status(verb: Callable[[], object], *, is_lasting: bool = False) -> int:
    """Run a verb; return 0 done, 1 failed, or 2 wrong usage.

    Failures are one line on standard error. SIGTERM and SIGHUP end a verb as
    Ctrl-C does. Lines that nobody can read any more change no status.

    Args:
        verb: Parses, and does what it is told.
        is_lasting: It comes to `until_stopped`, and hears no signal before that.
    """
    ending = [number for number in heard() if number != signal.SIGINT]
    before = {number: signal.signal(number, _interrupt) for number in ending}
    try:
        with _held_back() if is_lasting else contextlib.nullcontext():
            verb()
        # What cannot be written must fail here, not while the interpreter ends.
        if sys.stdout is not None:
            sys.stdout.flush()
    except NeuroFlowError as error:
        return _failed(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _failed("interrupted")
    except BrokenPipeError:
        return 1
    except OSError as error:
        return _failed(_refused_by_system(error))
    except RuntimeError as error:
        # All that Path.resolve says of a link to itself, before Python 3.13.
        what, _, place = str(error).partition(" from ")
        if what != "Symlink loop":
            raise
        return _failed(f"{place}: expected a file or folder, found a link to itself")
    finally:
        let_go()
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def until_stopped(verb: Callable[[Callable[[], None]], object]) -> None:
    """Run a verb that goes on until it is stopped: to be stopped early is its end, too.

    Args:
        verb: Calls what it is given once it hears a wish to stop itself.
    """
    is_hearing: list[bool] = []
    try:
        let_through()
        verb(lambda: is_hearing.append(True))
    except KeyboardInterrupt:
        if is_hearing:
            raise
        tell("neuroflow: stopped before it was ready")


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Let signals wait for `until_stopped`, or for the end of this.

    What was before is not come back to: they may wait since the program began.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, heard())
    try:
        yield
    finally:
        let_through()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # They unwind as Ctrl-C does, so that children end and scratch folders go.
    raise KeyboardInterrupt


def _failed(line: str, status: int = 1) -> int:
    tell(f"neuroflow: {line}")
    return status


def _refused_by_system(error: OSError) -> str:
    # Verbs explain the failures that they foresee; a full disk can come anywhere.
    reason = error.strerror or type(error).__name__
    what = error.filename2 or error.filename or "output"
    return f"{what}: expected to read or write it, found: {reason}"
