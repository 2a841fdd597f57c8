"""The laws of a token bucket, for whatever comes and whenever it does."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bci_bridge.tokens import OUT_NS, SAY_NS, SWEEP_AT, Tokens

S = 1_000_000_000
RATES = st.integers(1, 50)
BURSTS = st.integers(1, 50)
GAPS = st.lists(st.integers(0, 3 * S) | st.just(0), max_size=300)


def instants(gaps):
    at = 0
    for gap in gaps:
        at += gap
        yield at


@given(RATES, BURSTS, GAPS)
def test_no_window_of_time_lets_through_more_than_burst_and_rate(rate, burst, gaps):
    tokens = Tokens(rate, burst)

    taken = [at for at in instants(gaps) if tokens.take("a", at) == "TAKE"]

    for first, begin in enumerate(taken):
        for last in range(first, len(taken)):
            # Another token comes with each whole interval.
            gained = (taken[last] - begin) // (S // rate)
            assert last - first + 1 <= burst + gained


@given(RATES, BURSTS, st.integers(1, 200))
def test_who_keeps_to_the_rate_is_never_refused(rate, burst, count):
    tokens = Tokens(rate, burst)
    interval_ns = S // rate

    said = {tokens.take("a", n * interval_ns) for n in range(count)}

    assert said == {"TAKE"}


@given(RATES, BURSTS)
def test_a_burst_fits_whole_and_one_message_more_does_not(rate, burst):
    tokens = Tokens(rate, burst)

    said = [tokens.take("a", 7) for _ in range(burst + 1)]

    assert said == ["TAKE"] * burst + ["REFUSE"]


@given(RATES, BURSTS, GAPS)
def test_a_flood_is_told_at_most_once_a_second(rate, burst, gaps):
    tokens = Tokens(rate, burst)

    told = [at for at in instants(gaps) if tokens.take("a", at) == "REFUSE"]

    assert all(b - a >= SAY_NS for a, b in itertools.pairwise(told))


@given(RATES, BURSTS, GAPS)
def test_an_expelled_peer_is_not_heard_for_as_long_as_said(rate, burst, gaps):
    tokens, out_ns = Tokens(rate, burst), None

    for at in instants(gaps):
        verdict = tokens.take("a", at)
        if out_ns is not None and at < out_ns:
            assert verdict == "DROP"
        if verdict == "EXPEL":
            out_ns = at + OUT_NS


@given(RATES, BURSTS, GAPS, GAPS)
def test_one_peer_never_costs_another_a_token(rate, burst, gaps, others):
    alone, beside = Tokens(rate, burst), Tokens(rate, burst)
    wanted = [alone.take("a", at) for at in instants(gaps)]

    said = sorted(
        [(at, "a") for at in instants(gaps)] + [(at, "b") for at in instants(others)],
        key=lambda one: one[0],
    )
    found = [
        verdict for at, who in said if (verdict := beside.take(who, at)) and who == "a"
    ]

    assert found == wanted


def test_a_flood_is_refused_dropped_and_at_last_expelled_once():
    tokens = Tokens(10, 5)

    said = [tokens.take("a", 0) for _ in range(200)]

    assert said == ["TAKE"] * 5 + ["REFUSE"] + ["DROP"] * 9 + ["EXPEL"] + ["DROP"] * 184


def test_who_is_quiet_after_a_flood_is_forgiven_before_it_is_expelled():
    tokens = Tokens(10, 5)
    for _ in range(15):
        tokens.take("a", 0)

    later = [tokens.take("a", 2 * S) for _ in range(8)]

    assert later == ["TAKE"] * 5 + ["REFUSE"] + ["DROP"] * 2


def test_an_expelled_peer_comes_back_at_its_rate_and_is_given_patience_anew():
    tokens = Tokens(10, 5)
    for _ in range(200):
        tokens.take("a", 0)

    back = [tokens.take("a", OUT_NS + S // 10) for _ in range(3)]

    assert back == ["TAKE", "REFUSE", "DROP"]


@pytest.mark.parametrize("messages", [1, 8])
def test_peers_under_ever_new_names_leave_nothing_behind(messages):
    rate = 1000
    tokens, most = Tokens(rate, 8), 0

    for name in range(2000):
        for _ in range(messages):
            tokens.take(name, name * S // 100)
        most = max(most, len(tokens))

    # A bucket is full again after 8 ms at most, and nobody was refused.
    assert most <= SWEEP_AT
    assert tokens.take(0, 21 * S) == "TAKE"
