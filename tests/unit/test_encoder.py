"""Encoding: an image in, the response in percent signal out."""

import numpy as np
import pytest

from runtime.encoder import Encoder
from runtime.errors import TensorMismatchError
from runtime.preprocess import AffineNormaliser, FeatureSpace, NoiseWhitening
from tests.linear_model import BACKBONE, LinearModel

VOXELS = 6


def encoder():
    rng = np.random.default_rng(0)
    residuals = rng.standard_normal((20, VOXELS)).astype(np.float32)
    space = FeatureSpace(
        AffineNormaliser(
            np.arange(VOXELS, dtype=np.float32),
            np.linspace(0.5, 2, VOXELS).astype(np.float32),
        ),
        NoiseWhitening.fit(residuals, shrinkage=0.2),
    )
    return Encoder(LinearModel(VOXELS), BACKBONE, space), space


def test_a_prediction_is_the_models_features_brought_back_to_percent_signal():
    encode, space = encoder()
    image = np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)

    predicted = encode.predict(image)

    z_v = BACKBONE.tokens_from_image(image)
    features = -LinearModel(VOXELS).matrix.T @ z_v.ravel()
    np.testing.assert_allclose(predicted, space.from_model(features), rtol=1e-5)
    np.testing.assert_allclose(
        space.to_model(predicted), features, rtol=1e-3, atol=1e-3
    )


def test_an_image_and_its_latent_predict_the_same():
    encode, _ = encoder()
    image = np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)

    direct = encode.predict_latent(BACKBONE.tokens_from_image(image))

    np.testing.assert_array_equal(encode.predict(image), direct)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(TensorMismatchError) as error:
        encoder()[0].predict(np.zeros((8, 8, 3), dtype=np.uint8))

    assert str(error.value) == "image: expected (4, 4, 3), found (8, 8, 3)"
