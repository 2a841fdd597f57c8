"""Whatever the network does, the true offset lies within what is said of it."""

from hypothesis import given
from hypothesis import strategies as st

from bci_bridge.clock_offset import DRIFT, SAMPLES, ClockOffset

delays = st.integers(0, 10**9)


@given(
    st.integers(-(10**15), 10**15),
    st.lists(st.tuples(delays, delays, st.integers(1, 10**9)), min_size=1, max_size=50),
)
def test_the_true_offset_is_never_outside_its_uncertainty(offset_ns, exchanges):
    clock, now_ns = ClockOffset(), 10**12
    for there_ns, back_ns, pause_ns in exchanges:
        sent_ns = now_ns
        server_ns = sent_ns - offset_ns + there_ns
        now_ns += there_ns + back_ns
        clock.add(sent_ns, server_ns, now_ns)
        now_ns += pause_ns

    found_ns, uncertainty_ns = clock.at(now_ns)

    assert abs(found_ns - offset_ns) <= uncertainty_ns


@given(st.lists(st.tuples(delays, delays), min_size=1, max_size=SAMPLES))
def test_the_shortest_way_tells_most(ways):
    clock = ClockOffset()
    for there_ns, back_ns in ways:
        clock.add(0, there_ns, there_ns + back_ns)

    _, uncertainty_ns = clock.at(0)

    assert uncertainty_ns == min((sum(way) + 1) // 2 for way in ways)


short = st.integers(0, 20_000)


@given(
    st.lists(st.tuples(short, short, short), min_size=1, max_size=3 * SAMPLES), short
)
def test_what_is_forgotten_would_never_have_told_most(exchanges, wait_ns):
    clock, now_ns = ClockOffset(), 0
    every = []
    for there_ns, back_ns, pause_ns in exchanges:
        sent_ns, server_ns = now_ns, now_ns + there_ns
        now_ns += there_ns + back_ns
        clock.add(sent_ns, server_ns, now_ns)
        every.append((sent_ns, server_ns, now_ns))
        now_ns += pause_ns
    now_ns += wait_ns

    assert clock.at(now_ns) == min(
        (
            (
                sent_ns + (came_ns - sent_ns) // 2 - server_ns,
                (came_ns - sent_ns + 1) // 2 + round((now_ns - came_ns) * DRIFT),
            )
            for sent_ns, server_ns, came_ns in every[-SAMPLES:]
        ),
        key=lambda found: found[1],
    )


def test_nothing_is_said_before_an_exchange_or_of_an_impossible_one():
    clock = ClockOffset()
    clock.add(10, 5, 9)

    assert clock.at(20) is None
