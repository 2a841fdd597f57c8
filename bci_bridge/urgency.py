"""A turn before all other programs: real-time scheduling, where the system grants it.

Linux may let a program that computes keep its processor until the next tick, 4 ms at
250 Hz, although another one was woken; an answer passes through three processes, each
of which is woken more than once. Under SCHED_RR whoever is woken runs at once
(sched(7)). It takes a right: CAP_SYS_NICE, or a limit RLIMIT_RTPRIO above 0, which
`docs/systemd.md` shows how to give. Without it everything works, and waits like others.

All processes of a server have one priority: whoever is flooded by strangers then shares
its processor with who answers, and cannot lock it out. The supervisor stands above
them, so that one that runs amok can be ended.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

SERVER: Final = 1
SUPERVISOR: Final = 2

LEAST_PROCESSORS: Final = 2
"""On one alone, a server that is flooded would leave nothing to anybody."""

_TASKS: Final = Path("/proc/self/task")


class Standing(msgspec.Struct, frozen=True):
    """How a thread is scheduled."""

    policy: int
    priority: int


ORDINARY: Final = Standing(os.SCHED_OTHER, 0)


def become_urgent(priority: int) -> bool:
    """Put every thread of this process before other programs; say whether it could be.

    Threads and processes that are made later inherit it.

    Args:
        priority: `SERVER` or `SUPERVISOR`.
    """
    if len(os.sched_getaffinity(0)) < LEAST_PROCESSORS:
        return False
    try:
        _set_all(Standing(os.SCHED_RR, priority))
    except OSError:
        return False
    return True


def standing() -> Standing:
    """Say how this thread is scheduled."""
    return Standing(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)


@contextlib.contextmanager
def urgent(priority: int, *, is_wanted: bool = True) -> Iterator[bool]:
    """Be urgent for a while; all threads are afterwards as this one was before."""
    before = standing()
    is_urgent = is_wanted and become_urgent(priority)
    try:
        yield is_urgent
    finally:
        if is_urgent:
            _set_all(before)


def _set_all(wanted: Standing) -> None:
    """Schedule every thread of this process alike."""
    for thread in [int(task.name) for task in _TASKS.iterdir()]:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(
                thread, wanted.policy, os.sched_param(wanted.priority)
            )
