"""Noise whitening: spatially correlated noise made white, and back.

Voxels share noise (breathing, motion, drift). A decoder that is told the noise's
covariance subtracts what they share; with a few hundred trials it cannot learn that by
itself. Multivariate noise normalisation: Walther et al. (2016), "Reliability of
dissimilarity measures for multi-voxel pattern analysis", with the covariance shrunk
towards a multiple of the identity (Ledoit & Wolf, 2004).

A covariance of `n` residuals has at most `n` directions, so that its shrunk form is a
multiple of the identity plus low rank, exactly, and so are its roots: a product costs
``2 k V``, never ``V^2``. Pure.
"""

from dataclasses import dataclass, field
from typing import Final, final

import numpy as np

from runtime.arrays import Float32
from runtime.errors import ConfigError, TensorMismatchError

MAX_COMPONENTS: Final = 512
"""Directions kept; what lies below joins the identity part."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class NoiseWhitening:
    """The symmetric inverse root of a noise covariance: ``base I + U' diag(gain) U``.

    The identity where there are no components and the base is 1.
    """

    components: Float32[np.ndarray, "components voxels"] = field(repr=False)
    """Orthonormal rows U: the directions of correlated noise."""
    deviations: Float32[np.ndarray, " components"] = field(repr=False)
    """Standard deviation of the noise along each."""
    rest: float
    """Standard deviation along every other direction."""

    @classmethod
    def identity(cls, voxels: int) -> "NoiseWhitening":
        """Return the whitening that changes nothing."""
        empty = np.zeros((0, voxels), dtype=np.float32)
        return cls(empty, np.zeros(0, dtype=np.float32), 1.0)

    @classmethod
    def fit(
        cls,
        residuals: Float32[np.ndarray, "samples voxels"],
        *,
        shrinkage: float,
        degrees: int | None = None,
    ) -> "NoiseWhitening":
        """Fit to residuals, which have mean zero by construction.

        Args:
            residuals: What is left of normalised features when what was shown is
                taken out.
            shrinkage: Share of the covariance that is a multiple of the identity.
            degrees: Degrees of freedom of the residuals; their number by default.

        Raises:
            ConfigError: A shrinkage outside (0, 1].
            TensorMismatchError: Fewer than two residuals, or none that differ from 0.
        """
        if not 0 < shrinkage <= 1:
            raise ConfigError(f"noise_shrinkage: expected in (0, 1], found {shrinkage}")
        samples, voxels = residuals.shape
        if samples < 2 or not residuals.any():
            raise TensorMismatchError(
                "residuals",
                expected="at least two that are not all zero",
                found=f"{samples}",
            )
        _, singular, rows = np.linalg.svd(
            residuals.astype(np.float64), full_matrices=False
        )
        variances = singular**2 / (degrees or samples)
        mean = float(variances.sum()) / voxels
        kept = min(MAX_COMPONENTS, len(variances), voxels)
        # Variance in directions that are not kept is spread evenly over what remains.
        left = float(variances[kept:].sum()) / max(1, voxels - kept)
        rest = shrinkage * mean + (1 - shrinkage) * left
        along = shrinkage * mean + (1 - shrinkage) * variances[:kept]
        return cls(
            rows[:kept].astype(np.float32),
            np.sqrt(along).astype(np.float32),
            # Rounded as a bundle stores it: training and serving agree to the bit.
            float(np.float32(np.sqrt(rest))),
        )

    def whiten(
        self, features: Float32[np.ndarray, "*batch voxels"]
    ) -> Float32[np.ndarray, "*batch voxels"]:
        """Return features whose noise is white with unit variance."""
        return self._apply(features, 1.0 / self.deviations, 1.0 / self.rest)

    def colour(
        self, features: Float32[np.ndarray, "*batch voxels"]
    ) -> Float32[np.ndarray, "*batch voxels"]:
        """Undo `whiten`."""
        return self._apply(features, self.deviations, self.rest)

    def _apply(
        self,
        features: Float32[np.ndarray, "*batch voxels"],
        along: Float32[np.ndarray, " components"],
        rest: float,
    ) -> Float32[np.ndarray, "*batch voxels"]:
        weights = (along - np.float32(rest)).astype(np.float32)
        shared = (features @ self.components.T) * weights
        mapped = np.float32(rest) * features
        mapped += shared @ self.components
        return np.asarray(mapped, dtype=np.float32)
