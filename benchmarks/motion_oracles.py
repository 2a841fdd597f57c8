"""Registrations by others, behind one call: SimpleITK, and SPM's in python-rtspm.

Each returns maps as ours: the reference's millimetres to the volume's, RAS+.
python-rtspm is GPL-3: an oracle in an environment of its own, never a dependency.
"""

from typing import Any, Protocol

import numpy as np
import SimpleITK

Array = np.ndarray
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Oracle(Protocol):
    """Registers volumes to the reference that it was made with."""

    name: str

    def align(self, volume: Array) -> Array:
        """Return the map from the reference's to the volume's millimetres."""
        ...

    def resample(self) -> Array:
        """Return the last volume on the reference's grid."""
        ...


def image_from(volume: Array, affine: Array) -> Any:
    """Return a volume as SimpleITK's image."""
    image = SimpleITK.GetImageFromArray(
        np.ascontiguousarray(volume.T, dtype=np.float32)
    )
    lps = LPS @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing([float(size) for size in sizes])
    image.SetOrigin([float(x) for x in lps[:3, 3]])
    image.SetDirection([float(x) for x in (lps[:3, :3] / sizes).ravel()])
    return image


class SimpleItk:
    """Euler transform, mean squares, from the pose before; linear resampling."""

    def __init__(
        self,
        reference: Array,
        affine: Array,
        *,
        share: float,
        smooth_mm: float = 0.0,
        steps: int = 100,
        last_step: float = 1e-3,
    ) -> None:
        self.name = f"SimpleITK, {share:.0%} of the voxels, {steps} steps" + (
            f", smoothed by {smooth_mm:g} mm" if smooth_mm else ""
        )
        self._affine, self._smooth_mm = affine, smooth_mm
        self._fixed = self._smoothed(image_from(reference, affine))
        middle = (np.array(reference.shape) - 1) / 2
        self._centre = (LPS @ affine @ [*middle, 1.0])[:3]
        self._transform = SimpleITK.Euler3DTransform()
        self._transform.SetCenter([float(x) for x in self._centre])
        method = SimpleITK.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)
        method.SetMetricAsMeanSquares()
        if share < 1:
            method.SetMetricSamplingStrategy(method.RANDOM)
            method.SetMetricSamplingPercentage(share, seed=1)
        method.SetInterpolator(SimpleITK.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=0.5, minStep=last_step, numberOfIterations=steps
        )
        method.SetOptimizerScalesFromPhysicalShift()
        self._method = method

    def _smoothed(self, image: Any) -> Any:
        if not self._smooth_mm:
            return image
        return SimpleITK.SmoothingRecursiveGaussian(image, self._smooth_mm / 2.3548)

    def align(self, volume: Array) -> Array:
        """Return the map; the next call starts from it."""
        self._moving = image_from(volume, self._affine)
        start = SimpleITK.Euler3DTransform(self._transform)
        self._method.SetInitialTransform(start, inPlace=True)
        self._method.Execute(self._fixed, self._smoothed(self._moving))
        self._transform = start
        lps = np.eye(4)
        lps[:3, :3] = np.array(start.GetMatrix()).reshape(3, 3)
        shift = np.array(start.GetTranslation())
        lps[:3, 3] = self._centre + shift - lps[:3, :3] @ self._centre
        return LPS @ lps @ LPS

    def resample(self) -> Array:
        """Return the last volume on the reference's grid, linearly."""
        image = SimpleITK.Resample(
            self._moving, self._fixed, self._transform, SimpleITK.sitkLinear, 0.0
        )
        return SimpleITK.GetArrayFromImage(image).T


class Spm:
    """python-rtspm as pyOpenNFT calls it: 4 mm apart, 5 mm smooth, degree 4."""

    name = "SPM (python-rtspm)"

    def __init__(self, reference: Array, affine: Array) -> None:
        from rtspm import spm_realign_rt, spm_reslice_rt

        self._realign, self._reslice = spm_realign_rt, spm_reslice_rt
        # SPM counts voxels from 1.
        self._mat = affine @ np.array(
            [[1, 0, 0, -1], [0, 1, 0, -1], [0, 0, 1, -1], [0, 0, 0, 1.0]]
        )
        self._reference = self._image(reference)
        self._kept: list[Any] = [[] for _ in range(6)]
        self._volumes = 0

    def _image(self, volume: Array) -> dict[str, Any]:
        data = np.asfortranarray(volume, dtype=np.float64)
        return {"mat": self._mat.copy(), "dim": np.array(volume.shape), "Vol": data}

    def align(self, volume: Array) -> Array:
        """Return the map; every volume starts from no motion, as in pyOpenNFT."""
        flags = {
            "quality": 0.9, "fwhm": 5, "sep": 4, "interp": 4, "rtm": 0, "PW": "",
            "wrap": np.zeros((3, 1)), "lkp": np.arange(6),
        }  # fmt: skip
        pair = np.array([self._reference, self._image(volume)])
        self._pair, *self._kept, _ = self._realign(
            pair, flags, self._volumes, 0, *self._kept
        )
        self._volumes += 1
        # mat puts the volume's voxels where the reference has them.
        return np.linalg.inv(self._pair[1]["mat"] @ np.linalg.inv(self._mat))

    def resample(self) -> Array:
        """Return the last volume on the reference's grid, by splines of degree 4."""
        flags = {
            "quality": 0.9, "fwhm": 5, "sep": 4, "interp": 4, "mask": 1, "mean": 0,
            "which": 2, "wrap": np.zeros((3, 1)),
        }  # fmt: skip
        return np.asarray(self._reslice(self._pair, flags))
