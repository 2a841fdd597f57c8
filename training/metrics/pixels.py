"""Pixel metrics of reconstructed images: PixCorr and SSIM, one value an image.

Both follow what the published evaluations run (NeuroFlow's released `eval.py`, which
is MindEye2's `final_evaluations`): pictures are brought to 256 x 256 pixels before any
metric (`as_judged`), and to 425 x 425 with values in [0, 1] for these two.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter

from training.metrics.correlation import check_paired, row_correlations

JUDGED_SIDE: Final = 256
"""Pixels along each side that every published image metric starts from."""
SIDE: Final = 425
"""Pixels along each side at which the published figures were computed."""
LUMA: Final = (0.2125, 0.7154, 0.0721)
"""Red, green and blue in grey: ITU-R BT.709 as scikit-image's `rgb2gray` rounds it."""
SIGMA: Final = 1.5
"""Of SSIM's window, in pixels (Wang et al. 2004, section III.C)."""
TRUNCATE: Final = 3.5
"""The window ends at 3.5 sigma: 11 pixels, as Wang et al. have it."""
K1: Final = 0.01
K2: Final = 0.03
"""Wang et al. (2004), section III.C."""

Pictures = UInt8[np.ndarray, "images rows columns 3"]
Levels = Float32[np.ndarray, "images rows columns 3"]
Grey = Float64[np.ndarray, "rows columns"]
PerImage = Float64[np.ndarray, " images"]


def as_judged(shown: Pictures, reconstructed: Pictures) -> tuple[Pictures, Pictures]:
    """Bring both to 256 x 256 pixels where either is larger, as the papers do.

    NeuroFlow's released `eval.py` (lines 283 to 291) resizes both before every metric:
    detail that the shown picture has beyond that counts in none. It takes the shown
    ones from Pillow's bilinear filter in 8 bits (`save_images_eval.py`), which averages
    over the pixels that become one; here both are. Where no side is above 256 pixels,
    both are returned as they are: small pictures are not enlarged first.

    Args:
        shown: 8-bit RGB.
        reconstructed: 8-bit RGB, of any one size.
    """
    if max(*shown.shape[1:3], *reconstructed.shape[1:3]) <= JUDGED_SIDE:
        return shown, reconstructed
    return _brought(shown), _brought(reconstructed)


def _brought(images: Pictures) -> Pictures:
    size = (JUDGED_SIDE, JUDGED_SIDE)
    if images.shape[1:3] == size:
        return images
    out = np.empty((len(images), *size, 3), dtype=np.uint8)
    for image, into in zip(images, out, strict=True):
        small = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
        into[:] = np.asarray(small)
    return out


def resized(images: Pictures, side: int = SIDE) -> Levels:
    """Resize bilinearly to `side` x `side` pixels with values in [0, 1].

    When it makes an image smaller, it averages over the pixels that become one
    (antialiasing), as torchvision's `Resize` does.

    Args:
        images: 8-bit RGB.
        side: Pixels along each side.
    """
    out = np.empty((len(images), side, side, 3), dtype=np.float32)
    for image, into in zip(images, out, strict=True):
        for channel in range(3):
            # One channel at a time, because Pillow resizes floats only so. 8-bit
            # resizing would round to one of 256 levels.
            plane = Image.fromarray(image[:, :, channel].astype(np.float32) / 255)
            into[:, :, channel] = np.asarray(
                plane.resize((side, side), Image.Resampling.BILINEAR)
            )
    return out


def grey(image: Float32[np.ndarray, "rows columns 3"]) -> Grey:
    """Return luminance in [0, 1] (scikit-image's `rgb2gray`)."""
    return np.asarray(image.astype(np.float64) @ np.array(LUMA))


def pixel_correlations(shown: Pictures, reconstructed: Pictures) -> PerImage:
    """Return PixCorr of each image: Pearson over all pixels and colours at 425 pixels.

    NeuroFlow's released `eval.py` (lines 140 to 176): both images, `as_judged`, resized
    to 425, `numpy.corrcoef` an image. A constant image counts as 0.

    Args:
        shown: 8-bit RGB.
        reconstructed: The same images as decoded, of any one size.

    Raises:
        TensorMismatchError: Another number of images.
    """
    _check_numbers(shown, reconstructed)
    # Image by image: a thousand of them at 425 pixels take 4 GB in float64.
    return np.concatenate(
        [
            row_correlations(resized(a).reshape(1, -1), resized(b).reshape(1, -1))
            for a, b in _pairs(shown, reconstructed)
        ]
    )


def _pairs(
    shown: Pictures, reconstructed: Pictures
) -> Iterator[tuple[Pictures, Pictures]]:
    for i in range(len(shown)):
        yield as_judged(shown[i : i + 1], reconstructed[i : i + 1])


def structural_similarities(shown: Pictures, reconstructed: Pictures) -> PerImage:
    """Return SSIM of each image in grey at 425 pixels, from both `as_judged`.

    NeuroFlow's released `eval.py` (lines 140 to 176): `rgb2gray`, then
    `structural_similarity(gaussian_weights=True, sigma=1.5, data_range=1.0,
    use_sample_covariance=False)`.

    Args:
        shown: 8-bit RGB.
        reconstructed: The same images as decoded, of any one size.

    Raises:
        TensorMismatchError: Another number of images.
    """
    _check_numbers(shown, reconstructed)
    return np.array(
        [
            structural_similarity(grey(resized(a)[0]), grey(resized(b)[0]))
            for a, b in _pairs(shown, reconstructed)
        ]
    )


def structural_similarity(a: Grey, b: Grey, data_range: float = 1.0) -> float:
    """Return the mean SSIM of two grey images (Wang et al. 2004, equation 13).

    The definition that scikit-image computes with gaussian weights: window of
    `2 * int(3.5 * sigma + 0.5) + 1` = 11 pixels, population variances, edges reflected,
    and the mean over the pixels whose window lies inside the image.

    Args:
        a: Grey, at least 11 pixels along each side.
        b: Of the same shape.
        data_range: Distance between black and white in the units of `a` and `b`.

    Raises:
        TensorMismatchError: Other shapes.
    """
    check_paired("SSIM", a, b)

    def local(values: Grey) -> Grey:
        return np.asarray(
            gaussian_filter(values, SIGMA, truncate=TRUNCATE, mode="reflect")
        )

    mean_a, mean_b = local(a), local(b)
    variance_a = local(a * a) - mean_a**2
    variance_b = local(b * b) - mean_b**2
    covariance = local(a * b) - mean_a * mean_b
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    edge = int(TRUNCATE * SIGMA + 0.5)
    return float(similarity[edge:-edge, edge:-edge].mean())


def _check_numbers(shown: Pictures, reconstructed: Pictures) -> None:
    check_paired("images", shown[:, 0, 0], reconstructed[:, 0, 0])
