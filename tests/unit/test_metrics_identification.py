"""Two-way identification and distance, by hand and at chance."""

import numpy as np
import pytest

from runtime.errors import TensorMismatchError
from training.metrics.identification import correlation_distances, two_way
from training.metrics.intervals import image_interval


def test_two_way_identification_by_hand():
    # Deviations: a (-1, 0, 1), b (1, 0, -1), c (0, 1, -1) up to scale.
    shown = np.array([[1.0, 2, 3], [3, 2, 1], [2, 3, 1]])
    decoded = np.array([[1.0, 2, 3], [2, 3, 1], [2, 3, 1]])

    # Reconstruction 0 = a: r with a 1, with b -1, with c -1/2: both others are worse.
    # Reconstruction 1 = c, shown b: r(b, c) = 1/2; a: -1/2 is worse, c: 1 is not: 1/2.
    # Reconstruction 2 = c, shown c: r = 1, a and b are worse.
    assert two_way(shown, decoded) == pytest.approx([1, 0.5, 1])


def test_two_way_is_the_loop_over_ordered_pairs():
    rng = np.random.default_rng(0)
    shown = rng.normal(size=(9, 4, 5))
    decoded = shown + 2 * rng.normal(size=shown.shape)

    hits = 0
    for j in range(9):
        own = np.corrcoef(shown[j].ravel(), decoded[j].ravel())[0, 1]
        for i in range(9):
            if i != j:
                other = np.corrcoef(shown[i].ravel(), decoded[j].ravel())[0, 1]
                hits += other < own

    assert two_way(shown, decoded).mean() == pytest.approx(hits / 72)


def test_a_tie_is_no_success():
    shown = np.tile(np.arange(5.0), (4, 1))

    assert two_way(shown, shown) == pytest.approx([0, 0, 0, 0])


def test_shuffled_reconstructions_are_at_chance_within_the_interval():
    rng = np.random.default_rng(1)
    shown = rng.normal(size=(200, 30))
    decoded = np.roll(shown + rng.normal(size=shown.shape), 1, axis=0)

    found = image_interval(two_way(shown, decoded), rng)

    assert found.low < 0.5 < found.high
    assert two_way(shown, np.roll(decoded, -1, axis=0)).mean() > 0.95


def test_correlation_distance_by_hand():
    shown = np.array([[1.0, 2, 3], [1, 2, 3], [1, 2, 3]])
    decoded = np.array([[2.0, 4, 6], [3, 2, 1], [1, 3, 2]])

    assert correlation_distances(shown, decoded) == pytest.approx([0, 2, 0.5])


def test_one_image_cannot_be_told_from_another():
    with pytest.raises(TensorMismatchError, match="at least two images"):
        two_way(np.ones((1, 3)), np.ones((1, 3)))
