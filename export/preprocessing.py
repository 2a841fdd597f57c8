"""What export is told of the way from a scanner's volume to the model's input."""

import hashlib
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, Shaped

from runtime.estimator import Estimator, estimator_sha256, units_of
from runtime.manifest import Voxels, affine_rows
from runtime.preprocess.feature_space import FeatureSpace
from runtime.preprocess.mask import VoxelMask


@final
@dataclass(frozen=True, slots=True, eq=False)
class Preprocessing:
    """All that stands between a scanner's volume and the model's input."""

    subject: str
    estimator: Estimator
    mask: Bool[np.ndarray, "x y z"]
    affine: Float64[np.ndarray, "4 4"]
    """Voxel indices to scanner millimetres."""
    space: FeatureSpace
    """Centre, scale and noise, fitted on the output of exactly this estimator."""
    hrf_index: Int64[np.ndarray, " voxels"] | None = None
    """Which response of the estimator's library each voxel has; None without one."""
    reference: Float32[np.ndarray, "x y z"] | None = None
    """What motion is told against, on the grid of the mask; None without motion."""

    def sha256(self) -> str:
        """Return a hash of everything here but the subject's name."""
        digest = hashlib.sha256(estimator_sha256(self.estimator).encode())
        digest.update(VoxelMask.from_volume(self.mask).sha256.encode())
        digest.update(np.ascontiguousarray(self.affine).astype("<f8").tobytes())
        for name, array in sorted((self.space.tensors() | self._optional()).items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def voxels(self) -> Voxels:
        """Return what the manifest says of the voxel vector."""
        mask = VoxelMask.from_volume(self.mask)
        return Voxels(
            count=mask.voxels,
            shape=mask.shape,
            mask_sha256=hashlib.sha256(
                np.ascontiguousarray(self.mask).tobytes()
            ).hexdigest(),
            voxel_order_sha256=mask.sha256,
            affine=affine_rows(self.affine),
            units=units_of(self.estimator),
        )

    def tensors(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Return the arrays as the bundle's tensors name them."""
        return self.space.tensors() | self._optional() | {"mask": self.mask}

    def _optional(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        arrays = {"hrf_index": self.hrf_index, "reference": self.reference}
        return {name: a for name, a in arrays.items() if a is not None}
