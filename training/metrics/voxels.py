"""Metrics of predicted brain responses: across voxels, across images, their ceiling.

Across voxels (one value an image) mostly rewards knowing the mean pattern; the papers
print it. Across images (one value a voxel) does not, and is what a ceiling exists for.
"""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from runtime.errors import TensorMismatchError
from training.metrics.correlation import (
    check_paired,
    row_correlations,
    row_cosines,
)
from training.metrics.intervals import MIN_IMAGES, image_draws
from training.resample import Interval

Responses = Shaped[np.ndarray, "images voxels"]
Trials = Shaped[np.ndarray, "trials voxels"]
PerImage = Float64[np.ndarray, " images"]
PerVoxel = Float64[np.ndarray, " voxels"]

CEILING_FLOOR: Final = 0.05
"""Noise ceiling below which a voxel is not divided by: a twentieth of its variance
would have to carry the whole figure."""
MIN_CORRELATED: Final = 3
"""Images below which there is no correlation across them: through two points every
line is perfect, and one has none."""
DRAWS: Final = 1000
_BLOCK = 50


def squared_errors(predicted: Responses, measured: Responses) -> PerImage:
    """Return the mean squared error over voxels of each image, in units squared.

    NeuroFlow's released `eval.py` (lines 96 to 137), "MSE". It depends on the units:
    compare it only with figures in the same ones.

    Raises:
        TensorMismatchError: Other shapes.
    """
    check_paired("responses", predicted, measured)
    difference = predicted.astype(np.float64) - measured
    return np.asarray((difference**2).mean(axis=1))


def correlations_across_voxels(predicted: Responses, measured: Responses) -> PerImage:
    """Return Pearson's correlation across voxels of each image.

    NeuroFlow's released `eval.py` (lines 96 to 137), "Pearson". Dominated by the
    voxels' means wherever the units leave these in.

    Raises:
        TensorMismatchError: Other shapes.
    """
    return row_correlations(predicted, measured)


def cosines_across_voxels(predicted: Responses, measured: Responses) -> PerImage:
    """Return the cosine across voxels of each image.

    NeuroFlow's released `eval.py` (lines 96 to 137), "cosine".

    Raises:
        TensorMismatchError: Other shapes.
    """
    return row_cosines(predicted, measured)


def correlations_across_images(predicted: Responses, measured: Responses) -> PerVoxel:
    """Return Pearson's correlation across images of each voxel.

    Voxels whose prediction or measurement never varies count as 0.

    Raises:
        TensorMismatchError: Other shapes.
    """
    return row_correlations(predicted.T, measured.T)


def explained_variances(predicted: Responses, measured: Responses) -> PerVoxel:
    """Return the share of each voxel's variance across images that is explained.

    1 - Var(measured - predicted) / Var(measured); a constant offset is not punished, a
    wrong scale is. Negative where the prediction adds variance. Voxels that never vary
    count as 0.

    Raises:
        TensorMismatchError: Other shapes.
    """
    check_paired("responses", predicted, measured)
    wide = measured.astype(np.float64)
    total, left = wide.var(axis=0), (wide - predicted).var(axis=0)
    return np.where(total > 0, 1.0 - left / np.where(total > 0, total, 1.0), 0.0)


def noise_ceiling(
    betas: Trials, shown: Int64[np.ndarray, " trials"], repeats: float
) -> PerVoxel:
    """Return the share of explainable variance at `repeats` averaged trials.

    NC = ncsnr^2 / (ncsnr^2 + 1 / repeats), ncsnr from the variance within repeats of
    an image and the total (Allen et al. 2022, eq. in Methods, "noise ceiling").

    Args:
        betas: Single trials.
        shown: Image of each trial; some must be shown more than once.
        repeats: Trials that a measurement averages over; where images have different
            numbers of them, see `averaged_repeats`.

    Raises:
        TensorMismatchError: No image was shown more than once, or there is but one,
            whose variance across images nobody knows.
    """
    means, within, row = _within(betas, shown)
    if len(means) == len(row):
        raise TensorMismatchError(
            "noise ceiling", expected="images shown more than once", found="none"
        )
    if len(means) < MIN_IMAGES:
        raise TensorMismatchError(
            "noise ceiling",
            expected=f"at least {MIN_IMAGES} images",
            found=f"{len(means)}",
        )
    signal = np.maximum(betas.var(axis=0, ddof=1, dtype=np.float64) - within, 0.0)
    return np.asarray(signal / np.maximum(signal + within / repeats, 1e-30))


