"""The gamma distribution that the blood response is made of, beside scipy's."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammainc

from runtime.preprocess.gamma import gamma_distribution
from runtime.preprocess.hrf import CANONICAL, trial_regressor
from runtime.preprocess.timing import middles_s

shapes = st.floats(0.05, 2000.0)
values = st.lists(st.floats(0.0, 5000.0), min_size=1, max_size=20).map(np.array)


@given(values, shapes)
def test_it_is_scipys(x, shape):
    np.testing.assert_allclose(
        gamma_distribution(x, shape), gammainc(shape, x), rtol=1e-9, atol=1e-12
    )


@given(values, shapes)
def test_it_rises_from_0_to_1(x, shape):
    share = gamma_distribution(np.sort(x), shape)

    # The logarithm of the leading term is a difference of numbers of the size of shape
    # times its own logarithm and of the largest value that counts, each rounded; its
    # error is the share's relative one.
    rounding = 4 * np.finfo(float).eps * (shape * np.log(5000) + 80)
    assert share.min() >= 0
    assert share.max() <= 1
    assert np.all(np.diff(share) >= -rounding)


def test_nothing_lies_below_0_and_all_below_a_large_value():
    share = gamma_distribution(np.array([0.0, 1e6]), 6.0)

    assert share[0] == 0.0
    assert share[1] == pytest.approx(1.0, abs=1e-14)


def test_the_canonical_response_agrees_to_the_last_digits():
    x = np.linspace(0.0, 32.0, 1000)

    for shape in (6.0, 16.0):
        np.testing.assert_allclose(
            gamma_distribution(x, shape), gammainc(shape, x), rtol=2e-14, atol=1e-300
        )


def plainly(values, shape):
    """The series term by term for every volume, as it was before it was made quick."""
    x = np.minimum(values, shape + 12.0 * np.sqrt(shape) + 80.0)
    with np.errstate(divide="ignore"):
        logarithm = shape * np.log(x) - x - math.lgamma(shape + 1.0)
    term, total, order = np.ones_like(x), np.ones_like(x), shape
    while np.any(term > np.finfo(np.float64).eps / 4 * total):
        order += 1.0
        term = term * x / order
        total = total + term
    return np.minimum(np.exp(logarithm) * total, 1.0)


@given(values, shapes)
def test_terms_beyond_the_last_that_matters_change_no_bit(x, shape):
    assert gamma_distribution(x, shape).tobytes() == plainly(x, shape).tobytes()


@given(
    st.floats(-20.0, 400.0),
    st.floats(0.01, 40.0),
    st.floats(0.3, 3.0),
    st.integers(1, 300),
)
def test_a_regressor_has_the_bits_that_each_volume_alone_has(onset, long, tr, volumes):
    times = middles_s(volumes, tr) - onset

    def response(times_s):
        since = np.clip(times_s, 0.0, CANONICAL.length_s)
        peak, undershoot = plainly(since, 6.0), plainly(since, 16.0)
        ratio = CANONICAL.undershoot_ratio
        return (peak - ratio * undershoot) / (1.0 - ratio)

    wanted = response(times) - response(times - long)
    found = trial_regressor(onset, long, tr, volumes)
    assert found.tobytes() == wanted.tobytes()
