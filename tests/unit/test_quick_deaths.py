"""Whom a supervisor gives up: one that never was ready, and nobody else."""

import os

import pytest

from bci_bridge.places import held_places
from bci_bridge.settings import PUBLISHER, ServeConfig
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
