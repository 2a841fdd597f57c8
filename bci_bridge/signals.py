"""Signals as a wish to stop."""

import contextlib
import signal
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Give a `stop` that becomes true on SIGTERM or SIGINT; main thread only."""
    caught: list[int] = []

    def catch(number: int, _frame: object) -> None:
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in _SIGNALS}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
