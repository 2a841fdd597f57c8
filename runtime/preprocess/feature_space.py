"""The units in which a model sees voxels, and the way back.

Betas are centred and scaled as the calibration's were, volumes by their run's causal
baseline; then the noise that voxels share is whitened. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from runtime.arrays import Float32
from runtime.preprocess.mask import require_rows
from runtime.preprocess.normalise import AffineNormaliser
from runtime.preprocess.whiten import NoiseWhitening

Rows = Float32[np.ndarray, "*batch voxels"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class FeatureSpace:
    """An affine map, then whitening; both fitted on calibration data alone."""

    affine: AffineNormaliser
    whitening: NoiseWhitening

    @classmethod
    def fit(
        cls,
        betas: Float32[np.ndarray, "trials voxels"],
        images: list[str],
        *,
        noise_shrinkage: float | None,
    ) -> "FeatureSpace":
        """Fit to training betas; noise is what repeats of an image do not share.

        Args:
            betas: Of the estimator and delay that will be served.
            images: What was shown in each trial; repeats define the noise.
            noise_shrinkage: See `NoiseWhitening.fit`; None leaves the noise as it is.
        """
        affine = AffineNormaliser.fit(betas)
        if noise_shrinkage is None:
            return cls(affine, NoiseWhitening.identity(betas.shape[1]))
        normalised = affine.normalise(betas)
        residuals, degrees = repeat_residuals(normalised, images)
        whitening = NoiseWhitening.fit(
            residuals, shrinkage=noise_shrinkage, degrees=degrees
        )
        return cls(affine, whitening)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "FeatureSpace":
        """Rebuild it from what `tensors` returned."""
        mean, scale = tensors["voxel_mean"], tensors["voxel_scale"]
        whitening = NoiseWhitening.identity(mean.size)
        if "noise_components" in tensors:
            whitening = NoiseWhitening(
                tensors["noise_components"],
                tensors["noise_deviations"],
                float(tensors["noise_rest"][0]),
            )
        return cls(AffineNormaliser(mean, scale), whitening)

    def tensors(self) -> dict[str, Float32[np.ndarray, "..."]]:
        """Return the arrays that define it, by the names that a bundle gives them."""
        arrays = {"voxel_mean": self.affine.mean, "voxel_scale": self.affine.scale}
        if len(self.whitening.components):
            arrays |= {
                "noise_components": self.whitening.components,
                "noise_deviations": self.whitening.deviations,
                "noise_rest": np.array([self.whitening.rest], dtype=np.float32),
            }
        return arrays

    def to_model(self, voxels: Rows) -> Rows:
        """Return voxels in the model's units.

        Raises:
            TensorMismatchError: Another number of voxels or dtype.
        """
        return self.whitening.whiten(self.affine.normalise(voxels))

    def from_model(self, features: Rows) -> Rows:
        """Undo `to_model`; voxels without variation come back as their mean.

        Raises:
            TensorMismatchError: Another number of voxels or dtype.
        """
        require_rows("features", features, self.affine.mean.size)
        voxels = self.whitening.colour(features)
        return np.asarray(voxels * self.affine.scale + self.affine.mean, np.float32)


def repeat_residuals(
    rows: Float32[np.ndarray, "samples voxels"], shown: list[str]
) -> tuple[Float32[np.ndarray, "residuals voxels"], int]:
    """Return deviations from the mean over repeats, and their degrees of freedom.

    Samples shown once say nothing of the noise and are left out.
    """
    kinds, index, counts = np.unique(shown, return_inverse=True, return_counts=True)
    sums = np.zeros((len(kinds), rows.shape[1]))
    np.add.at(sums, index, rows.astype(np.float64))
    residuals = rows - (sums / counts[:, None])[index]
    repeated = counts[index] > 1
    degrees = int(repeated.sum() - (counts > 1).sum())
    return residuals[repeated].astype(np.float32), max(degrees, 1)
