"""The backbone `patch_dct` against a matrix transform in float64, patch by patch."""

import numpy as np
import pytest

from runtime.errors import ConfigError, TensorMismatchError
from runtime.patch_dct import PatchDct


def dct_matrix(n):
    """The orthonormal DCT-II by its definition: row k is the k-th cosine."""
    k, i = np.arange(n)[:, None], np.arange(n)[None]
    matrix = np.sqrt(2 / n) * np.cos(np.pi * k * (2 * i + 1) / (2 * n))
    matrix[0] /= np.sqrt(2)
    return matrix


def picture(size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(("size", "patch"), [(32, 8), (16, 4), (12, 12), (6, 1)])
def test_a_token_is_one_coefficient_of_every_patch_in_reading_order(size, patch):
    backbone, image = PatchDct(image_size=size, patch=patch), picture(size)
    matrix = dct_matrix(patch)

    tokens = backbone.tokens_from_image(image)

    assert tokens.shape == (backbone.tokens, backbone.width)
    assert tokens.dtype == np.float32
    side = size // patch
    by_patch = tokens.reshape(patch, patch, side * side, 3).transpose(2, 0, 1, 3)
    for number, coefficients in enumerate(by_patch):
        row, column = divmod(number, side)
        square = image[
            row * patch : (row + 1) * patch, column * patch : (column + 1) * patch
        ]
        pixels = square.astype(np.float64) / 127.5 - 1
        wanted = np.einsum("ki,lj,ijc->klc", matrix, matrix, pixels)
        # float32 of numbers up to `patch`, the largest constant coefficient.
        np.testing.assert_allclose(coefficients, wanted, atol=patch * 1.2e-7)


def test_black_is_minus_one_and_white_is_one():
    backbone = PatchDct(image_size=8, patch=8)

    for level, value in ((0, -1.0), (255, 1.0)):
        tokens = backbone.tokens_from_image(np.full((8, 8, 3), level, dtype=np.uint8))
        np.testing.assert_allclose(tokens[0], 8 * value)
        np.testing.assert_allclose(tokens[1:], 0, atol=1e-14)


def test_a_latent_outside_the_range_of_pixels_is_clipped():
    backbone = PatchDct(image_size=8, patch=4)
    white = backbone.tokens_from_image(np.full((8, 8, 3), 255, dtype=np.uint8))

    assert (backbone.image_from_tokens(3 * white) == 255).all()
    assert (backbone.image_from_tokens(-3 * white) == 0).all()


@pytest.mark.parametrize(("size", "patch"), [(32, 5), (32, 0), (32, -8), (0, 1)])
def test_a_patch_that_does_not_tile_the_image_is_refused(size, patch):
    with pytest.raises(ConfigError) as error:
        PatchDct(image_size=size, patch=patch)

    assert str(error.value) == (
        f"backbone.patch: expected a divisor of image_size {size}, found {patch}"
    )


def test_an_image_or_a_latent_of_another_size_is_refused():
    backbone = PatchDct()
    with pytest.raises(TensorMismatchError) as image:
        backbone.tokens_from_image(picture(16))
    with pytest.raises(TensorMismatchError) as latent:
        backbone.image_from_tokens(np.zeros((16, 191), dtype=np.float32))

    assert str(image.value) == "image: expected (32, 32, 3), found (16, 16, 3)"
    assert str(latent.value) == "z_v: expected (16, 192), found (16, 191)"
