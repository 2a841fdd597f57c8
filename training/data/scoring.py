"""The z-score of a session's betas, and who may speak for the session. Pure."""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Float64, Shaped

from runtime.errors import TensorMismatchError

_VOXELS: Final = 2048
"""At a time, so that float64 copies stay small."""

Betas = Shaped[np.ndarray, "trials voxels"]
PerVoxel = Float32[np.ndarray, " voxels"]


def session_statistics(
    betas: Betas, fitted: Bool[np.ndarray, " trials"], scale: float
) -> tuple[PerVoxel, PerVoxel]:
    """Return mean and standard deviation over the trials that may be looked at.

    Args:
        betas: One session's, as they are stored.
        fitted: Which trials the statistics may see.
        scale: Divides the stored numbers, so that statistics are in percent signal.

    Returns:
        Both in float32; the deviation is that of the sample as a population (divided
        by n), and 0 for voxels that do not vary.

    Raises:
        TensorMismatchError: Fewer than two trials may be looked at.
    """
    if fitted.sum() < 2:
        raise TensorMismatchError(
            "session", expected="at least 2 training trials", found=f"{fitted.sum()}"
        )
    voxels = betas.shape[1]
    mean = np.empty(voxels, dtype=np.float32)
    std = np.empty(voxels, dtype=np.float32)
    for first in range(0, voxels, _VOXELS):
        block = slice(first, first + _VOXELS)
        seen = betas[:, block][fitted].astype(np.float64) / scale
        centre = seen.mean(axis=0)
        deviation = seen.std(axis=0)
        # Rounding leaves about eps of the level where a voxel does not vary.
        deviation[deviation <= 1e-9 * np.abs(centre)] = 0.0
        mean[block], std[block] = centre, deviation
    return mean, std


def z_score(
    betas: Betas, mean: PerVoxel, std: PerVoxel, scale: float
) -> Float32[np.ndarray, "trials voxels"]:
    """Return ``(betas / scale - mean) / std``, 0 where `std` is 0."""
    scored = np.empty(betas.shape, dtype=np.float32)
    for first in range(0, betas.shape[1], _VOXELS):
        block = slice(first, first + _VOXELS)
        spread: Float64[np.ndarray, " voxels"] = std[block].astype(np.float64)
        gain = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        scored[:, block] = (betas[:, block] / scale - mean[block]) * gain
    return scored
