"""Whom a supervisor gives up: one that never was ready, and nobody else.

Nor a place for which the system makes no process at the moment.
"""

import errno
import itertools
import os
import signal
import time

import pytest

from bci_bridge.places import held_places
from bci_bridge.settings import PUBLISHER, WORKERS, ServeConfig
from bci_bridge.setup import Ready, path_of, write_whole
from bci_bridge.supervisor import QUICK_DEATHS, Supervisor
from runtime.errors import BackendError


@pytest.fixture
def server():
    with held_places(None, str) as places:
        config = ServeConfig(address="tcp://127.0.0.1:*", is_urgent=False)
        built = Supervisor(config, places, ["/nowhere/worker"])
        yield built
        built.kill()


def dying(server, *, is_ready):
    """Fill a place with processes that end as soon as they run."""
    child = server._children[PUBLISHER]

    def begin():
        if is_ready(child.restarts):
            write_whole(path_of(server._places.moment, PUBLISHER, "ready"), Ready())
        return os.posix_spawn("/bin/false", ["false"], {})

    child.begin = begin
    server._start(child)
    return child


def turned(server, child, count):
    while child.restarts < count:
        server.turn()


def test_a_process_that_never_is_ready_is_given_up(server):
    child = dying(server, is_ready=lambda _: False)

    with pytest.raises(BackendError) as raised:
        turned(server, child, 2 * QUICK_DEATHS)

    assert child.restarts == QUICK_DEATHS
    assert str(raised.value) == (
        "publisher: expected it to run, found it dead (exit status 1)"
    )


def test_a_process_that_was_ready_each_time_goes_on_for_ever(server):
    child = dying(server, is_ready=lambda _: True)

    turned(server, child, 3 * QUICK_DEATHS)

    assert child.pid
    assert len(server.notices()) == child.restarts


def test_one_that_was_ready_begins_the_count_again(server):
    child = dying(server, is_ready=lambda deaths: deaths == QUICK_DEATHS - 2)

    with pytest.raises(BackendError):
        turned(server, child, 3 * QUICK_DEATHS)

    assert child.restarts == 2 * QUICK_DEATHS - 1


@pytest.fixture
def poor(server, monkeypatch):
    """A server for whose publisher the system makes no further process for a while."""
    monkeypatch.setattr("bci_bridge.children.RETRY_NS", 50_000_000)
    child = server._children[PUBLISHER]
    tries = []

    def begin():
        tries.append(time.monotonic_ns())
        if 1 < len(tries) < 5:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return os.posix_spawn("/bin/sleep", ["sleep", "60"], {})

    child.begin = begin
    server._start(child)
    server.tries = tries
    return server


def test_a_place_that_cannot_be_filled_is_tried_again_after_a_pause(poor):
    child = poor._children[PUBLISHER]
    beside = poor._children[WORKERS[0]]
    beside.begin = lambda: os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    poor._start(beside)
    os.kill(child.pid, signal.SIGKILL)

    turned(poor, child, 1)
    told = poor.notices()
    assert child.pid == 0
    # Who stands beside is watched meanwhile.
    os.kill(beside.pid, signal.SIGKILL)
    turned(poor, beside, 1)
    while not child.pid:
        poor.turn()

    assert told == [
        "publisher died (SIGKILL) and is not replaced yet: publisher: expected the "
        "system to make its process, found: Resource temporarily unavailable; "
        "it is tried again every second"
    ]
    assert poor.notices() == [
        "worker-a died (SIGKILL) and was replaced",
        "publisher was replaced at last",
    ]
    assert child.restarts == 1
    assert len(poor.tries) == 5
    assert min(b - a for a, b in itertools.pairwise(poor.tries[1:])) >= 50_000_000


def test_a_process_that_cannot_be_watched_is_not_left_behind(server, monkeypatch):
    child = server._children[PUBLISHER]
    made = []

    def begin():
        made.append(os.posix_spawn("/bin/sleep", ["sleep", "60"], {}))
        return made[-1]

    def refuse(_pid):
        raise OSError(errno.EMFILE, "Too many open files")

    child.begin = begin
    monkeypatch.setattr(os, "pidfd_open", refuse)

    with pytest.raises(BackendError, match="found: Too many open files"):
        server._start(child)

    assert child.pid == 0
    with pytest.raises(ProcessLookupError):
        os.kill(made[0], 0)


def test_a_server_for_which_no_process_can_be_made_does_not_begin(server, monkeypatch):
    def refuse():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)

    with pytest.raises(BackendError) as raised:
        server.start(lambda: False)

    assert str(raised.value) == (
        "publisher: expected the system to make its process, "
        "found: Resource temporarily unavailable"
    )
