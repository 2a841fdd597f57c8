"""Encoding figures across voxels by hand: in which units each of them is."""

import numpy as np
import pytest

from runtime.preprocess import AffineNormaliser
from training.metrics.encoding import encoding_figures
from training.metrics.evaluation import Design

# Two images, three voxels. Less their means the first rows are (-4, -1, 5) / 3 and
# (-1, -1, 2), the second ones (1, -1, 0) and (-4, -1, 5) / 3.
PREDICTED = np.array([[1, 2, 4], [3, 1, 2]], np.float32)
MEASURED = np.array([[2, 2, 5], [1, 2, 4]], np.float32)
MEANS_LEFT_IN = [5 / np.sqrt(42 / 9 * 6), -1 / np.sqrt(2 * 42 / 9)]
# Less 1, 2 and 3, and the third halved twice, the rows are (0, 0, 2) and (1, 0, 4),
# (2, -1, -2) and (0, 0, 2).
UNITS = AffineNormaliser(np.array([1, 2, 3], "f"), np.array([1, 1, 0.5], "f"))
MEANS_REMOVED = [
    (42 / 9) / np.sqrt(24 / 9 * 78 / 9),
    (-15 / 9) * 2 / np.sqrt(78 / 9 * 24 / 9),
]


def figures(predicted, measured, percent=None):
    return encoding_figures(
        predicted,
        measured,
        Design.averaged(np.arange(2)),
        np.random.default_rng(0),
        units=UNITS,
        rois={"all voxels": np.ones(3, bool)},
        repeats=measured,
        repeats_image=np.arange(2),
        draws=np.ones((1, 2)),
        percent=percent,
    )


def test_one_correlation_leaves_the_voxels_means_in_and_the_other_does_not():
    found = figures(PREDICTED, MEASURED)

    assert found.pearson_percent.mean == pytest.approx(np.mean(MEANS_LEFT_IN))
    assert found.pearson.mean == pytest.approx(np.mean(MEANS_REMOVED))
    # ((1, 0, 2) and (2, 1, 4), squared) / 3.
    assert found.mse.mean == pytest.approx((5 / 3 + 21 / 3) / 2)


def test_of_z_scores_the_means_that_are_left_in_are_those_in_percent():
    z_scores = np.array([[1, 0, -1], [0, 1, -1]], np.float32)

    found = figures(z_scores, z_scores[::-1].copy(), (PREDICTED, MEASURED))

    assert found.pearson_percent.mean == pytest.approx(np.mean(MEANS_LEFT_IN))
    # Less the units: (0, -2, -8) and (-1, -1, -8), whichever of them was predicted.
    a, b = np.array([10, 4, -14]) / 3, np.array([7, 7, -14]) / 3
    assert found.pearson.mean == pytest.approx(a @ b / np.sqrt(a @ a * (b @ b)))