def averaged_repeats(shown: Int64[np.ndarray, " trials"]) -> float:
    """Return what stands for n in the ceiling of images' means of all their trials.

    The mean of n trials has 1 / n of their noise. Across images with other n each, the
    noise's variance is that of a trial times the mean of 1 / n: n is the harmonic mean.

    Args:
        shown: Image of each trial; at least one.
    """
    counts = np.unique(shown, return_counts=True)[1]
    return float(1 / np.mean(1 / counts))


def _within(
    betas: Trials, shown: Int64[np.ndarray, " trials"]
) -> tuple[
    Float64[np.ndarray, "images voxels"], PerVoxel, Int64[np.ndarray, " trials"]
]:
    """Return the images' means, the variance within repeats, and each trial's image."""
    means, row = image_means(betas, shown)
    freedom = max(len(betas) - len(means), 1)
    return means, ((betas - means[row]) ** 2).sum(axis=0) / freedom, row


def image_means(
    betas: Trials, shown: Int64[np.ndarray, " trials"]
) -> tuple[Float64[np.ndarray, "images voxels"], Int64[np.ndarray, " trials"]]:
    """Return the mean response of each image, in increasing order, and trials' rows."""
    images, row, counts = np.unique(shown, return_inverse=True, return_counts=True)
    means = np.zeros((len(images), betas.shape[1]))
    np.add.at(means, row, betas.astype(np.float64))
    return means / counts[:, None], row.astype(np.int64)


def normalised_by_ceiling(
    correlations: PerVoxel, ceiling: PerVoxel, floor: float = CEILING_FLOOR
) -> PerVoxel:
    """Return each voxel's correlation over the highest possible one, sqrt(NC).

    Args:
        correlations: Across images, with the mean over repeats.
        ceiling: NC at that number of repeats.
        floor: Voxels below it come back as "not a number" and are left out of means;
            say how many.
    """
    usable = ceiling >= floor
    limit = np.sqrt(np.where(usable, ceiling, 1.0))
    return np.where(usable, correlations / limit, np.nan)


def correlation_interval(
    predicted: Responses,
    measured: Responses,
    voxels: Bool[np.ndarray, " voxels"],
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> Interval:
    """Return the mean over voxels of the correlation across images, with its interval.

    Images are drawn with replacement and every voxel's correlation is computed again:
    voxels share their noise and are therefore never resampled.

    Args:
        predicted: One row an image.
        measured: Of the same images.
        voxels: Which ones to average over.
        rng: Draws the images.
        draws: How many times.

    Raises:
        TensorMismatchError: Other shapes, or not one voxel.
    """
    if not voxels.any():
        raise TensorMismatchError("voxels", expected="at least one", found="none")
    a, b = predicted[:, voxels], measured[:, voxels]
    weights = image_draws(len(a), rng, draws)
    shares = np.full((1, a.shape[1]), 1 / a.shape[1])
    (means,) = drawn_correlations(a, b, weights, shares)
    low, high = np.percentile(means, [2.5, 97.5])
    mean = float(correlations_across_images(a, b).mean())
    return Interval(mean=mean, low=float(low), high=float(high))


def drawn_correlations(
    predicted: Responses,
    measured: Responses,
    weights: Float64[np.ndarray, "draws images"],
    shares: Float64[np.ndarray, "figures voxels"],
) -> Float64[np.ndarray, "figures draws"]:
    """Return weighted sums over voxels of the correlation across drawn images.

    Args:
        predicted: One row an image.
        measured: Of the same images.
        weights: How often each image is in each draw.
        shares: What each voxel's correlation counts in each figure.

    Raises:
        TensorMismatchError: Other shapes.
    """
    check_paired("responses", predicted, measured)
    # Centred before moments are taken: the draws then lose no digits to the mean.
    a, b = predicted.astype(np.float64), measured.astype(np.float64)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    drawn = weights / len(a)
    return np.concatenate(
        [
            shares @ _weighted_correlations(a, b, drawn[i : i + _BLOCK]).T
            for i in range(0, len(drawn), _BLOCK)
        ],
        axis=1,
    )


def _weighted_correlations(
    a: Responses, b: Responses, weights: Float64[np.ndarray, "draws images"]
) -> Float64[np.ndarray, "draws voxels"]:
    mean_a, mean_b = weights @ a, weights @ b
    covariance = weights @ (a * b) - mean_a * mean_b
    variance_a = np.maximum(weights @ (a * a) - mean_a**2, 0.0)
    variance_b = np.maximum(weights @ (b * b) - mean_b**2, 0.0)
    scale = np.sqrt(variance_a * variance_b)
    return np.asarray(np.where(scale > 1e-30, covariance / np.maximum(scale, 1e-30), 0))
