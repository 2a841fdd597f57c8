"""Metrics of predicted responses: numbers worked out by hand, laws, and calibration."""

import numpy as np
import pytest

from runtime.errors import TensorMismatchError
from training.metrics.intervals import image_draws
from training.metrics.voxels import (
    correlation_interval,
    correlations_across_images,
    correlations_across_voxels,
    cosines_across_voxels,
    explained_variances,
    image_means,
    noise_ceiling,
    normalised_by_ceiling,
    squared_errors,
)

MEASURED = np.array([[1.0, 2.0, 3.0], [2.0, 1.0, 0.0]])
PREDICTED = np.array([[1.0, 3.0, 2.0], [2.0, 2.0, 1.0]])


def test_metrics_of_an_image_by_hand():
    # Differences (0, 1, -1) and (0, 1, 1): 2/3 each.
    assert squared_errors(PREDICTED, MEASURED) == pytest.approx([2 / 3, 2 / 3])
    # (-1, 1, 0) . (-1, 0, 1) = 1 / 2; (1, 1, -2)/3 . (1, 0, -1) = 1 / sqrt(2/3 * 2).
    wanted = [0.5, 3**0.5 / 2]
    assert correlations_across_voxels(PREDICTED, MEASURED) == pytest.approx(wanted)
    # (1 + 6 + 6) / 14, and (4 + 2) / sqrt(9 * 5).
    wanted = [13 / 14, 6 / 45**0.5]
    assert cosines_across_voxels(PREDICTED, MEASURED) == pytest.approx(wanted)


def test_metrics_of_a_voxel_by_hand():
    measured = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    predicted = np.array([[5.0, 1.0], [7.0, 2.0], [6.0, 3.0]])

    # Deviations (-1, 0, 1) and (-1, 1, 0): 1/2. The second voxel never varies: 0.
    found = correlations_across_images(predicted, measured)
    assert found == pytest.approx([0.5, 0.0])
    # Residuals (-5, -6, -4) have variance 2/3, as the measurement: nothing explained.
    assert explained_variances(predicted, measured) == pytest.approx([0.0, 0.0])
    assert explained_variances(measured + 3, measured)[0] == pytest.approx(1.0)
    # Half the scale leaves a quarter of the variance.
    assert explained_variances(measured / 2, measured)[0] == pytest.approx(0.75)


def test_the_noise_ceiling_by_hand():
    # Image 0: 0, 2; image 1: 4, 6. Within: (1 + 1 + 1 + 1) / (4 - 2) = 2. Total, about
    # 3: (9 + 1 + 1 + 9) / 3 = 20/3. Signal 14/3, ncsnr^2 = 7/3:
    # one trial 7/3 / (7/3 + 1) = .7; two 7/3 / (7/3 + 1/2) = 14/17.
    betas, shown = np.array([[0.0], [2.0], [4.0], [6.0]]), np.array([0, 0, 1, 1])

    assert noise_ceiling(betas, shown, 1) == pytest.approx([0.7])
    assert noise_ceiling(betas, shown, 2) == pytest.approx([14 / 17])
    assert image_means(betas, shown)[0].tolist() == [[1.0], [5.0]]


def test_a_prediction_that_is_the_truth_reaches_the_ceiling_on_average():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(400, 300))
    shown = np.repeat(np.arange(400), 3)
    betas = truth[shown] + 1.5 * rng.normal(size=(1200, 300))

    measured, _ = image_means(betas, shown)
    ceiling = noise_ceiling(betas, shown, 3)
    ratio = normalised_by_ceiling(correlations_across_images(truth, measured), ceiling)

    # Signal 1, noise 2.25 over three trials: 1 / 1.75, with 300 voxels of 400 images.
    assert ceiling.mean() == pytest.approx(1 / 1.75, abs=0.01)
    assert np.nanmean(ratio) == pytest.approx(1.0, abs=0.01)


def test_voxels_without_a_ceiling_are_left_out_and_not_divided_by():
    found = normalised_by_ceiling(np.array([0.3, 0.3]), np.array([0.36, 0.01]))

    assert found[0] == pytest.approx(0.5)
    assert np.isnan(found[1])


def test_the_interval_of_a_correlation_holds_its_value_and_shuffled_ones_hold_zero():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(80, 20))
    measured = truth + rng.normal(size=truth.shape)
    every = np.ones(20, dtype=bool)

    found = correlation_interval(truth, measured, every, rng)
    shuffled = correlation_interval(np.roll(truth, 1, axis=0), measured, every, rng)

    expected = np.corrcoef(truth[:, 0], measured[:, 0])[0, 1]
    one = correlation_interval(truth, measured, np.arange(20) == 0, rng)
    assert one.mean == pytest.approx(expected)
    # 20 voxels of correlation 1 / sqrt 2; the deviation over 80 images is below .1.
    assert found.low < 0.5**0.5 < found.high
    assert found.high - found.low < 0.2
    assert shuffled.low < 0 < shuffled.high


def test_the_interval_is_that_of_correlations_of_the_drawn_images():
    rng = np.random.default_rng(4)
    # Means far from zero: a moment that is not about the mean would show.
    truth = 5 + rng.normal(size=(15, 3))
    measured = truth + rng.normal(size=truth.shape) - 9
    every = np.ones(3, dtype=bool)

    found = correlation_interval(
        truth, measured, every, np.random.default_rng(6), draws=120
    )

    means = []
    for counts in image_draws(15, np.random.default_rng(6), 120):
        rows = np.repeat(np.arange(15), counts.astype(int))
        pairs = [np.corrcoef(truth[rows, k], measured[rows, k])[0, 1] for k in range(3)]
        means.append(np.mean(pairs))
    wanted = np.percentile(means, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx(tuple(wanted))


def test_shuffled_predictions_explain_nothing_across_images():
    rng = np.random.default_rng(2)
    means = 10 * rng.normal(size=50)
    truth = means + rng.normal(size=(60, 50))
    measured = truth + rng.normal(size=truth.shape)
    wrong = np.roll(truth, 1, axis=0)

    # What the module says of the two kinds: the voxels' means make any image's
    # prediction good across voxels, and no good across images.
    assert correlations_across_voxels(wrong, measured).mean() > 0.95
    # Fifty voxels of sixty images: standard error below 1 / sqrt(50 * 60) * 2.
    assert abs(correlations_across_images(wrong, measured).mean()) < 0.08


def test_what_needs_repeats_says_so():
    betas, once = np.zeros((3, 2)), np.arange(3)

    with pytest.raises(TensorMismatchError, match="more than once"):
        noise_ceiling(betas, once, 3)
    with pytest.raises(TensorMismatchError, match="at least one"):
        correlation_interval(
            betas, betas, np.zeros(2, dtype=bool), np.random.default_rng(0)
        )
