"""Laws of noise whitening, for residuals of any rank."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.preprocess import NoiseWhitening


@st.composite
def fits(draw):
    samples, voxels = draw(st.integers(2, 30)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = draw(st.integers(1, min(samples, voxels)))
    scale = 10.0 ** draw(st.integers(-3, 3))
    residuals = rng.standard_normal((samples, rank)) @ rng.standard_normal(
        (rank, voxels)
    )
    residuals = (scale * residuals).astype(np.float32)
    shrinkage = draw(st.floats(0.01, 1.0))
    features = (scale * rng.standard_normal((4, voxels))).astype(np.float32)
    return NoiseWhitening.fit(residuals, shrinkage=shrinkage), features


def near(found, wanted):
    # The condition number of the root is at most sqrt(30 / 0.01) = 55, each of the
    # two products rounds sums of 30 float32 numbers.
    room = 55 * 60 * np.finfo(np.float32).eps * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, atol=room, rtol=0)


@settings(max_examples=80, deadline=None)
@given(fits())
def test_colour_undoes_whiten_and_whiten_undoes_colour(case):
    fitted, features = case

    near(fitted.colour(fitted.whiten(features)), features)
    near(fitted.whiten(fitted.colour(features)), features)


@settings(max_examples=40, deadline=None)
@given(fits())
def test_whitening_is_symmetric_and_positive(case):
    fitted, features = case
    voxels = features.shape[1]

    root = fitted.whiten(np.eye(voxels, dtype=np.float32)).astype(np.float64)

    near(root, root.T)
    assert np.linalg.eigvalsh((root + root.T) / 2).min() > 0


@settings(max_examples=40, deadline=None)
@given(fits())
def test_rows_are_whitened_one_by_one_as_together(case):
    fitted, features = case

    together = fitted.whiten(features)

    near(np.stack([fitted.whiten(row) for row in features]), together)
