"""Intervals: what is drawn together, what is paired, what a percentile needs."""

import numpy as np
import pytest

from runtime.errors import TensorMismatchError
from training.metrics.intervals import (
    image_draws,
    image_interval,
    is_enough_for,
    paired_interval,
    percentile,
    spread,
)


def rng():
    return np.random.default_rng(0)


def test_the_interval_of_a_mean_is_that_of_normal_theory():
    values = rng().normal(size=400)

    found = image_interval(values, rng())

    error = values.std() / 20
    assert found.mean == values.mean()
    # 4 000 draws: the limits themselves are known to about 4 % of the half width.
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_trials_of_an_image_are_drawn_together():
    # 50 images whose three trials are equal: 150 values hold what 50 do.
    of_image = rng().normal(size=50)
    values, images = np.repeat(of_image, 3), np.repeat(np.arange(50), 3)

    together = image_interval(values, rng(), images=images)
    apart = image_interval(values, rng())

    width = together.high - together.low
    assert width == pytest.approx(2 * 1.96 * of_image.std() / 50**0.5, rel=0.1)
    assert width > 1.5 * (apart.high - apart.low)


def test_people_are_drawn_and_the_same_image_of_two_people_is_two():
    people = np.repeat(np.arange(4), 100)
    images = np.tile(np.arange(100), 4)
    values = people.astype(float)

    found = image_interval(values, rng(), images=images, participants=people)

    # Four people at 0, 1, 2, 3: the mean of four draws has deviation sqrt(1.25) / 2.
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.559, rel=0.15)
    alone = image_interval(values[:100], rng(), images=images[:100])
    assert (alone.low, alone.high) == (0.0, 0.0)


def test_a_paired_difference_cancels_what_images_share():
    hard = rng().normal(size=200)
    ours = hard + 0.1
    others = hard + 0.01 * np.random.default_rng(1).normal(size=200)

    found = paired_interval(ours, others, rng())

    assert 0.09 < found.low < found.mean < found.high < 0.11
    assert image_interval(ours, rng()).low < image_interval(others, rng()).high


def test_draws_take_as_many_images_as_there_are():
    drawn = image_draws(7, rng(), 100)

    assert drawn.shape == (100, 7)
    assert (drawn.sum(axis=1) == 7).all()
    # Each is in a draw once on average; deviation sqrt(6/7) over 100 draws.
    assert drawn.mean(axis=0) == pytest.approx(np.ones(7), abs=4 * 0.093)


@pytest.mark.parametrize(("p", "n"), [(0.5, 20), (0.9, 100), (0.99, 1000)])
def test_a_percentile_needs_ten_values_beyond_it(p, n):
    assert is_enough_for(n, p)
    assert not is_enough_for(n - 1, p)
    assert percentile(list(range(n - 1)), p) is None


def test_the_spread_of_values_says_only_what_they_support():
    assert spread(np.arange(101.0)) == pytest.approx((10, 50, 90))
    assert spread(np.arange(99.0)) == (None, 49.0, None)
    assert spread(np.arange(19.0)) == (None, None, None)


def test_lengths_that_differ_are_refused():
    with pytest.raises(TensorMismatchError, match="participants"):
        image_interval(np.zeros(3), rng(), participants=np.zeros(2, np.int64))
    with pytest.raises(TensorMismatchError, match="paired values"):
        paired_interval(np.zeros(3), np.zeros(2), rng())
    with pytest.raises(TensorMismatchError):
        image_interval(np.zeros(0), rng())
