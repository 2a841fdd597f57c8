"""Retrieval: the published protocol, its exact expectation, and chance."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from runtime.errors import TensorMismatchError
from training.metrics.evaluation import Design, retrieval_figures
from training.metrics.intervals import image_interval
from training.metrics.result import Absent
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


def test_cosines_do_not_depend_on_what_is_widened_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(11, 2, 5)).astype(np.float32)
    items = rng.normal(size=(7, 2, 5)).astype(np.float32)
    mean = rng.normal(size=(2, 5)).astype(np.float32)

    whole = similarities(queries, items, query_mean=mean, item_mean=mean)
    a, b = ((x.astype(float) - mean).reshape(len(x), -1) for x in (queries, items))
    lengths = np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    np.testing.assert_allclose(whole, a @ b.T / lengths, rtol=1e-12, atol=1e-15)

    for rows in (1, 3, 8):
        monkeypatch.setattr("training.metrics.retrieval.BLOCK_BYTES", rows * 8 * 10)
        cut = similarities(queries, items, query_mean=mean, item_mean=mean)
        np.testing.assert_allclose(cut, whole, rtol=1e-12, atol=1e-15)


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


PLACES, GROUPS = 400, 60


def rivalled():
    """Return the brain's answers to 400 images, of which 180 stand in groups of three.

    The first two of a group look more like the third than like themselves, and the
    third is also like what no image is: forward the first two are wrong whenever the
    third is a candidate, backward the third whenever one of these is.
    """
    latents = np.eye(PLACES, PLACES + 1, dtype=np.float32)
    brain = latents.copy()
    for first in range(0, 3 * GROUPS, 3):
        brain[first : first + 2, first + 2] = 2
        brain[first + 2, PLACES] = 1
    return brain, latents


def replayed():
    """Return what the 30 draws of 300 give, counted and not computed."""
    rng = np.random.default_rng(0)
    forward, backward = [], []
    for _ in range(30):
        drawn = set(rng.choice(400, size=300, replace=False).tolist())
        groups = [
            [place in drawn for place in range(first, first + 3)]
            for first in range(0, 3 * GROUPS, 3)
        ]
        forward.append(300 - sum((a + b) * c for a, b, c in groups))
        backward.append(300 - sum((a or b) and c for a, b, c in groups))
    return forward, backward


def test_the_published_draws_mean_and_interval_by_counting():
    brain, latents = rivalled()
    forward, backward = replayed()

    found = retrieval_figures(
        similarities(brain, latents), Design.averaged(np.arange(PLACES)),
        np.random.default_rng(5), source="decoded latents", is_mean_subtracted=False,
    )  # fmt: skip

    # Right of 9,000: other draws, or draws of another seed, give other numbers.
    assert (sum(forward), sum(backward)) == (6977, 7728)
    for value, right in (
        (found.published_forward, forward),
        (found.published_backward, backward),
    ):
        mean = sum(right) / 30 / 300
        variance = sum((hits / 300 - mean) ** 2 for hits in right) / 30
        error = (variance / 30) ** 0.5
        assert error > 1e-4
        assert value.mean == pytest.approx(mean, abs=1e-12)
        assert value.high - value.mean == pytest.approx(norm.ppf(0.975) * error)
        assert value.mean - value.low == pytest.approx(norm.ppf(0.975) * error)
        assert value.chance == pytest.approx(1 / 300)
        assert value.n == PLACES
    # All of them are candidates for one another at the chance of 300 in 400.
    assert found.forward.mean == pytest.approx(
        1 - 2 * GROUPS / PLACES * 299 / 399, abs=1e-9
    )


def test_the_published_protocol_is_for_averaged_trials_of_enough_images():
    brain, latents = rivalled()
    twice = Design.single(np.tile(np.arange(PLACES), 2))
    few = Design.averaged(np.arange(299))

    single = retrieval_figures(
        similarities(np.tile(brain, (2, 1)), latents), twice,
        np.random.default_rng(5), source="decoded latents", is_mean_subtracted=False,
    )  # fmt: skip
    fewer = retrieval_figures(
        similarities(brain[:299], latents[:299]), few,
        np.random.default_rng(5), source="decoded latents", is_mean_subtracted=False,
    )  # fmt: skip

    for found, reason in (
        (single, "the published protocol is for averaged trials"),
        (fewer, "expected at least 300 images, found 299"),
    ):
        assert found.published_forward == found.published_backward == Absent(reason)


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
    # Picture 7 has one trial of three: it stands for itself in the second repetition.
    assert [rows.tolist() for rows in repetitions(shown[:3])] == [[1, 0], [2, 0]]
    assert repetitions(shown[:0]) == []


def test_too_few_images_are_refused():
    with pytest.raises(TensorMismatchError, match="at least 300 images"):
        published(np.eye(12))
    with pytest.raises(TensorMismatchError, match="at least 4 images"):
        expected_top1(np.eye(3), 4)
