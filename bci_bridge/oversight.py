"""What a supervisor tells: to the monitor by a file, to systemd by a datagram.

The supervisor itself only keeps processes alive; whether telling succeeds is nothing
that it may fail by.
"""

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from bci_bridge.children import Child
from bci_bridge.histogram import Histogram
from bci_bridge.notify import Notifier
from bci_bridge.outages import Outages
from bci_bridge.setup import path_of, write_whole
from bci_bridge.vitals import SUPERVISOR

TELL_NS: Final = 1_000_000_000


class Oversight(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor sees."""

    written_ns: int
    """When, on the monotonic clock: its sign of life."""
    restarts: dict[str, int]
    pids: dict[str, int]
    outages: dict[str, Histogram] = {}
    """How long a place was empty that somebody fills again."""


class Overseer:
    """Tells how the processes are, about once a second."""

    def __init__(self, moment: Path) -> None:
        """Find out whether systemd listens; `moment` is the folder of the moment."""
        self._file = path_of(moment, SUPERVISOR, "account")
        self._file.unlink(missing_ok=True)
        self._notifier = Notifier.from_environment(os.environ)
        self._told_ns, self._told = 0, {"": 0}
        self._outages = Outages()

    def ready(self) -> None:
        """Peers can connect."""
        self._notifier.say("READY=1", "STATUS=serving")

    def stopping(self) -> None:
        """The end has begun."""
        self._notifier.say("STOPPING=1", "STATUS=stopping")

    def tell(self, children: Iterable[Child]) -> None:
        """Say who fills which place, and kick the watchdog while all show life.

        Who shall fill a place again as soon as the system makes a process for it need
        not; where there is nobody else, nothing goes on.
        """
        now_ns, children = time.monotonic_ns(), list(children)
        for one in children:
            self._outages.look(
                one.name,
                restarts=one.restarts,
                started_ns=one.started_ns,
                last_ns=one.beat.last_ns(),
            )
        pids = {one.name: one.pid for one in children if one.pid}
        if now_ns - self._told_ns < TELL_NS and pids == self._told:
            return
        self._told_ns, self._told = now_ns, pids
        seen = Oversight(
            written_ns=now_ns,
            restarts={one.name: one.restarts for one in children},
            pids=pids,
            outages=self._outages.lengths,
        )
        # A full memory must not end a server that keeps answering.
        with contextlib.suppress(OSError):
            write_whole(self._file, seen)
        watched = [one for one in children if not one.is_unfilled]
        if watched and all(one.is_alive(now_ns) for one in watched):
            self._notifier.say("WATCHDOG=1")
