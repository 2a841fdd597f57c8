"""A head that moves between grids: exact volumes, whatever the pose of each slice.

The head is a sum of isotropic Gaussians of 2 to 6 mm, so a moved head is the same sum
about moved middles, and the mean over a voxel is a product of differences of the error
function. No image is ever interpolated, so nothing here resembles what is judged.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import erf

Array = np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Gaussian parts of a head, about the grid's centre."""

    middles_mm: Array = field(repr=False)
    sigma_mm: Array = field(repr=False)
    weight: Array = field(repr=False)


def head_of(rng: np.random.Generator, parts: int, size_mm: tuple[float, ...]) -> Head:
    """Draw a head: a folded brain within a scalp that the field of view cuts."""
    radii = np.array(size_mm) / 2
    inner = rng.normal(size=(parts, 3))
    inner *= (rng.uniform(0.05, 1.0, parts) ** (1 / 3) / np.linalg.norm(inner, axis=1))[
        :, None
    ]
    brain = inner * radii * 0.85
    shell = rng.normal(size=(parts // 2, 3))
    shell *= (1.0 / np.linalg.norm(shell, axis=1))[:, None]
    scalp = shell * radii * 1.05
    middles = np.concatenate((brain, scalp))
    sigma = np.concatenate(
        (rng.uniform(2.5, 6.0, parts), rng.uniform(2.0, 3.0, parts // 2))
    )
    share = np.concatenate(
        (rng.uniform(0.2, 1.0, parts), rng.uniform(0.1, 0.5, parts // 2))
    )
    # Parts of the same height, whatever their width.
    return Head(middles, sigma, share * (3.0 / sigma) ** 1.5)


@dataclass(frozen=True, slots=True)
class Scanner:
    """The grid that a head is acquired on, axes along RAS+."""

    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float]

    @property
    def affine(self) -> Array:
        """Voxel indices to millimetres; the middle of the grid is the origin."""
        affine = np.diag([*self.voxel_mm, 1.0])
        affine[:3, 3] = -(np.array(self.shape) - 1) / 2 * np.array(self.voxel_mm)
        return affine


def acquired(head: Head, scanner: Scanner, maps: Array) -> Array:
    """Return the noiseless volume of a head that slice k shows moved by ``maps[k]``.

    Args:
        head: In the millimetres of the reference.
        scanner: The grid.
        maps: slices x 4 x 4, reference to scanner millimetres; or one for all.
    """
    maps = np.broadcast_to(maps, (scanner.shape[2], 4, 4))
    lines = [
        (np.arange(n + 1) - n / 2) * size
        for n, size in zip(scanner.shape, scanner.voxel_mm, strict=True)
    ]
    volume = np.empty(scanner.shape)
    for k, matrix in enumerate(maps):
        middles = head.middles_mm @ matrix[:3, :3].T + matrix[:3, 3]
        in_slice = _mean(lines[2][k : k + 2], middles[:, 2], head.sigma_mm)[:, 0]
        weight = head.weight * in_slice
        near = np.abs(weight) > 1e-7 * head.weight.max()
        x = _mean(lines[0], middles[near, 0], head.sigma_mm[near])
        y = _mean(lines[1], middles[near, 1], head.sigma_mm[near])
        volume[:, :, k] = (x * weight[near, None]).T @ y
    return volume


def _mean(edges: Array, middles: Array, sigma: Array) -> Array:
    """Mean of ``exp(-(x - middle)^2 / 2 sigma^2)`` between edges: parts x voxels."""
    scaled = (edges - middles[:, None]) / (np.sqrt(2) * sigma[:, None])
    area = np.diff(erf(scaled), axis=1) * (np.sqrt(np.pi / 2) * sigma[:, None])
    return area / np.diff(edges)
