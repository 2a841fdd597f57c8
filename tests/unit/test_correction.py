"""The correction of the first layer: its algebra, and when it is worth something."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.correction import (
    NO_CORRECTION,
    PENALTIES,
    CorrectedModel,
    choose_penalty,
    fit_correction,
    image_folds,
)
from tests.linear_model import LinearModel


def problem(images=12, repeats=2, voxels=40, seed=0):
    rng = np.random.default_rng(seed)
    image = np.tile(np.arange(images), repeats)
    predicted = rng.standard_normal((images, voxels)).astype(np.float32)[image]
    noise = rng.standard_normal(predicted.shape)
    return (predicted * 1.5 + noise).astype(np.float32), predicted, image


def primal(features, predicted, penalty):
    """T by the normal equations in voxels, a sum over single trials."""
    x, s = features.astype(np.float64), predicted.astype(np.float64)
    kinds = np.unique(s, axis=0)
    counts = np.array([(s == kind).all(axis=1).sum() for kind in kinds])
    unit = (counts * (kinds**2).sum(axis=1)).mean()
    voxels = s.shape[1]
    return (x - s).T @ s @ np.linalg.inv(s.T @ s + penalty * unit * np.eye(voxels))


@settings(max_examples=25, deadline=None)
@given(
    penalty=st.sampled_from(PENALTIES),
    rank=st.integers(1, 60),
    seed=st.integers(0, 1000),
)
def test_correcting_the_input_is_correcting_the_layer_for_any_weights(
    penalty, rank, seed
):
    features, predicted, image = problem(seed=seed)
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((rank, features.shape[1]))
    x = rng.standard_normal(features.shape[1]).astype(np.float32)
    T = primal(features, predicted, penalty)

    correction = fit_correction(features, predicted, image, penalty)

    moved = W @ correction.apply(x).astype(np.float64)
    wanted = (W + W @ T.T) @ x
    # The factors are float32: a product over 40 voxels errs by about 40 of its eps.
    scale = (
        np.linalg.norm(W, axis=1).max() * np.linalg.norm(x) * (1 + np.linalg.norm(T))
    )
    np.testing.assert_allclose(
        moved, wanted, atol=40 * np.finfo(np.float32).eps * scale
    )


def test_its_rank_is_that_of_the_images_and_not_of_the_trials():
    features, predicted, image = problem(images=7, repeats=5)

    correction = fit_correction(features, predicted, image, 1.0)

    assert correction.reads.shape == correction.writes.shape == (7, 40)


def test_a_batch_is_corrected_row_by_row():
    features, predicted, image = problem()
    correction = fit_correction(features, predicted, image, 1.0)

    together = correction.apply(features)

    apart = np.stack([correction.apply(row) for row in features])
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-5)


def test_a_penalty_without_end_is_no_correction():
    assert fit_correction(*problem(), NO_CORRECTION) is None


def test_where_measured_is_predicted_nothing_moves():
    _, predicted, image = problem()

    correction = fit_correction(predicted, predicted, image, 0.1)

    np.testing.assert_array_equal(correction.apply(predicted), predicted)
    assert choose_penalty(predicted, predicted, image) == NO_CORRECTION


def test_a_known_gain_is_undone_up_to_its_square():
    """Noise-free and in the span: the adjoint of a gain g weighs by g once more."""
    rng = np.random.default_rng(1)
    predicted = rng.standard_normal((60, 20)).astype(np.float32)
    gain = rng.uniform(0.5, 1.5, 20).astype(np.float32)

    correction = fit_correction(predicted * gain, predicted, np.arange(60), 1e-9)

    rows = rng.standard_normal((3, 20)).astype(np.float32)
    np.testing.assert_allclose(correction.apply(rows), rows * gain, rtol=1e-3)


def test_a_rotation_of_the_tuning_is_turned_back():
    rng = np.random.default_rng(2)
    predicted = rng.standard_normal((80, 30)).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((30, 30)))[0].astype(np.float32)

    correction = fit_correction(predicted @ turn.T, predicted, np.arange(80), 1e-9)

    unseen = rng.standard_normal((5, 30)).astype(np.float32)
    np.testing.assert_allclose(correction.apply(unseen @ turn.T), unseen, atol=1e-3)


def test_a_model_with_a_correction_is_the_model_on_corrected_features():
    features, predicted, image = problem()
    correction = fit_correction(features, predicted, image, 1.0)
    model = LinearModel(40)

    corrected = CorrectedModel(model, correction)

    wanted = LinearModel(40).encode_voxels(correction.apply(features[0]))
    np.testing.assert_array_equal(corrected.encode_voxels(features[0]), wanted)
    np.testing.assert_array_equal(corrected.decode_latent(wanted), -wanted)


@given(image=st.lists(st.integers(0, 12), min_size=1, max_size=60))
def test_every_trial_is_left_out_once_and_no_image_is_on_both_sides(image):
    image = np.array(image)

    folds = image_folds(image)

    np.testing.assert_array_equal(np.sum(folds, axis=0), 1)
    for held in folds:
        assert held.any()
        assert not set(image[held]) & set(image[~held])


def test_where_each_image_is_shown_once_a_fold_is_a_stretch_of_time():
    folds = image_folds(np.random.default_rng(0).permutation(50))

    for held in folds:
        assert np.ptp(np.flatnonzero(held)) == held.sum() - 1
