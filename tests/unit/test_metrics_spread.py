"""Sampled single trials: by hand, on a model whose spread is known, and calibrated."""

import numpy as np
import pytest

from runtime.errors import TensorMismatchError
from training.metrics.ledger import shared_draws
from training.metrics.result import Absent
from training.metrics.spread import (
    Sampled,
    check_spread,
    residuals_of,
    sampled_deviations,
    spread_figures,
)

ALONE, WHOLE = "latents", "latents and what they leave out"


class Linear:
    """z_n is the response's share of some directions; the flow doubles z_v."""

    def __init__(self, directions):
        self.directions = directions

    def neural_latents(self, betas):
        return (betas @ self.directions.T)[:, None]

    def expected_latents(self, latents):
        return 2 * latents

    def responses(self, latents):
        return latents[:, 0] @ self.directions


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("said", "coverage", "ratio"), [(1, 0.95, 1), (0.5, 0.67, 0.25)]
)
def test_a_spread_is_held_against_repeats(said, coverage, ratio):
    truth = rng(3).normal(size=(100, 40))
    image = np.repeat(np.arange(100), 5)
    betas = truth[image] + rng(4).normal(size=(500, 40))

    found = check_spread(truth, np.full_like(truth, said), betas, image)

    # P(|z| < 1.96) = .95, P(|z| < .98) = .673, over 20 000 numbers.
    assert found.coverage == pytest.approx(coverage, abs=0.01)
    assert found.repeat_ratio == pytest.approx(ratio, abs=0.02)
    # The prediction is the truth, so that its errors are the repeats' noise.
    assert found.error_ratio == pytest.approx(ratio, abs=0.02)


def test_a_spread_by_hand():
    # Repeats 0, 2 about 1: within 2 / (2 - 1) = 2, said 4: ratio 2. Errors of 3 are
    # 9 and 1, mean 5: ratio 4 / 5. Of 0 and 2 against 3 +- 1.96 * 2 both lie within;
    # with deviation .6, 3 +- 1.18, only 2 does.
    predicted, betas = np.array([[3.0]]), np.array([[0.0], [2.0]])
    image = np.zeros(2, dtype=np.int64)

    found = check_spread(predicted, np.array([[2.0]]), betas, image)
    assert found.coverage == 1.0
    assert found.repeat_ratio == pytest.approx(2.0)
    assert found.error_ratio == pytest.approx(0.8)
    narrow = np.array([[0.6]])
    assert check_spread(predicted, narrow, betas, image).coverage == 0.5
    # Of three samples: t of two degrees is 4.30, and 3 +- 2.58 holds 2 alone as well;
    # of two, t of one degree is 12.7, and both lie within.
    assert check_spread(predicted, narrow, betas, image, samples=3).coverage == 0.5
    assert check_spread(predicted, narrow, betas, image, samples=2).coverage == 1.0


@pytest.mark.parametrize("samples", [4, 12, 64])
def test_a_true_forecast_covers_95_percent_of_however_many_samples(samples):
    images, voxels = 40, 400
    drawn = rng(1).normal(size=(samples, images, voxels))
    image = np.repeat(np.arange(images), 3)
    betas = rng(2).normal(size=(len(image), voxels))

    found = check_spread(
        np.zeros((images, voxels)), drawn.std(axis=0, ddof=1), betas, image, samples
    )

    # 48 000 numbers, three to a deviation.
    assert found.coverage == pytest.approx(0.95, abs=0.004)


def test_images_with_more_repeats_count_by_their_freedom():
    # Image 0 twice, at -1 and 1: squares 2, one degree. Image 1 three times, at 0, 0
    # and 3: squares 6, two degrees. Pooled 8 / 3; said 1 for both.
    betas = np.array([[-1.0], [1.0], [0.0], [0.0], [3.0]])
    image = np.array([0, 0, 1, 1, 1])

    found = check_spread(np.zeros((2, 1)), np.ones((2, 1)), betas, image)

    assert found.freedom.tolist() == [1, 2]
    assert found.repeats == pytest.approx([2, 6])
    assert found.repeat_ratio == pytest.approx(3 / 8)
    # Errors: mean of 1, 1 and mean of 0, 0, 9; of images 2 in the mean.
    assert found.errors == pytest.approx([1, 3])
    assert found.error_ratio == pytest.approx(1 / 2)


def test_with_its_own_residuals_a_trial_comes_out_as_it_was_measured():
    maps = Linear(rng().normal(size=(2, 5)).astype(np.float32))
    betas = rng(1).normal(size=(6, 5)).astype(np.float32)
    z_v = rng(2).normal(size=(3, 1, 2)).astype(np.float32)
    shown = np.array([0, 1, 2, 2, 1, 0])

    found = residuals_of(maps, betas, shown, z_v)
    again = maps.responses(maps.expected_latents(z_v)[shown] + found.latents)

    np.testing.assert_allclose(again + found.voxels, betas, atol=1e-5)


