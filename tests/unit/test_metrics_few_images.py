"""What one image, or two, cannot say is absent, and what they can has its number."""

import numpy as np
import pytest

from runtime.errors import TensorMismatchError
from runtime.preprocess import AffineNormaliser
from training.metrics.controls import (
    encoding_control,
    pixel_control,
    retrieval_control,
    similarity_control,
)
from training.metrics.encoding import encoding_figures
from training.metrics.evaluation import (
    Design,
    image_figures,
    interval_value,
    retrieval_figures,
)
from training.metrics.result import Absent, Value
from training.metrics.spread import Sampled, spread_figures
from training.metrics.voxels import noise_ceiling

ONE = Absent("expected at least 2 images, found 1")


def rng():
    return np.random.default_rng(0)


def few(least, found):
    return Absent(f"expected at least {least} images, found {found}")


def retrieved(cosines):
    return retrieval_figures(
        cosines,
        Design.averaged(np.arange(len(cosines))),
        rng(),
        source="decoded latents",
        is_mean_subtracted=False,
    )


def encoded(predicted, measured, shown):
    """Two voxels; single trials in order of `shown`."""
    images = len(predicted)
    return encoding_figures(
        np.array(predicted, np.float32)[shown],
        np.array(measured, np.float32),
        Design.single(np.array(shown)),
        rng(),
        units=AffineNormaliser(np.zeros(2, "f"), np.ones(2, "f")),
        rois={"all voxels": np.ones(2, bool)},
        repeats=np.array(measured, np.float32),
        repeats_image=np.array(shown),
        draws=np.ones((4, images)),
    )


def test_one_image_is_not_retrieved_and_two_are():
    one, two = retrieved(np.ones((1, 1))), retrieved(np.array([[0.9, 0.1], [0.8, 0.7]]))

    assert (one.forward, one.backward, one.candidates) == (ONE, ONE, 1)
    # The second row is nearer to the first image; so no column mistakes its own.
    assert (two.forward.mean, two.backward.mean) == (0.5, 1.0)
    assert (two.forward.low, two.forward.high, two.forward.n) == (0.0, 1.0, 2)


def test_repeats_of_one_image_have_a_mean_and_no_interval():
    found = interval_value(np.array([0.2, 0.6]), np.zeros(2, np.int64), rng(), 0.5)
    both = interval_value(np.array([0.2, 0.6]), np.arange(2), rng())

    assert found == Value(mean=0.4, chance=0.5, n=1)
    # A quarter of the draws are twice the one, a quarter twice the other.
    assert (both.low, both.high, both.n) == (0.2, 0.6, 2)


def test_one_picture_is_like_what_was_decoded_without_an_interval():
    seen = np.random.default_rng(1).integers(0, 256, (1, 16, 16, 3), np.uint8)

    found = image_figures(
        seen,
        seen,
        Design.averaged(np.arange(1)),
        {},
        rng(),
        source="measured responses",
        decoder="own",
    )

    for figure in (found.pixcorr, found.ssim):
        assert figure.mean == pytest.approx(1.0)
        assert (figure.low, figure.high, figure.n) == (None, None, 1)


def test_one_image_has_no_correlation_variance_or_ceiling_across_images():
    found = encoded([[1, 2]], [[1, 3], [2, 4]], [0, 0])

    # ((0, 1) and (1, 2), squared) / 2.
    assert found.mse == Value(mean=(0.5 + 2.5) / 2, n=1)
    (roi,) = found.rois
    assert roi.correlation == few(3, 1)
    assert roi.explained_variance == ONE
    assert roi.ceiling == roi.normalised
    assert roi.ceiling == Absent("noise ceiling: expected at least 2 images, found 1")


def test_two_images_explain_variance_but_always_correlate():
    found = encoded([[1, 2], [2, 1]], [[1, 3], [3, 3]], [0, 1])

    (roi,) = found.rois
    assert roi.correlation == few(3, 2)
    # The first voxel varies by 1, of which 1 / 4 is left; the second never does.
    assert roi.explained_variance.mean == pytest.approx((1 - 0.25 + 0) / 2)


def test_three_images_correlate_by_hand():
    found = encoded([[1, 1], [2, 2], [3, 3]], [[1, 3], [2, 2], [3, 1]], [0, 1, 2])

    (roi,) = found.rois
    assert roi.correlation.mean == pytest.approx(0.0)  # 1 and -1


def test_repeats_of_one_image_have_no_noise_ceiling():
    with pytest.raises(TensorMismatchError) as caught:
        noise_ceiling(np.array([[1.0], [2.0]]), np.zeros(2, np.int64), 2)

    assert str(caught.value) == "noise ceiling: expected at least 2 images, found 1"


def test_controls_have_no_chance_among_too_few_images():
    picture = np.zeros((1, 16, 16, 3), np.uint8)

    controls = [
        retrieval_control(np.ones((1, 1)), 1, rng()),
        encoding_control(np.ones((2, 5)), np.ones((2, 5)), rng()),
        pixel_control(picture, picture, rng()),
        similarity_control(picture, picture, rng()),
    ]

    assert {one.metric: one.value for one in controls} == {
        "retrieval, forward": ONE,
        "encoding, r across images": few(3, 2),
        "PixCorr": ONE,
        "SSIM": ONE,
    }


def test_ratios_of_one_images_repeats_have_no_interval():
    predicted, betas = np.array([[3.0]]), np.array([[0.0], [2.0]])

    (found,) = spread_figures(
        predicted,
        Sampled(64, {"latents": np.array([[2.0]])}),
        betas,
        np.zeros(2, np.int64),
        rng(),
        draws=np.ones((4, 1)),
    )

    # Variance 4 of what is predicted; 2 of the repeats, 5 of the errors.
    assert found.repeat_ratio == Value(mean=2.0, n=1)
    assert found.error_ratio == Value(mean=0.8, n=1)
    assert found.coverage == Value(mean=1.0, n=1)
