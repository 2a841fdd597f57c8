"""Intervals hold what they promise, ratios cancel drift, and a slope is a slope."""

import ast
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from runtime.bench.statistics import (
    CONFIDENCE,
    interval_ranks,
    line,
    median_interval,
    ratio,
    slope,
)
from runtime.errors import UsageError

RUNTIME = Path(__file__).parents[2] / "runtime"
TIMES = st.floats(1, 1e9)
COUNTS = (1, 5, 10, 20)


@given(st.integers(1, 200))
def test_the_ranks_are_the_narrowest_that_carry_the_confidence(count):
    def coverage(k):  # that more than k and fewer than count - k values lie below
        return 1 - 2 * stats.binom.cdf(k, count, 0.5)

    ranks = interval_ranks(count)

    if ranks is None:
        assert coverage(0) < CONFIDENCE
    else:
        k, last = ranks
        assert last == count - 1 - k
        assert coverage(k) >= CONFIDENCE
        assert k + 1 > last - 1 or coverage(k + 1) < CONFIDENCE


def test_six_values_are_the_fewest_with_an_interval():
    assert (interval_ranks(5), interval_ranks(6)) == (None, (0, 5))


@given(st.lists(TIMES, min_size=1, max_size=50))
def test_an_interval_holds_its_median(values):
    found = median_interval(values)

    assert found.median == float(np.median(values))
    if found.low is not None:
        assert found.low <= found.median <= found.high
        assert {found.low, found.high} <= set(values)


@given(st.lists(st.tuples(TIMES, TIMES), min_size=6, max_size=20), st.floats(0.1, 10))
def test_drift_that_a_round_shares_leaves_the_ratio(drifts, quotient):
    theirs = [a * b for a, b in drifts]

    found = ratio([quotient * t for t in theirs], theirs)

    assert math.isclose(found.low, quotient, rel_tol=1e-9)
    assert math.isclose(found.high, quotient, rel_tol=1e-9)


@given(st.lists(TIMES, min_size=4, max_size=4))
def test_a_line_is_that_of_an_independent_fit(times):
    found = line(COUNTS, times)

    wanted = np.polynomial.Polynomial.fit(COUNTS, times, 1).convert().coef[::-1]
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6 * max(times))


def test_a_slope_by_hand():
    # 7 once and 3 an evaluation; one round was disturbed from beginning to end.
    rounds = [[7.0 + 3 * n for n in COUNTS] for _ in range(6)]
    rounds.append([500.0 + 90 * n for n in COUNTS])

    found = slope(COUNTS, rounds)

    assert (found.slope.median, found.intercept.median) == pytest.approx((3, 7))
    assert found.slope.low == pytest.approx(3)
    assert found.slope.high == pytest.approx(90)


@pytest.mark.parametrize(
    ("counts", "shown"),
    [((), "none"), ((3,), "3"), ((0, 1), "0 1"), ((5, 1), "5 1"), ((1, 1), "1 1")],
)
def test_numbers_that_determine_no_slope_are_refused(counts, shown):
    with pytest.raises(UsageError) as caught:
        line(counts, [1.0] * len(counts))

    assert str(caught.value) == (
        f"evaluations: expected at least two increasing numbers from 1, found {shown}"
    )


def test_a_missing_time_is_refused():
    with pytest.raises(UsageError) as caught:
        slope((1, 2), [[1.0, 2.0], [1.0]])

    assert str(caught.value) == "times: expected 2, found 1"


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_what_is_no_number_has_no_median(values):
    with pytest.raises(UsageError, match=r"^values: expected finite numbers, found"):
        median_interval(values)


def test_a_ratio_to_nothing_is_refused():
    with pytest.raises(UsageError) as caught:
        ratio([1.0], [0.0])

    assert str(caught.value) == "ratio: expected 1 positive divisors, found [0.0]"


@pytest.mark.parametrize(
    "file", [RUNTIME / "timing.py", *sorted((RUNTIME / "bench").glob("*.py"))],
    ids=lambda file: file.stem,
)  # fmt: skip
def test_what_judges_holds_no_clock_file_or_socket(file):
    tree = ast.parse(file.read_text("utf-8"))
    imported = {
        name.name
        for n in ast.walk(tree)
        if isinstance(n, ast.Import)
        for name in n.names
    } | {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}

    assert not imported & {"time", "datetime", "os", "socket", "pathlib", "subprocess"}
