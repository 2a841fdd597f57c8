"""A message is durable once the log is on disk behind it, and lags until then."""

from hypothesis import given
from hypothesis import strategies as st

from bci_bridge.durability import Durability

STREAMS = ("scanner", "stimulus")


@given(
    st.lists(st.sampled_from(STREAMS), max_size=30),
    st.lists(st.integers(0, 35), max_size=5),
)
def test_the_lag_is_what_the_log_holds_and_the_disk_does_not(said, syncs):
    found, received = Durability(), dict.fromkeys(STREAMS, 0)
    for order, stream in enumerate(said):
        received[stream] += 1
        found.logged(order, "run", stream, received[stream])

    assert found.lag("run", received) == len(said)
    for upto in sorted(syncs):
        found.settle(upto)
        assert found.lag("run", received) == len(said[upto:])
        for stream in STREAMS:
            assert found.upto("run", stream) == said[:upto].count(stream)


def test_a_sync_is_news_once():
    found = Durability()
    found.logged(4, "run", "scanner", 1)

    assert not found.settle(4)
    assert found.is_waiting
    assert found.settle(5)
    assert not found.settle(5)
    assert not found.is_waiting


def test_what_a_failing_disk_does_not_take_lags_for_good():
    found = Durability()
    found.logged(0, "run", "scanner", 1)
    found.settle(1)
    found.logged(1, "run", "scanner", 2)
    found.give_up()

    assert not found.is_waiting
    assert found.lag("run", {"scanner": 2}) == 1


def test_another_run_begins_at_nothing():
    found = Durability()
    found.logged(0, "run-1", "scanner", 1)
    found.settle(1)
    found.keep_only("run-2")

    assert found.upto("run-1", "scanner") == 0
    assert found.lag("run-2", {}) == 0
