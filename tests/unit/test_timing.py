"""Latencies count from when the input was due; percentiles are earned by samples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import UsageError
from runtime.timing import (
    BEYOND,
    PER_MILLE,
    back_to_back,
    needed,
    paced,
    percentile,
    summary,
)

DURATIONS = st.lists(st.integers(0, 500), min_size=1, max_size=40)


class World:
    """A clock that only moves when work is done or waited for."""

    def __init__(self, durations, start=1000):
        self.now, self.durations = start, iter(durations)

    def clock(self):
        return self.now

    def work(self):
        self.now += next(self.durations)

    def wait_until(self, instant):
        self.now = max(self.now, instant)


def run(durations, period, deadline=10**9):
    world = World(durations)
    return paced(
        world.work,
        len(durations),
        period_ns=period,
        deadline_ns=deadline,
        clock=world.clock,
        wait_until=world.wait_until,
    )


def test_one_stall_is_felt_by_everyone_behind_it():
    durations = [10, 350, 10, 10, 10, 10, 10]

    found = run(durations, period=100, deadline=100)

    assert found.latency_ns == (10, 350, 260, 170, 80, 10, 10)
    assert found.service_ns == tuple(durations)
    assert found.misses == 3


@given(DURATIONS, st.integers(1, 300))
def test_latency_is_the_waiting_time_of_a_queue(durations, period):
    # Lindley (1952): who comes waits for what the one before had left to do.
    waited, wanted = 0, []
    for duration in durations:
        wanted.append(waited + duration)
        waited = max(0, waited + duration - period)

    assert list(run(durations, period).latency_ns) == wanted


@given(DURATIONS, st.integers(1, 300), st.integers(1, 600))
def test_a_miss_is_a_latency_beyond_the_deadline(durations, period, deadline):
    found = run(durations, period, deadline)

    assert found.misses == len([x for x in found.latency_ns if x > deadline])


@given(DURATIONS)
def test_back_to_back_is_the_duration_of_each_call(durations):
    world = World(durations)

    assert back_to_back(world.work, len(durations), world.clock) == durations


@given(DURATIONS)
def test_what_comes_before_each_call_is_not_measured(durations):
    world = World(durations)

    def before():
        world.now += 77

    taken = back_to_back(world.work, len(durations), world.clock, before)

    assert taken == durations
    assert world.now == 1000 + sum(durations) + 77 * len(durations)


@pytest.mark.parametrize("name", ["period_ns", "deadline_ns"])
def test_a_period_or_deadline_of_nothing_is_refused(name):
    options = {"period_ns": 1, "deadline_ns": 1, name: 0}

    with pytest.raises(UsageError) as caught:
        paced(lambda: 0, 1, **options, clock=lambda: 0, wait_until=lambda _: None)

    assert str(caught.value) == f"{name}: expected more than 0, found 0"


def test_the_rule_asks_for_ten_samples_beyond():
    assert [needed(k) for k in PER_MILLE.values()] == [20, 100, 1000, 10_000]


@given(st.integers(1, 3000), st.sampled_from(list(PER_MILLE.values())))
def test_a_percentile_is_stated_exactly_where_enough_samples_lie_beyond(count, k):
    found = percentile(range(count), k)

    if found is None:
        assert count * (1000 - k) < BEYOND * 1000
    else:
        assert count - 1 - found >= BEYOND
        assert (found + 1) * 1000 >= count * k > found * 1000


def test_percentiles_of_a_thousand_known_samples():
    found = summary([*range(1000, 0, -1)])

    assert (found.samples, found.p50, found.p90, found.p99) == (1000, 500, 900, 990)
    assert (found.p999, found.max) == (None, 1000)


def test_no_sample_says_nothing():
    with pytest.raises(UsageError) as caught:
        summary([])

    assert str(caught.value) == "latencies: expected at least one sample, found none"
