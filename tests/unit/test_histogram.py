"""A histogram counts each duration once, and two of them add up."""

from hypothesis import given
from hypothesis import strategies as st

from bci_bridge.histogram import BUCKETS_S, Histogram

DURATIONS = st.lists(st.integers(0, 20_000_000_000), max_size=20)


def counted(durations_ns):
    found = Histogram()
    for one in durations_ns:
        found = found.with_one(one)
    return found


@given(DURATIONS)
def test_a_bucket_holds_what_is_not_above_its_end(durations_ns):
    found = counted(durations_ns)

    for place, end in enumerate(BUCKETS_S):
        wanted = sum(one / 1e9 <= end for one in durations_ns)
        assert sum(found.counts[: place + 1]) == wanted
    assert (found.count, found.sum_ns) == (len(durations_ns), sum(durations_ns))


@given(DURATIONS, DURATIONS)
def test_what_two_processes_counted_is_what_one_would_have_counted(first, second):
    assert counted(second).after(counted(first)) == counted([*first, *second])
