"""Crossed intervals: people and images drawn apart, against what can be computed."""

import itertools

import numpy as np
import pytest

from runtime.errors import TensorMismatchError
from training.metrics.crossed import crossed_draws, crossed_interval
from training.metrics.intervals import image_interval


def rng(seed=0):
    return np.random.default_rng(seed)


def table(values):
    """Every participant's value of every image, as flat arrays."""
    n_people, n_images = values.shape
    return values.ravel(), {
        "participants": np.repeat(np.arange(n_people), n_images),
        "images": np.tile(np.arange(n_images), n_people),
    }


def test_two_people_and_two_images_by_enumeration():
    values = np.array([[0.0, 1.0], [2.0, 7.0]])
    flat, groups = table(values)
    # Each of two is drawn (2, 0), (1, 1), (1, 1) or (0, 2) times, all as likely.
    times = [(2, 0), (1, 1), (1, 1), (0, 2)]
    exact = [
        float(np.array(people) @ values @ np.array(images)) / 4
        for people, images in itertools.product(times, times)
    ]

    found = crossed_draws(flat, rng(), resamples=16_000, **groups)

    assert set(found) == set(exact)
    for mean in set(exact):
        share = exact.count(mean) / len(exact)
        # A share is known to sqrt(p (1 - p) / 16 000), below .004.
        assert np.mean(found == mean) == pytest.approx(share, abs=0.016)


@pytest.mark.parametrize(("person", "image"), [(0.0, 0.0), (1.0, 0.0), (0.3, 2.0)])
def test_the_variance_of_the_draws_is_that_of_the_three_parts(person, image):
    n, m = 12, 30
    values = person * rng(1).normal(size=(n, 1)) + image * rng(2).normal(size=m)
    values = values + rng(3).normal(size=(n, m))
    people, images = values.mean(axis=1), values.mean(axis=0)
    left = values - people[:, None] - images + values.mean()
    flat, groups = table(values)

    found = crossed_draws(flat, rng(), **groups)

    wanted = people.var() / n + images.var() / m + left.var() / (n * m)
    # The variance of 4 000 draws is known to sqrt(2 / 4 000), 2.2 %.
    assert found.var() == pytest.approx(wanted, rel=0.09)
    assert found.mean() == pytest.approx(flat.mean(), abs=4 * (wanted / 4000) ** 0.5)


def test_an_image_that_is_hard_for_everybody_is_one_image():
    hard = rng().normal(size=25)
    flat, groups = table(np.tile(hard, (40, 1)))

    crossed = crossed_interval(flat, rng(), **groups)
    nested = image_interval(flat, rng(), **groups)

    width = crossed.high - crossed.low
    assert width == pytest.approx(2 * 1.96 * hard.std() / 5, rel=0.1)
    # Drawn within each of 40 people, the same 25 images pass for 1 000.
    assert nested.high - nested.low < width / 4


def test_people_who_differ_are_drawn_as_in_the_nested_interval():
    flat, groups = table(np.tile(np.arange(4.0)[:, None], (1, 100)))

    found = crossed_interval(flat, rng(), **groups)

    # Four people at 0, 1, 2, 3: the mean of four draws has deviation sqrt(1.25) / 2.
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.559, rel=0.15)
    assert found.mean == 1.5


def test_one_participant_leaves_the_interval_over_images():
    values = rng().normal(size=200)
    _, groups = table(values[None])

    crossed = crossed_interval(values, rng(), **groups)
    plain = image_interval(values, rng(1), images=groups["images"])

    error = values.std() / 200**0.5
    assert crossed.low == pytest.approx(plain.low, abs=0.2 * error)
    assert crossed.high == pytest.approx(plain.high, abs=0.2 * error)


def test_trials_of_an_image_are_drawn_together():
    flat, groups = table(rng().normal(size=(10, 30)))

    once = crossed_draws(flat, rng(), **groups)
    thrice = crossed_draws(
        np.tile(flat, 3), rng(), **{name: np.tile(g, 3) for name, g in groups.items()}
    )

    np.testing.assert_allclose(once, thrice, atol=1e-12)


def test_a_draw_without_a_value_is_left_out():
    # Nobody saw what the other saw: two draws in sixteen take one person twice and the
    # other's image twice.
    groups = {"participants": np.array([0, 1]), "images": np.array([5, 9])}

    found = crossed_draws(np.array([0.0, 1.0]), rng(), **groups)

    assert len(found) == pytest.approx(4000 * 7 / 8, abs=4 * (4000 * 7 / 64) ** 0.5)
    assert set(found) == {0.0, 0.5, 1.0}


def test_lengths_that_differ_are_refused():
    two = np.zeros(2, np.int64)
    with pytest.raises(TensorMismatchError, match="participants: expected one a value"):
        crossed_interval(np.zeros(2), rng(), images=two, participants=two[:1])
    with pytest.raises(TensorMismatchError, match=r"images: .* at least 1, found 0"):
        crossed_interval(np.zeros(0), rng(), images=two[:0], participants=two[:0])
