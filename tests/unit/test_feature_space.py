"""The model's units: there and back, and what is taken for noise."""

import numpy as np
import pytest

from runtime.preprocess import FeatureSpace
from runtime.preprocess.feature_space import repeat_residuals


def repeated_betas(images=20, repeats=3, voxels=15, seed=0):
    rng = np.random.default_rng(seed)
    signal = np.repeat(rng.standard_normal((images, voxels)), repeats, axis=0)
    mixing = rng.standard_normal((voxels, voxels))
    noise = rng.standard_normal((images * repeats, voxels)) @ mixing
    shown = [f"image-{i // repeats}" for i in range(images * repeats)]
    return (3 * signal + noise + rng.uniform(-4, 4, voxels)).astype(np.float32), shown


@pytest.mark.parametrize("shrinkage", [None, 0.1, 1.0])
def test_the_way_back_undoes_the_way_there(shrinkage):
    betas, shown = repeated_betas()
    space = FeatureSpace.fit(betas, shown, noise_shrinkage=shrinkage)

    np.testing.assert_allclose(
        space.from_model(space.to_model(betas)), betas, rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(
        space.to_model(space.from_model(betas)), betas, rtol=1e-4, atol=1e-3
    )


def test_one_trial_is_mapped_as_it_is_among_others():
    betas, shown = repeated_betas()
    space = FeatureSpace.fit(betas, shown, noise_shrinkage=0.1)

    alone = space.to_model(betas[7])

    np.testing.assert_allclose(alone, space.to_model(betas)[7], rtol=1e-4, atol=1e-5)


def test_without_whitening_features_are_z_scores():
    betas, shown = repeated_betas()
    space = FeatureSpace.fit(betas, shown, noise_shrinkage=None)

    wanted = (betas - betas.mean(axis=0)) / betas.std(axis=0, ddof=1)
    np.testing.assert_allclose(space.to_model(betas), wanted, rtol=1e-4, atol=1e-5)


def test_noise_between_repeats_becomes_white():
    betas, shown = repeated_betas(images=400)
    space = FeatureSpace.fit(betas, shown, noise_shrinkage=1e-4)

    residuals, degrees = repeat_residuals(space.to_model(betas), shown)

    covariance = residuals.astype(np.float64).T @ residuals / degrees
    # Shrinkage biases the smallest directions most; it is 1e-4 of the mean variance.
    np.testing.assert_allclose(covariance, np.eye(15), atol=0.1)


def test_a_voxel_without_variation_comes_back_as_its_mean():
    betas, shown = repeated_betas()
    betas[:, 4] = 2.5
    space = FeatureSpace.fit(betas, shown, noise_shrinkage=0.1)

    assert (space.affine.normalise(betas)[:, 4] == 0).all()
    np.testing.assert_allclose(space.from_model(space.to_model(betas))[:, 4], 2.5)


def test_residuals_are_deviations_from_the_mean_of_an_images_repeats():
    rows = np.array([[1], [3], [10], [5], [7], [9]], dtype=np.float32)
    shown = ["a", "a", "once", "b", "b", "b"]

    residuals, degrees = repeat_residuals(rows, shown)

    assert residuals.ravel().tolist() == [-1.0, 1.0, -2.0, 0.0, 2.0]
    # Two of a and three of b, each less one mean.
    assert degrees == 1 + 2


def test_degrees_make_the_variance_of_residuals_unbiased():
    rows = np.random.default_rng(0).standard_normal((6000, 3)).astype(np.float32)
    shown = [str(i // 2) for i in range(6000)]

    residuals, degrees = repeat_residuals(rows, shown)

    # 3000 degrees a voxel: the standard error of a variance is .026.
    np.testing.assert_allclose(np.square(residuals).sum(axis=0) / degrees, 1, atol=0.08)


def test_the_order_of_trials_does_not_matter():
    betas, shown = repeated_betas()
    order = np.random.default_rng(1).permutation(len(shown))

    straight = FeatureSpace.fit(betas, shown, noise_shrinkage=0.1)
    mixed = FeatureSpace.fit(
        betas[order], [shown[i] for i in order], noise_shrinkage=0.1
    )

    np.testing.assert_allclose(
        mixed.to_model(betas), straight.to_model(betas), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("shrinkage", [None, 0.1])
def test_what_a_bundle_keeps_gives_the_same_space(shrinkage):
    betas, shown = repeated_betas()
    space = FeatureSpace.fit(betas, shown, noise_shrinkage=shrinkage)

    kept = FeatureSpace.from_tensors(space.tensors())

    # `rest` is kept in float32.
    np.testing.assert_allclose(
        kept.to_model(betas), space.to_model(betas), rtol=1e-5, atol=1e-6
    )
    assert ("noise_components" in space.tensors()) == (shrinkage is not None)
