"""PixCorr and SSIM: hand-worked numbers, and slow references of their definitions."""

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.errors import TensorMismatchError
from training.metrics.controls import pixel_control, similarity_control
from training.metrics.correlation import row_correlations, row_cosines
from training.metrics.pixels import (
    LUMA,
    as_judged,
    grey,
    pixel_correlations,
    resized,
    structural_similarities,
    structural_similarity,
)


def pictures(n, side=16, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def test_correlation_and_cosine_of_rows_by_hand():
    a = np.array([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
    b = np.array([[1.0, 3.0, 2.0], [1.0, 1.0, 0.0], [1.0, 2.0, 3.0]])

    # Row 0: deviations (-1, 0, 1) and (-1, 1, 0): 1 / (sqrt 2 sqrt 2) = 1/2.
    # Row 1: (2, -1, -1)/3 and (1, 1, -2)/3: (2 - 1 + 2) / sqrt(6 * 6) = 1/2.
    # Row 2 never varies: 0.
    assert row_correlations(a, b) == pytest.approx([0.5, 0.5, 0.0])
    # 13 / 14, then 1 / sqrt 2, then 30 / (5 sqrt 3 sqrt 14).
    wanted = [13 / 14, 0.5**0.5, 30 / (5 * (3 * 14) ** 0.5)]
    assert row_cosines(a, b) == pytest.approx(wanted)


def test_a_constant_row_that_rounding_makes_vary_still_counts_as_constant():
    # The mean of a hundred times 0.1 is not 0.1 in binary.
    assert row_correlations(np.full((1, 100), 0.1), np.arange(100.0)[None]) == [0.0]


@pytest.mark.parametrize(("before", "after"), [(8, 21), (32, 425), (60, 21)])
def test_resizing_is_that_of_torch(before, after):
    image = pictures(2, before)

    found = resized(image, after)

    tensor = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255
    wanted = torch.nn.functional.interpolate(
        tensor, (after, after), mode="bilinear", antialias=True
    )
    # Weights are distances to positions up to `before`, which torch has in float32.
    limit = 2 * before * np.finfo(np.float32).eps
    np.testing.assert_allclose(found, wanted.permute(0, 2, 3, 1), rtol=0, atol=limit)


def test_pixcorr_is_one_for_the_image_itself_and_its_contrast_and_minus_one_reversed():
    shown = pictures(3)
    paler = (shown // 2 + 60).astype(np.uint8)

    assert pixel_correlations(shown, shown) == pytest.approx([1, 1, 1])
    assert pixel_correlations(shown, 255 - shown) == pytest.approx([-1, -1, -1])
    assert (pixel_correlations(shown, paler) > 0.999).all()
    assert pixel_correlations(shown, np.zeros_like(shown)) == pytest.approx([0, 0, 0])


def test_pixcorr_is_numpys_correlation_at_425_pixels_whatever_small_sizes():
    shown, decoded = pictures(2, 40, 1), pictures(2, 10, 2)

    found = pixel_correlations(shown, decoded)

    a, b = resized(shown), resized(decoded)
    assert a.shape == b.shape == (2, 425, 425, 3)
    for i in range(2):
        wanted = np.corrcoef(a[i].ravel(), b[i].ravel())[0, 1]
        assert found[i] == pytest.approx(wanted, abs=1e-6)


def at_256(images):
    """What the released preparation keeps of the shown pictures."""
    small = [Image.fromarray(one).resize((256, 256), 2) for one in images]
    return np.stack([np.asarray(one) for one in small])


def test_half_as_many_pixels_are_weighted_sums_by_hand():
    shown = np.zeros((1, 512, 512, 3), np.uint8)
    shown[:, :, 100] = 240

    seen, decoded = as_judged(shown, np.zeros((1, 16, 16, 3), np.uint8))

    # A triangle two pixels wide to each side weighs 1, 3, 3, 1 eighths. Column 100 is
    # the last of the four around column 49, and the second of those around 50.
    assert seen.shape == decoded.shape == (1, 256, 256, 3)
    assert seen[0, 7, 47:53, 2].tolist() == [0, 0, 30, 90, 0, 0]
    assert seen.sum() == 256 * 3 * (30 + 90)


@pytest.mark.parametrize("sides", [(256, 256), (256, 32), (16, 256), (8, 40)])
def test_pictures_of_256_pixels_or_fewer_are_judged_as_they_are(sides):
    shown, decoded = (pictures(1, side, side) for side in sides)

    found = as_judged(shown, decoded)

    assert found[0] is shown
    assert found[1] is decoded


@pytest.mark.parametrize("sides", [(425, 256), (256, 425), (425, 32), (300, 768)])
def test_larger_pictures_are_compared_by_their_256_pixels_as_in_the_papers(sides):
    shown, decoded = (pictures(2, side, side) for side in sides)
    seen, made = at_256(shown), at_256(decoded)

    # What the picture itself comes to at 256 pixels is a perfect reconstruction.
    assert pixel_correlations(shown, seen).tolist() == pytest.approx([1, 1])
    assert structural_similarities(shown, seen).tolist() == pytest.approx([1, 1])
    for metric in (pixel_correlations, structural_similarities):
        found, wanted = metric(shown, decoded), metric(seen, made)
        assert found.tolist() == wanted.tolist()
    for control in (pixel_control, similarity_control):
        found, wanted = (
            control(*pair, np.random.default_rng(0))
            for pair in ((shown, decoded), (seen, made))
        )
        assert found == wanted


def slow_ssim(a, b):
    """Wang et al. (2004), window by window, in plain sums."""
    offsets = np.arange(-5, 6)
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line)
    window /= window.sum()
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for y in range(5, a.shape[0] - 5):
        for x in range(5, a.shape[1] - 5):
            p = a[y - 5 : y + 6, x - 5 : x + 6]
            q = b[y - 5 : y + 6, x - 5 : x + 6]
            m, n = (window * p).sum(), (window * q).sum()
            v = (window * (p - m) ** 2).sum()
            w = (window * (q - n) ** 2).sum()
            c = (window * (p - m) * (q - n)).sum()
            luminance = (2 * m * n + c1) / (m * m + n * n + c1)
            values.append(luminance * (2 * c + c2) / (v + w + c2))
    return np.mean(values)


def test_ssim_is_the_papers_sum_over_windows():
    rng = np.random.default_rng(3)
    a = rng.random((19, 24))
    b = 0.6 * a + 0.4 * rng.random((19, 24))

    # Variance as E[x^2] - E[x]^2 loses a few of sixteen digits.
    assert structural_similarity(a, b) == pytest.approx(slow_ssim(a, b), abs=1e-10)


def test_ssim_of_two_flat_images_by_hand():
    # No variance: what is left is (2 m n + C1) / (m^2 + n^2 + C1), C1 = 0.0001:
    # m = .5, n = .25: (.25 + .0001) / (.25 + .0625 + .0001) = .2501 / .3126.
    a, b = np.full((12, 12), 0.5), np.full((12, 12), 0.25)

    assert structural_similarity(a, b) == pytest.approx(0.2501 / 0.3126)
    assert structural_similarity(a, a) == pytest.approx(1.0)


def test_ssim_of_pictures_is_taken_in_grey():
    red = np.zeros((1, 16, 16, 3), np.uint8)
    red[..., 0] = 255
    same_grey = np.full((1, 16, 16, 3), round(255 * LUMA[0]), np.uint8)

    # 0.2125 against 54 / 255 = 0.21176 in every pixel.
    assert grey(resized(red)[0])[0, 0] == pytest.approx(0.2125)
    assert structural_similarities(red, same_grey) == pytest.approx([1.0], abs=1e-4)


def test_another_number_of_images_is_refused():
    with pytest.raises(TensorMismatchError, match="images"):
        pixel_correlations(pictures(3), pictures(2))
    with pytest.raises(TensorMismatchError, match="SSIM"):
        structural_similarity(np.zeros((12, 12)), np.zeros((12, 13)))
