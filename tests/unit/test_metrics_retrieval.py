"""Retrieval: the published protocol, its exact expectation, and chance."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import TensorMismatchError
from training.metrics.intervals import image_interval
from training.metrics.retrieval import (
    expected_top1,
    published,
    repetitions,
    similarities,
    top1,
)


def test_cosines_by_hand_with_and_without_the_mean():
    queries = np.array([[[3.0, 4.0]], [[4.0, 4.0]]])
    items = np.array([[[1.0, 0.0]], [[3.0, 3.0]]])
    mean = np.array([[3.0, 3.0]])

    # (3, 4) . (1, 0) / 5 = .6; (3, 4) . (1, 1) / (5 sqrt 2) = .98995.
    plain = similarities(queries, items)
    assert plain[0] == pytest.approx([0.6, 7 / (5 * 2**0.5)])
    # Less the mean: (0, 1) and (1, 1) against (-2, -3) and (0, 0).
    centred = similarities(queries, items, query_mean=mean, item_mean=mean)
    assert centred[0] == pytest.approx([-3 / 13**0.5, 0.0])
    assert centred[1] == pytest.approx([-5 / 26**0.5, 0.0])


def test_top1_and_its_expectation_by_hand():
    cosines = np.array(
        [
            [0.9, 0.1, 0.2, 0.3],
            [0.8, 0.5, 0.1, 0.1],
            [0.7, 0.8, 0.6, 0.1],
            [0.1, 0.1, 0.1, 0.4],
        ]
    )

    assert top1(cosines).tolist() == [True, False, False, True]
    # Rivals nearer: 0, 1, 2, 0 of 3. Two candidates: one other of three is drawn and
    # is no rival with 3/3, 2/3, 1/3, 3/3. Three: C(2,2)/C(3,2) = 1/3, C(1,2) = 0.
    assert expected_top1(cosines, 2) == pytest.approx([1, 2 / 3, 1 / 3, 1])
    assert expected_top1(cosines, 3) == pytest.approx([1, 1 / 3, 0, 1])
    assert expected_top1(cosines, 4) == pytest.approx([1, 0, 0, 1])
    assert expected_top1(cosines, 1) == pytest.approx([1, 1, 1, 1])


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 7), seed=st.integers(0, 10**6), data=st.data())
def test_the_expectation_is_the_mean_over_every_subset(n, seed, data):
    size = data.draw(st.integers(1, n))
    cosines = np.random.default_rng(seed).normal(size=(n, n))

    found = expected_top1(cosines, size)

    for i in range(n):
        others = [j for j in range(n) if j != i]
        hits = [
            all(cosines[i, j] < cosines[i, i] for j in drawn)
            for drawn in itertools.combinations(others, size - 1)
        ]
        assert found[i] == pytest.approx(np.mean(hits))


def test_the_published_protocol_approaches_the_expectation():
    rng = np.random.default_rng(2)
    latents = rng.normal(size=(120, 40))
    cosines = similarities(latents + 3 * rng.normal(size=latents.shape), latents)

    found = published(cosines, subsets=400, size=30)

    wanted = expected_top1(cosines, 30).mean()
    # Four of the protocol's own standard errors, which its interval spans 1.96 of.
    assert found.mean == pytest.approx(wanted, abs=4 / 3.92 * (found.high - found.low))
    assert published(cosines, subsets=3, size=30) == published(
        cosines, subsets=3, size=30
    )


def test_the_published_interval_by_hand():
    # Query 0 finds item 0, query 1 finds it too. Two of two are drawn every time, so
    # that every subset gives 1/2, the deviation is 0 and the interval a point.
    cosines = np.array([[1.0, 0.0], [0.5, 0.2]])

    found = published(cosines, subsets=5, size=2)

    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


def test_the_honest_interval_is_wider_than_the_published_one():
    rng = np.random.default_rng(3)
    latents = rng.normal(size=(400, 60))
    cosines = similarities(latents + 4 * rng.normal(size=latents.shape), latents)

    said = published(cosines)
    honest = image_interval(expected_top1(cosines, 300), rng)

    assert honest.low < said.mean < honest.high
    assert honest.high - honest.low > 3 * (said.high - said.low)


def test_shuffled_answers_are_at_chance_within_the_interval():
    rng = np.random.default_rng(4)
    latents = rng.normal(size=(400, 20))
    decoded = latents + 0.5 * rng.normal(size=latents.shape)
    wrong = similarities(np.roll(decoded, 1, axis=0), latents)

    found = image_interval(expected_top1(wrong, 2), rng)

    assert found.low < 0.5 < found.high
    assert expected_top1(similarities(decoded, latents), 2).mean() > 0.95


def test_constant_answers_are_not_right_by_their_order():
    cosines = similarities(np.ones((5, 3)), np.ones((5, 3)))

    assert expected_top1(cosines, 5) == pytest.approx(np.zeros(5))


def test_repetitions_hold_every_image_once_in_order():
    shown = np.array([7, 3, 3, 7, 3, 7])

    assert [rows.tolist() for rows in repetitions(shown)] == [[1, 0], [2, 3], [4, 5]]
    assert [rows.tolist() for rows in repetitions(shown[:3])] == [[1, 0]]
    assert repetitions(shown[:0]) == []


def test_too_few_images_are_refused():
    with pytest.raises(TensorMismatchError, match="at least 300 images"):
        published(np.eye(12))
    with pytest.raises(TensorMismatchError, match="at least 4 images"):
        expected_top1(np.eye(3), 4)
