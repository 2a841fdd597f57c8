"""What every process of a server does: set up, take turns, end in order.

Each ends by itself when its supervisor does, however that came about: nobody is left
behind who would hold a port or a lock.
"""

import contextlib
import ctypes
import gc
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import zmq

from bci_bridge.setup import (
    Account,
    Beat,
    Failure,
    Ready,
    Setup,
    path_of,
    read_if_there,
    write_whole,
)
from bci_bridge.signals import stop_as_told
from bci_bridge.type_cache import clear_type_cache
from runtime.errors import BackendError, FrozenRunError, GuardError, NeuroFlowError

_PR_SET_PDEATHSIG: Final = 1
_OURS: Final = tuple(
    Path(__file__).parents[1] / package
    for package in ("bci_bridge", "runtime", "verbs")
)
ACCOUNT_NS: Final = 100_000_000
"""How often a part says what it has done."""
CLEAR_NS: Final = 10_000_000_000
"""How often a part gives back what the interpreter's caches hold."""
SAID_CHARACTERS: Final = 200
"""Of a defect's own words, which may be of any length."""


@runtime_checkable
class Part(Protocol):
    """What takes turns."""

    def turn(self) -> None:
        """Do what there is to do, and return soon."""

    def sleep_ms(self) -> int:
        """Say for how long nothing is to be done unless something arrives."""


@contextlib.contextmanager
def part_of(
    setup: Setup, name: str
) -> Iterator[tuple[Callable[[], bool], contextlib.ExitStack]]:
    """Live and die with the supervisor; leave a line where it ends badly."""
    _die_with(setup.supervisor)
    stop = stop_as_told()
    try:
        with contextlib.ExitStack() as stack:
            yield stop, stack
    except NeuroFlowError as error:
        failure = Failure(
            message=str(error),
            exit_status=error.exit_status,
            is_final=isinstance(error, GuardError | FrozenRunError),
        )
        write_whole(path_of(Path(setup.moment), name, "failure"), failure)
        raise
    # Whatever ends a part, the next one may do better; nobody else will say why.
    except Exception as defect:
        failure = Failure(message=f"{name}: {said_of(defect)}", exit_status=1)
        with contextlib.suppress(OSError, MemoryError):
            write_whole(path_of(Path(setup.moment), name, "failure"), failure)
        raise


def said_of(defect: Exception) -> str:
    """Say in a line what was never meant to be raised, and where we raised it."""
    passed = [
        (Path(frame.f_code.co_filename), line)
        for frame, line in traceback.walk_tb(defect.__traceback__)
    ]
    ours = [one for one in passed if any(map(one[0].is_relative_to, _OURS))] or passed
    where = f" at {ours[-1][0].name}:{ours[-1][1]}" if ours else ""
    said = " ".join(str(defect).split())[:SAID_CHARACTERS]
    return f"{type(defect).__name__}{where}" + (f": {said}" if said else "")


def take_turns(
    setup: Setup,
    name: str,
    part: Part,
    poller: zmq.Poller,
    stop: Callable[[], bool],
    ready: Callable[[], Ready | None],
    account: Callable[[], Account],
) -> None:
    """Let a part work until it is told to stop, and tell the supervisor how it is.

    Args:
        setup: What to know.
        name: Of the process.
        part: Does the work.
        poller: Wakes it.
        stop: Says when to end.
        ready: What the supervisor waits for; None while there is nothing to say.
        account: What it has done so far.
    """
    gc.collect()
    # What exists now lives as long as the process: no pause should look at it.
    gc.freeze()
    beat, said = Beat(Path(setup.moment), name), None
    accounted_ns = cleared_ns = 0
    done: Account | None = None
    try:
        while not stop():
            part.turn()
            now_ns = time.monotonic_ns()
            beat.beat(now_ns)
            found = ready()
            if found is not None and found != said:
                write_whole(path_of(Path(setup.moment), name, "ready"), found)
                said = found
            if now_ns - accounted_ns > ACCOUNT_NS:
                accounted_ns, before, done = now_ns, done, account()
                if done != before:
                    say(setup, name, done)
            if now_ns - cleared_ns > CLEAR_NS:
                cleared_ns = now_ns
                clear_type_cache()
            poller.poll(part.sleep_ms())
    finally:
        beat.close()


def say(setup: Setup, name: str, account: Account) -> None:
    """Leave word of what a process has done."""
    # A full memory costs the monitor its figures, and nobody an answer.
    with contextlib.suppress(OSError):
        write_whole(path_of(Path(setup.moment), name, "account"), account)


def earlier_account(setup: Setup, name: str) -> Account:
    """Read what the process did that this one replaces, to within `ACCOUNT_NS`."""
    path = path_of(Path(setup.moment), name, "account")
    return read_if_there(path, Account) or Account()


def poller_of(*sockets: "zmq.Socket[bytes] | int") -> zmq.Poller:
    """Wait for any of these sockets and descriptors."""
    poller = zmq.Poller()
    for one in sockets:
        poller.register(one, zmq.POLLIN)
    return poller


def _die_with(supervisor: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        raise BackendError("supervisor: expected it to live, found it gone")
