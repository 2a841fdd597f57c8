"""Who holds more than it may is ended while another can answer, and never otherwise."""

import pytest

from bci_bridge.memory_guard import LOOK_NS, Held, MemoryGuard, too_large
from bci_bridge.settings import ServeConfig
from runtime.errors import UsageError
from verbs.limits import with_limits

MB = 1 << 20


def worker(name, mb, *, is_ready=True, is_active=False):
    resident = None if mb is None else mb * MB
    return Held(name, resident, is_ready=is_ready, is_active=is_active)


@pytest.mark.parametrize(
    ("active_mb", "standby_mb", "is_standby_ready", "found"),
    [
        (100, 100, True, None),
        (101, 100, True, "a"),
        (100, 101, True, "b"),
        # Of two, first the one that answers nothing.
        (500, 101, True, "b"),
        # Nobody would answer.
        (500, 10, False, None),
        (500, None, False, None),
        # Who still loads may be ended: the other answers.
        (100, 101, False, "b"),
        (None, None, True, None),
    ],
)
def test_who_is_ended(active_mb, standby_mb, is_standby_ready, found):
    workers = [
        worker("a", active_mb, is_active=True),
        worker("b", standby_mb, is_ready=is_standby_ready),
    ]

    chosen = too_large(workers, 100)

    assert (None if chosen is None else chosen.name) == found


def guard(limit_mb, **held):
    return MemoryGuard(limit_mb, lambda name: held[name.replace("-", "_")])


def test_it_is_told_what_was_expected_and_found_once_a_second():
    watched = guard(
        4096,
        worker_a=worker("worker-a", 4200, is_active=True),
        worker_b=worker("worker-b", 10),
    )

    ended = [watched.whom_to_end(LOOK_NS * n // 2) for n in (2, 3, 4)]
    told = watched.notices()

    assert ended == ["worker-a", "", "worker-a"]
    assert len(told) == 2
    assert told[0].startswith(
        "worker-a: expected 4,096 MiB of memory at most (worker_memory_mb), "
        "found 4,200 MiB: ended"
    )
    assert watched.notices() == []


def test_without_a_limit_nobody_is_weighed():
    watched = guard(None)
    watched.require_room("worker-a")

    assert watched.whom_to_end(LOOK_NS) == ""


def test_a_limit_that_no_worker_can_keep_is_refused():
    held = worker("worker-a", 100)
    guard(100, worker_a=held).require_room("worker-a")
    with pytest.raises(UsageError, match=r"expected 99 MiB .*, found 100 MiB with"):
        guard(99, worker_a=held).require_room("worker-a")


def test_limits_of_the_command_line_reach_the_configuration():
    config = with_limits(
        ServeConfig(),
        ("memory_mb=512", "worker_memory_mb=6000", "rate_per_s=10", "burst=20"),
    )

    assert config == ServeConfig(
        memory_mb=512, worker_memory_mb=6000, rate_per_s=10, burst=20
    )
    assert with_limits(config, ()) == config


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        (("memory=1",), r"expected NAME=NUMBER with each of memory_mb, .*, found mem"),
        (("burst=1", "burst=2"), "once at most, found burst=2"),
        (("memory_mb=511",), "expected a whole number from 512 to 16,777,216, found 5"),
        (("burst=1e3",), "from 1 to 1,000,000, found 1e3"),
        (("burst",), "found nothing"),
        (("worker_memory_mb=-5",), "from 1 to .*, found -5"),
        (("worker_memory_mb=\u0665",), "from 1 to "),
        (("worker_memory_mb=99999999999999999999",), "from 1 to "),
    ],
)
def test_what_is_no_limit_is_refused_by_name(limits, found):
    with pytest.raises(UsageError, match=found):
        with_limits(ServeConfig(), limits)
