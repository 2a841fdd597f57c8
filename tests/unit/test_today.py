"""Today's normalisation goes as far from the bundle's as the trials can tell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import TensorMismatchError
from runtime.preprocess import AffineNormaliser, todays_normaliser

VOXELS = 400


def bundle(seed=0):
    rng = np.random.default_rng(seed)
    return AffineNormaliser(
        rng.standard_normal(VOXELS).astype(np.float32),
        rng.uniform(0.5, 2, VOXELS).astype(np.float32),
    )


def betas_of(normaliser, trials=80, gain=1.0, shift=0.0, seed=1):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((trials, VOXELS)) * gain + shift
    return (z * normaliser.scale + normaliser.mean).astype(np.float32)


def test_on_a_day_like_the_others_almost_nothing_moves():
    known = bundle()

    today = todays_normaliser(known, betas_of(known), np.arange(80))

    # Without shrinkage the shift's deviation would be 1 / sqrt(80) = .11.
    assert np.std((today.mean - known.mean) / known.scale) < 0.03
    assert np.std(np.log(today.scale / known.scale)) < 0.03


def test_a_known_shift_and_gain_are_found():
    known, rng = bundle(), np.random.default_rng(2)
    shift, gain = rng.standard_normal(VOXELS), np.exp(0.5 * rng.standard_normal(VOXELS))
    betas = betas_of(known, gain=gain, shift=shift)

    today = todays_normaliser(known, betas, np.arange(80))

    moved = (today.mean - known.mean) / known.scale
    assert np.sqrt(np.mean((moved - shift) ** 2)) < 1.5 * np.sqrt(np.mean(gain**2) / 80)
    assert np.std(np.log(today.scale / known.scale) - np.log(gain)) < 0.1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), gain=st.floats(0.2, 5), shift=st.floats(-3, 3))
def test_it_lies_between_the_bundle_and_today(seed, gain, shift):
    known = bundle()
    betas = betas_of(known, 30, gain, shift, seed)

    today = todays_normaliser(known, betas, np.arange(30))

    mean, deviation = betas.mean(axis=0), betas.std(axis=0, ddof=1)
    slack = 1e-4 * (1 + np.abs(mean) + np.abs(known.mean))
    low, high = np.minimum(mean, known.mean), np.maximum(mean, known.mean)
    assert ((today.mean >= low - slack) & (today.mean <= high + slack)).all()
    low, high = np.minimum(deviation, known.scale), np.maximum(deviation, known.scale)
    assert ((today.scale >= low * 0.999) & (today.scale <= high * 1.001)).all()


def test_repeats_of_an_image_count_once_for_the_mean():
    known = bundle()
    few = betas_of(known, 20, shift=np.random.default_rng(3).standard_normal(VOXELS))

    once = todays_normaliser(known, few, np.arange(20))
    often = todays_normaliser(
        known, np.concatenate([few, np.repeat(few[:1], 30, axis=0)]),
        np.concatenate([np.arange(20), np.zeros(30, np.int64)]),
    )  # fmt: skip

    np.testing.assert_allclose(often.mean, once.mean, rtol=1e-4, atol=1e-4)


def test_a_voxel_that_is_silent_today_or_was_in_the_bundle_counts_as_zero():
    known = bundle()
    known.scale[3] = 0
    betas = betas_of(bundle())
    betas[:, 5] = 7.0

    today = todays_normaliser(known, betas, np.arange(80))

    assert today.scale[3] == today.scale[5] == 0
    assert np.count_nonzero(today.scale) == VOXELS - 2
    assert np.isfinite(today.normalise(betas)).all()


def test_one_image_is_not_enough():
    known = bundle()

    with pytest.raises(TensorMismatchError) as error:
        todays_normaliser(known, betas_of(known, 5), np.zeros(5, np.int64))

    assert str(error.value) == "betas: expected at least 2 images, found 1"
