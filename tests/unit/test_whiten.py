"""Noise whitening against dense covariances in float64."""

import numpy as np
import pytest

from runtime.errors import ConfigError, TensorMismatchError
from runtime.preprocess import NoiseWhitening, whiten


def correlated(samples, voxels, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((samples, 3)) @ rng.standard_normal((3, voxels))
    own = rng.standard_normal((samples, voxels)) * rng.uniform(0.5, 2, voxels)
    return (shared + own).astype(np.float32)


def dense_covariance(residuals, shrinkage, degrees=None):
    rows = residuals.astype(np.float64)
    covariance = rows.T @ rows / (degrees or len(rows))
    voxels = covariance.shape[0]
    mean = np.trace(covariance) / voxels
    return shrinkage * mean * np.eye(voxels) + (1 - shrinkage) * covariance


def power(matrix, exponent):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


@pytest.mark.parametrize("samples", [400, 40, 12, 2])
@pytest.mark.parametrize("shrinkage", [0.05, 0.4, 1.0])
def test_whitening_is_the_inverse_root_of_the_shrunk_covariance_at_any_rank(
    samples, shrinkage
):
    residuals = correlated(samples, 40)
    features = correlated(5, 40, seed=1)

    fitted = NoiseWhitening.fit(residuals, shrinkage=shrinkage)

    dense = dense_covariance(residuals, shrinkage)
    wanted = features.astype(np.float64) @ power(dense, -0.5)
    np.testing.assert_allclose(fitted.whiten(features), wanted, rtol=1e-4, atol=1e-4)
    wanted = features.astype(np.float64) @ power(dense, 0.5)
    np.testing.assert_allclose(fitted.colour(features), wanted, rtol=1e-4, atol=1e-4)


def test_with_hardly_any_shrinkage_the_residuals_become_white():
    residuals = correlated(600, 20)

    white = NoiseWhitening.fit(residuals, shrinkage=1e-6).whiten(residuals)

    covariance = white.astype(np.float64).T @ white / len(white)
    # Shrinkage leaves 1e-6 of the mean variance, 2e-4 of the smallest here.
    np.testing.assert_allclose(covariance, np.eye(20), atol=1e-3)


def test_the_shrunk_covariance_itself_becomes_the_identity():
    residuals = correlated(12, 30)
    fitted = NoiseWhitening.fit(residuals, shrinkage=0.1)

    root = fitted.whiten(np.eye(30, dtype=np.float32)).astype(np.float64)

    shrunk = dense_covariance(residuals, 0.1)
    np.testing.assert_allclose(root @ shrunk @ root, np.eye(30), atol=1e-4)


def test_shrinkage_of_one_is_one_scale_for_all():
    residuals = correlated(50, 20)

    white = NoiseWhitening.fit(residuals, shrinkage=1.0).whiten(residuals)

    rms = np.sqrt(np.square(residuals.astype(np.float64)).mean())
    np.testing.assert_allclose(white, residuals / rms, rtol=1e-4, atol=1e-5)


def test_degrees_of_freedom_divide_instead_of_the_number():
    residuals = correlated(50, 20)

    half = NoiseWhitening.fit(residuals, shrinkage=0.2, degrees=25)
    whole = NoiseWhitening.fit(residuals, shrinkage=0.2)

    np.testing.assert_allclose(
        half.deviations, np.sqrt(2) * whole.deviations, rtol=1e-6
    )
    assert half.rest == pytest.approx(np.sqrt(2) * whole.rest)


def test_directions_beyond_those_kept_keep_their_variance_in_all(monkeypatch):
    monkeypatch.setattr(whiten, "MAX_COMPONENTS", 16)
    residuals = correlated(60, 40)

    fitted = NoiseWhitening.fit(residuals, shrinkage=0.1)

    assert fitted.components.shape == (16, 40)
    total = np.square(fitted.deviations.astype(np.float64)).sum() + 24 * fitted.rest**2
    wanted = np.square(residuals.astype(np.float64)).sum() / len(residuals)
    assert total == pytest.approx(wanted, rel=1e-6)


def test_the_identity_changes_nothing():
    features = correlated(4, 9)
    nothing = NoiseWhitening.identity(9)

    np.testing.assert_array_equal(nothing.whiten(features), features)
    np.testing.assert_array_equal(nothing.colour(features), features)
    np.testing.assert_array_equal(nothing.whiten(features[0]), features[0])


@pytest.mark.parametrize("shrinkage", [0.0, -0.1, 1.01])
def test_a_shrinkage_that_is_no_share_is_refused(shrinkage):
    with pytest.raises(ConfigError) as error:
        NoiseWhitening.fit(correlated(5, 4), shrinkage=shrinkage)

    assert str(error.value) == (
        f"noise_shrinkage: expected in (0, 1], found {shrinkage}"
    )


@pytest.mark.parametrize("residuals", [correlated(1, 4), correlated(3, 4) * 0])
def test_residuals_that_say_nothing_are_refused(residuals):
    with pytest.raises(TensorMismatchError) as error:
        NoiseWhitening.fit(residuals, shrinkage=0.1)

    assert str(error.value).startswith(
        "residuals: expected at least two that are not all zero, found "
    )
