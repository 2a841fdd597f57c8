"""Real-time scheduling is taken where it is granted, and given back."""

import os
import threading
from unittest import mock

import pytest

from bci_bridge import urgency
from bci_bridge.urgency import ORDINARY, SERVER, Standing, become_urgent, urgent


def is_granted():
    with urgent(SERVER) as granted:
        return granted


needs_grant = pytest.mark.skipif(
    not is_granted(), reason="real-time scheduling is not granted to this user"
)


def standings():
    return {
        Standing(
            os.sched_getscheduler(int(task.name)),
            os.sched_getparam(int(task.name)).sched_priority,
        )
        for task in urgency._TASKS.iterdir()
    }


def in_child(body):
    """Run in a process of its own, whose scheduling is nobody else's."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            body()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@needs_grant
def test_every_thread_and_whatever_it_makes_becomes_urgent():
    def body():
        waiting, over = threading.Event(), threading.Event()
        older = threading.Thread(target=lambda: (waiting.set(), over.wait()))
        older.start()
        waiting.wait()
        assert become_urgent(SERVER)
        younger = threading.Thread(target=over.wait)
        younger.start()
        assert standings() == {Standing(os.SCHED_RR, SERVER)}
        over.set()

    assert in_child(body) == 0


@needs_grant
def test_who_was_urgent_for_a_while_is_ordinary_again():
    def body():
        over = threading.Event()
        older = threading.Thread(target=over.wait)
        older.start()
        with urgent(urgency.SUPERVISOR) as granted:
            assert granted
            assert standings() == {Standing(os.SCHED_RR, 2)}
        assert standings() == {ORDINARY}
        over.set()

    assert in_child(body) == 0


def test_who_is_not_allowed_stays_as_it_is_and_is_told():
    refusal = mock.patch.object(
        os, "sched_setscheduler", side_effect=PermissionError(1, "not permitted")
    )
    before = urgency.standing()
    with refusal:
        assert not become_urgent(SERVER)
    assert urgency.standing() == before


def test_nobody_is_urgent_on_a_single_processor():
    with (
        mock.patch.object(os, "sched_getaffinity", return_value={0}),
        mock.patch.object(os, "sched_setscheduler") as asked,
    ):
        assert not become_urgent(SERVER)
    asked.assert_not_called()


def test_who_does_not_want_it_is_not_asked_for():
    before = urgency.standing()
    with urgent(SERVER, is_wanted=False) as granted:
        assert not granted
        assert urgency.standing() == before
