"""Where a day's betas lie: their mean and scale, as far as the trials can tell. Pure.

A bundle's normalisation was fitted on hundreds of trials of other days. Today's own is
nearer to the truth and noisier, so that each voxel's goes as far from the bundle's as
the voxels together show that there is something to follow (empirical Bayes; Efron &
Morris, 1973, "Stein's estimation rule and its competitors"): an estimate d with
sampling variance v, whose true values spread over voxels with variance t, is taken
times ``t / (t + v)``. t is the mean of ``d^2 - v``, or 0 where that is negative. On a
day like the others nothing moves.

The noise's covariance stays the bundle's. It takes repeats to tell noise from response,
and a few minutes have a handful of degrees of freedom for it; and the model has learned
on features that exactly this whitening made.
"""

from typing import Final

import numpy as np

from runtime.arrays import Float32, Float64, Int64
from runtime.errors import TensorMismatchError
from runtime.preprocess.normalise import AffineNormaliser

MIN_IMAGES: Final = 20
"""Different images below which no spread, and no interval, is worth its name."""


def todays_normaliser(
    bundle: AffineNormaliser,
    betas: Float32[np.ndarray, "trials voxels"],
    image: Int64[np.ndarray, " trials"],
) -> AffineNormaliser:
    """Return a normalisation between the bundle's and that of today's trials.

    A voxel that does not vary today, or did not in the bundle, has scale 0.

    Args:
        bundle: The bundle's own.
        betas: Today's, percent signal, of the bundle's estimator.
        image: What was shown, by number: the mean counts each image once.

    Raises:
        TensorMismatchError: Fewer than two images.
    """
    kinds, index, counts = np.unique(image, return_inverse=True, return_counts=True)
    if len(kinds) < 2:
        raise TensorMismatchError(
            "betas", expected="at least 2 images", found=f"{len(kinds)}"
        )
    z = bundle.normalise(betas).astype(np.float64)
    sums = np.zeros((len(kinds), z.shape[1]))
    np.add.at(sums, index, z)
    means = sums / counts[:, None]
    shift = _shrunk(means.mean(axis=0), means.var(axis=0, ddof=1) / len(kinds))
    deviation = z.std(axis=0, ddof=1)
    lives = deviation > 0
    ratio = np.zeros_like(deviation)
    # The logarithm of a standard deviation of n normal numbers: variance 1/(2 (n - 1)).
    known = np.full(int(lives.sum()), 0.5 / (len(z) - 1))
    ratio[lives] = np.exp(_shrunk(np.log(deviation[lives]), known))
    return AffineNormaliser(
        (bundle.mean + shift * bundle.scale).astype(np.float32),
        (bundle.scale * ratio).astype(np.float32),
    )


def _shrunk(
    estimates: Float64[np.ndarray, " voxels"], variances: Float64[np.ndarray, " voxels"]
) -> Float64[np.ndarray, " voxels"]:
    if not len(estimates):
        return estimates
    spread = max(0.0, float(np.mean(estimates**2 - variances)))
    if spread == 0.0:
        return np.zeros_like(estimates)
    shrunk: Float64[np.ndarray, " voxels"] = estimates * (spread / (spread + variances))
    return shrunk
