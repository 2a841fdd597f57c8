"""Signals as a wish to stop, and as none of a part's business."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Final

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
OF_THE_GROUP: Final = (signal.SIGINT, signal.SIGHUP)
"""A terminal sends them to every process; the supervisor alone says who ends when."""


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Give a `stop` that becomes true on SIGTERM, SIGINT or SIGHUP; main thread only.

    A hangup that whoever started this wants ignored, as nohup does, stays ignored.
    """
    caught: list[int] = []

    def catch(number: int, _frame: object) -> None:
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in heard()}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def heard() -> list[signal.Signals]:
    """Give the signals that mean a wish to stop here."""
    is_deaf = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [one for one in _SIGNALS if one != signal.SIGHUP or not is_deaf]


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let signals wait for `let_through`, or for the end of this.

    A copy of a process, before it is a part, has the handlers of who was copied.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through() -> None:
    """Hear what came while it was held back, and what comes."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def stop_as_told() -> Callable[[], bool]:
    """Give a `stop` that becomes true on SIGTERM, for the rest of a process.

    What goes to the whole group is not for it. Whoever started it has held signals
    back, so that none could come before this.
    """
    caught: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))
    for number in OF_THE_GROUP:
        signal.signal(number, signal.SIG_IGN)
    let_through()
    return lambda: bool(caught)
