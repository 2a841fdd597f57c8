"""Laws of `patch_dct`: nothing is lost, and geometry of pixels is that of tokens."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.fft import dctn

from runtime.patch_dct import PatchDct

SIZES = st.sampled_from([(8, 4), (16, 8), (12, 3), (8, 1), (32, 8)])


@st.composite
def pairs(draw):
    size, patch = draw(SIZES)
    images = hnp.arrays(np.uint8, (size, size, 3))
    return PatchDct(image_size=size, patch=patch), draw(images), draw(images)


def pixels(image):
    return (image.astype(np.float64) / 127.5 - 1).ravel()


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_every_image_comes_back_bit_for_bit(case):
    backbone, image, _ = case

    back = backbone.image_from_tokens(backbone.tokens_from_image(image))

    np.testing.assert_array_equal(back, image)


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_norms_and_inner_products_of_pixels_are_those_of_tokens(case):
    backbone, one, other = case
    z_one = backbone.tokens_from_image(one).astype(np.float64).ravel()
    z_other = backbone.tokens_from_image(other).astype(np.float64).ravel()
    # Only the rounding of tokens to float32 differs.
    room = 2 * np.finfo(np.float32).eps * one.size

    assert abs(z_one @ z_other - pixels(one) @ pixels(other)) <= room
    assert abs(z_one @ z_one - pixels(one) @ pixels(one)) <= room


@settings(max_examples=30, deadline=None)
@given(pairs(), st.floats(-2e-3, 2e-3))
def test_a_latent_that_is_off_by_less_than_a_third_of_a_level_is_the_same_image(
    case, error
):
    backbone, image, _ = case
    tokens = backbone.tokens_from_image(image)
    # An error in one coefficient spreads by at most its own size over the pixels;
    # a third of a level is 2.6e-3.
    tokens[0, 0] += np.float32(error)

    np.testing.assert_array_equal(backbone.image_from_tokens(tokens), image)


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_tokens_are_scipys_transform_of_each_patch(case):
    backbone, image, _ = case
    side, patch = backbone.image_size // backbone.patch, backbone.patch
    grid = pixels(image).reshape(side, patch, side, patch, 3).transpose(1, 3, 0, 2, 4)

    expected = dctn(grid, axes=(0, 1), norm="ortho").reshape(backbone.tokens, -1)

    np.testing.assert_allclose(
        backbone.tokens_from_image(image), expected, rtol=1e-6, atol=1e-6
    )
