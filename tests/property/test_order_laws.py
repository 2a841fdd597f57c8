"""Whatever the order in which acquisitions come, each is said once, and in order."""

from hypothesis import given
from hypothesis import strategies as st

from bci_bridge.sources.order import Order

ARRIVALS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), max_size=60)


def said_of(arrivals, window, wait_ns):
    order, said, late, now_ns = Order(0, window, wait_ns), [], [], 0
    for index, pause_ns in arrivals:
        now_ns += pause_ns
        if order.push(index, index, now_ns) == "LATE":
            late.append(index)
        said += order.due(now_ns)
    said += order.due(now_ns, is_over=True)
    return said, late


@given(ARRIVALS, st.integers(0, 5), st.integers(0, 100))
def test_every_index_is_said_once_in_order_and_as_it_came(arrivals, window, wait_ns):
    said, late = said_of(arrivals, window, wait_ns)
    came = {index for index, _ in arrivals}

    assert [index for index, _ in said] == list(range(len(said)))
    assert len(said) == max(came, default=-1) + 1
    assert all(item in (None, index) for index, item in said)
    in_time = {index for index, item in said if item is not None}
    assert len(late) == len(set(late))
    assert in_time | set(late) == came
    assert not in_time & set(late)


@given(st.permutations(range(8)), st.integers(0, 8))
def test_nothing_is_lost_that_comes_within_the_window(order, window):
    said, late = said_of([(index, 0) for index in order], window, 1)
    # Of those that came, so many wait for one that did not, at worst.
    n_waiting = max(
        sum(index > min(set(range(9)) - set(order[:n])) for index in order[:n])
        for n in range(9)
    )

    if n_waiting <= window:
        assert said == [(index, index) for index in range(8)]
        assert not late


@given(ARRIVALS, st.integers(0, 5))
def test_no_more_are_held_than_the_window_takes(arrivals, window):
    order, n_said, came = Order(0, window, 10**9), 0, set()
    for index, _ in arrivals:
        order.push(index, index, 0)
        came.add(index)
        n_said += len(list(order.due(0)))

        assert sum(index >= n_said for index in came) <= window
