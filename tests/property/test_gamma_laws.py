"""The gamma distribution that the blood response is made of, beside scipy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammainc

from runtime.preprocess.gamma import gamma_distribution

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

    # The logarithm of the leading term, of the size of shape times its own logarithm,
    # is rounded; its error is the share's relative one.
    rounding = 4 * np.finfo(float).eps * shape * np.log(5000)
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
