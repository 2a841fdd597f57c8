"""The processes of a server as its supervisor holds them: started, watched, buried."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from bci_bridge.setup import Beat
from bci_bridge.signals import OF_THE_GROUP
from bci_bridge.urgency import ORDINARY
from bci_bridge.vitals import Patience
from runtime.errors import BackendError

RETRY_NS: Final = 1_000_000_000
"""How long a place stays empty for which the system would make no process."""


@dataclass(slots=True)
class Child:
    """One of the four places, and who fills it now."""

    name: str
    begin: Callable[[], int]
    """Start a process for this place, and give its number."""
    beat: Beat
    patience: Patience
    pid: int = 0
    pidfd: int = -1
    started_ns: int = 0
    quick_deaths: int = 0
    restarts: int = field(default=0)
    ended: str = ""
    """How the last one ended, in words; empty before that."""
    condemned: str = ""
    """Why who fills it was killed by its supervisor; empty where it was not."""
    due_ns: int = 0
    """When to try again to fill it; 0 where nothing failed."""

    def start(self) -> None:
        """Fill the place.

        Raises:
            BackendError: The system makes no process at this moment; the place is
                empty, and due again after `RETRY_NS`.
        """
        self.beat.still()
        self.started_ns = time.monotonic_ns()
        try:
            self.pid = self.begin()
            self.pidfd = os.pidfd_open(self.pid)
        except OSError as error:
            self._abandon()
            self.due_ns = self.started_ns + RETRY_NS
            raise BackendError(
                f"{self.name}: expected the system to make its process, "
                f"found: {error.strerror or error}"
            ) from error
        self.due_ns = 0

    @property
    def is_unfilled(self) -> bool:
        """Whether the system would make no process for it, so that it is empty."""
        return self.due_ns > 0

    def is_due(self, now_ns: int) -> bool:
        """Say whether it could not be filled, and is to be tried again."""
        return self.is_unfilled and self.due_ns <= now_ns

    def is_alive(self, now_ns: int) -> bool:
        """Say whether it runs and can be taken for alive at this instant."""
        return self.pid != 0 and self.patience.covers(
            self.beat.last_ns(), self.started_ns, now_ns
        )

    def tell(self, what: signal.Signals) -> None:
        """Send a signal to who fills the place, if anyone does."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, what)

    def condemn(self, why: str) -> None:
        """Kill who fills the place, if anyone does, and remember why."""
        self.beat.still()
        self.condemned = self.condemned or why
        self.tell(signal.SIGKILL)

    def is_over(self, timeout_ms: int) -> bool:
        """Wait at most so long for its end, and say whether it has come."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(timeout_ms))

    def bury(self) -> None:
        """Wait for its end, and empty the place."""
        _, status = os.waitpid(self.pid, 0)
        self.ended = self.condemned or how_ended(os.waitstatus_to_exitcode(status))
        self.condemned = ""
        os.close(self.pidfd)
        self.pid, self.pidfd = 0, -1

    def _abandon(self) -> None:
        # A process without a descriptor to watch it by.
        if self.pid:
            self.tell(signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


def spawned(command: list[str]) -> int:
    """Start a program that reads nothing, and give its number."""
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    # Ordinary while it loads, which takes all of a processor. What a terminal sends to
    # the group waits until it can ignore that; SIGTERM ends it.
    return os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[nothing],
        setsigmask=OF_THE_GROUP,
        scheduler=(ORDINARY.policy, os.sched_param(ORDINARY.priority)),
    )


def how_ended(exit_code: int) -> str:
    """Put into words how a process ended.

    Args:
        exit_code: Its exit status, or a signal as a number below zero.
    """
    if exit_code >= 0:
        return f"exit status {exit_code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-exit_code).name
    return f"signal {-exit_code}"


def died(children: Iterable[Child], timeout_ms: int) -> list[Child]:
    """Sleep until one of them has died, or so long; give those that have."""
    poller, by_fd = select.poll(), {}
    for child in children:
        if child.pid:
            poller.register(child.pidfd, select.POLLIN)
            by_fd[child.pidfd] = child
    return [by_fd[fd] for fd, _ in poller.poll(timeout_ms)]