def test_samples_of_a_linear_model_spread_as_its_residuals_do():
    # One direction, (.6, .8, 0): the latent holds that share of a trial and no more.
    maps = Linear(np.array([[0.6, 0.8, 0.0]], np.float32))
    z_v = np.array([[[1.0]], [[-2.0]]], np.float32)
    shown = np.array([0, 0, 1, 1])
    betas = np.array(
        [[3.0, 0.0, 1.0], [0.0, 1.0, -1.0], [-5.0, 0.0, 2.0], [0.0, -5.0, 0.0]],
        np.float32,
    )
    # z_n: 1.8, .8, -3, -4; expected 2, 2, -4, -4: left over -.2, -1.2, 1, 0.
    left = np.array([-0.2, -1.2, 1.0, 0.0])

    found = residuals_of(maps, betas, shown, z_v)
    sampled = sampled_deviations(maps, z_v, found, rng(), samples=4)
    deviations = sampled.deviations

    assert sampled.samples == 4
    np.testing.assert_allclose(found.latents[:, 0, 0], left, atol=1e-6)
    np.testing.assert_allclose(
        deviations[ALONE], 2 * [left.std(ddof=1) * np.array([0.6, 0.8, 0])], rtol=1e-5
    )
    # All four are drawn, for each image: the deviation of trials about the prediction.
    about = betas - maps.responses(maps.expected_latents(z_v))[shown]
    np.testing.assert_allclose(
        deviations[WHOLE], 2 * [about.std(axis=0, ddof=1)], rtol=1e-5
    )


def test_of_a_true_model_whole_samples_are_calibrated_and_latents_alone_too_narrow():
    # Signal and trial variability within 4 directions, white noise outside of them too.
    directions = np.linalg.qr(rng().normal(size=(30, 4)))[0].T.astype(np.float32)
    maps = Linear(directions)
    z_v = rng(1).normal(size=(80, 1, 4)).astype(np.float32)

    def trials(seed, shown):
        z = 2 * z_v[shown][:, 0] + rng(seed).normal(size=(len(shown), 4))
        noise = rng(seed + 1).normal(size=(len(shown), 30))
        return (z @ directions + noise).astype(np.float32)

    pool, shown = np.arange(40).repeat(3), np.arange(40, 80).repeat(3)
    residuals = residuals_of(maps, trials(10, pool), pool, z_v)
    images, row = np.unique(shown, return_inverse=True)
    sampled = sampled_deviations(maps, z_v[images], residuals, rng(5))
    predicted = maps.responses(maps.expected_latents(z_v[images]))

    draws = shared_draws([str(image) for image in images])
    alone, whole = spread_figures(
        predicted, sampled, trials(20, shown), row, rng(6), draws=draws
    )

    assert (alone.source, whole.source) == (ALONE, WHOLE)
    # 120 trials of 30 voxels.
    assert whole.coverage.mean == pytest.approx(0.95, abs=0.012)
    for figure in (whole.repeat_ratio, whole.error_ratio):
        assert figure.mean == pytest.approx(1, abs=0.1)
        assert figure.low < figure.mean < figure.high
        assert figure.n == 40
    # Of variance 4 (trials) + 4 (noise) within and 26 without, the latents hold 8.
    assert alone.repeat_ratio.mean == pytest.approx(8 / 34, abs=0.04)
    assert alone.coverage.mean < 0.8


def test_what_cannot_be_sampled_or_held_against_repeats_says_so():
    betas, once = np.zeros((3, 2), np.float32), np.arange(3)
    draws = np.ones((1, 3))

    with pytest.raises(TensorMismatchError, match="more than once"):
        check_spread(betas, betas, betas, once)
    with pytest.raises(TensorMismatchError, match="trials of all 3 images"):
        check_spread(betas, betas, betas, np.array([0, 0, 1]))
    (absent,) = spread_figures(
        betas, Sampled(3, {ALONE: betas}), betas, once, rng(), draws=draws
    )
    assert "more than once" in absent.coverage.reason
    (absent,) = spread_figures(
        betas, Absent("no split"), betas, once, rng(), draws=draws
    )
    assert absent.error_ratio == Absent("no split")
    maps = Linear(np.ones((1, 2), np.float32))
    one = residuals_of(maps, betas[:1], np.array([0]), np.zeros((1, 1, 1), np.float32))
    with pytest.raises(TensorMismatchError, match="at least two"):
        sampled_deviations(maps, np.zeros((1, 1, 1), np.float32), one, rng())
