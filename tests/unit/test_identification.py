"""How well trials tell their images: by hand, at chance, and its intervals."""

import numpy as np
import pytest
from scipy.stats import norm

from runtime.identification import CONFIDENCE, identification, mean_interval

NOWHERE = np.zeros(2, np.float32)


def around(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def told(found, expected, own, centre=NOWHERE):
    return identification(found, expected, np.array(own), centre)


def test_identification_by_hand():
    # From 0 degrees: cosines 1 of its own, 0 and 1/2 of the others: mean 1/4, deviation
    # sqrt(1/8), and sqrt(1 + 1/2) for the next one to be drawn.
    score = told(around(0), around(0, 90, 60), [0])

    steps = 0.75 / (np.sqrt(1 / 8) * np.sqrt(1.5))
    assert score == pytest.approx([norm.cdf(steps)], rel=1e-6)


def test_what_is_told_apart_is_near_one_and_its_opposite_near_nothing():
    expected = around(0, 100, 140, 220)

    right, wrong = told(around(0, 180), expected, [0, 0])

    assert right > 0.99
    assert wrong < 0.01
    assert right + wrong == pytest.approx(1)


def test_what_says_nothing_has_chance():
    assert told(np.zeros((1, 2), np.float32), around(0, 90, 60), [0]) == [0.5]
    assert told(around(0), around(0, 90, 90), [0]) == [0.5]


def test_a_shift_of_everything_changes_nothing_from_its_centre():
    found, expected = around(10, 80, 200), around(0, 90, 180)
    shift = np.array([3, -4], np.float32)

    there = told(found + shift, expected + shift, [0, 1, 2], shift)

    assert there == pytest.approx(told(found, expected, [0, 1, 2]), abs=1e-5)


def test_it_is_the_share_of_ever_more_others_that_are_less_alike():
    rng = np.random.default_rng(0)
    own, found = rng.standard_normal((2, 400, 60)).astype(np.float32)
    found += 0.5 * own
    few, many = (
        np.mean(
            [
                identification(
                    found[k : k + 1],
                    np.vstack([own[k], rng.standard_normal((count, 60))]).astype(
                        np.float32
                    ),
                    np.array([0]),
                    np.zeros(60, np.float32),
                )
                for k in range(400)
            ]
        )
        for count in (19, 300)
    )
    share = np.mean(
        [
            np.mean(
                _cosines(found[k], rng.standard_normal((300, 60)))
                < _cosines(found[k], own[k : k + 1])
            )
            for k in range(400)
        ]
    )

    # A share of 300 varies by 0.03 at most, 400 of them by a twentieth of that; trials
    # themselves are the same.
    assert many == pytest.approx(share, abs=0.01)
    assert few == pytest.approx(share, abs=0.02)


def _cosines(one, rows):
    return rows @ one / np.linalg.norm(rows, axis=1)


def test_an_interval_holds_the_mean_over_images_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        image = np.arange(60)
        found = mean_interval(rng.standard_normal(60), image)
        inside += found.low <= 0 <= found.high

    # 300 draws at .95 have a deviation of .013; the bootstrap of 60 is a little short.
    assert inside / 300 > CONFIDENCE - 0.04


def test_folds_that_share_trials_widen_an_interval_about_its_mean():
    values = np.random.default_rng(1).standard_normal(30)

    plain = mean_interval(values, np.arange(30))
    wide = mean_interval(values, np.arange(30), folds=5)

    assert wide.mean == plain.mean
    assert wide.high - wide.mean == pytest.approx(1.5 * (plain.high - plain.mean))
    assert wide.mean - wide.low == pytest.approx(1.5 * (plain.mean - plain.low))


def test_trials_of_an_image_are_drawn_together():
    values = np.random.default_rng(1).standard_normal(30)

    once = mean_interval(values, np.arange(30))
    thrice = mean_interval(np.repeat(values, 3), np.repeat(np.arange(30), 3))

    assert thrice.mean == pytest.approx(once.mean)
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low)
