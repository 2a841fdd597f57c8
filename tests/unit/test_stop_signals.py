"""Signals that come while a server starts: none is lost, and none is a traceback."""

import os
import signal
import sys

import pytest

from bci_bridge.part import part_of
from bci_bridge.parts import forked
from bci_bridge.places import held_places
from bci_bridge.settings import PUBLISHER, WORKERS, ServeConfig
from bci_bridge.signals import stop_on_signals
from bci_bridge.supervisor import Supervisor
from verbs.ending import exit_status, until_stopped

LOADING = """
import os, signal, sys
os.kill(os.getpid(), signal.{first})
from bci_bridge.signals import stop_as_told
stop = stop_as_told()
os.kill(os.getpid(), signal.{second})
sys.exit(5 if stop() else 6)
"""


def started(first, second):
    """Let a worker get one signal while it loads, and one when it works."""
    program = LOADING.format(first=first, second=second)
    with held_places(None, str) as places:
        config = ServeConfig(address="tcp://127.0.0.1:*", is_urgent=False)
        server = Supervisor(config, places, [sys.executable, "-c", program])
        child = server._children[WORKERS[0]]
        server._start(child)
        child.bury()
        server.kill()
    return child.ended


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_what_goes_to_the_group_ends_no_worker_whether_it_loads_or_works(name):
    assert started(name, name) == "exit status 6"


def test_who_is_told_to_end_while_it_loads_does_not_load_to_the_end():
    assert started("SIGTERM", "SIGINT") == "SIGTERM"
    assert started("SIGINT", "SIGTERM") == "exit status 5"


def test_a_copy_hears_what_came_before_it_could_hear():
    def body(setup):
        os.kill(os.getpid(), signal.SIGTERM)
        with part_of(setup, PUBLISHER) as (stop, _):
            if not stop():
                os._exit(7)

    with held_places(None, str) as places, stop_on_signals() as is_stopped:
        config = ServeConfig(address="tcp://127.0.0.1:*", is_urgent=False)
        server = Supervisor(config, places, ["/nowhere/worker"])
        _, status = os.waitpid(forked(body, server._setup), 0)
        server.kill()

        assert os.waitstatus_to_exitcode(status) == 0
        assert not is_stopped()
        # And who was copied hears as before.
        os.kill(os.getpid(), signal.SIGTERM)
        assert is_stopped()


@pytest.fixture
def _interrupts_are_heard():
    """Also where the suite runs in the background and was told to ignore them."""
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)
    hung_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGHUP, hung_up)


@pytest.mark.usefixtures("_interrupts_are_heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_server_that_is_stopped_while_it_opens_ends_as_one_that_serves(
    number, capsys
):
    def verb():
        # To this thread: to the process, another one that a test runner has takes it.
        signal.raise_signal(number)
        until_stopped(lambda _: pytest.fail("it did not hear"))

    assert exit_status(verb, is_lasting=True) == 0
    assert capsys.readouterr().err == "neuroflow: stopped before it was ready\n"


def test_what_is_left_to_do_after_serving_is_interrupted_as_any_other_verb(capsys):
    def verb(hearing):
        hearing()
        os.kill(os.getpid(), signal.SIGTERM)

    assert exit_status(lambda: until_stopped(verb), is_lasting=True) == 1
    assert capsys.readouterr().err == "neuroflow: interrupted\n"


def test_a_group_that_is_told_to_end_while_it_starts_is_no_failure():
    with held_places(None, str) as places, stop_on_signals() as is_stopped:
        config = ServeConfig(address="tcp://127.0.0.1:*", is_urgent=False)
        server = Supervisor(config, places, ["/nowhere/worker"])
        child = server._children[PUBLISHER]

        def told_with_all():
            os.kill(os.getpid(), signal.SIGTERM)
            return os.posix_spawn("/bin/false", ["false"], {})

        child.begin = told_with_all
        asked = iter([False])

        try:
            # As if the signal came while it waited.
            found = server.start(lambda: next(asked, is_stopped()))
        finally:
            server.kill()

    assert found is None


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_hangup_is_a_wish_to_stop_unless_it_is_to_be_ignored(is_ignored):
    before = signal.signal(
        signal.SIGHUP, signal.SIG_IGN if is_ignored else signal.SIG_DFL
    )
    try:
        with stop_on_signals() as is_stopped:
            os.kill(os.getpid(), signal.SIGHUP)
            assert is_stopped() != is_ignored
        wished = exit_status(lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert wished == (0 if is_ignored else 1)
    finally:
        signal.signal(signal.SIGHUP, before)
