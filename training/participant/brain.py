"""The phantom: a small head with anatomy at two resolutions and named regions.

Axes are RAS+: x to the right, y to the front, z up; slices are acquired along z.
Knows no time, no image and no noise.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16, Int64
from scipy import ndimage

from runtime.errors import ConfigError
from training.participant.parameters import ROI_NAMES, ParticipantParameters

# Centres on the right, in half axes of the ellipsoid: (lateral, front, up). Early
# areas lie at the back near the middle, FFA and PPA below, LO to the side.
_ROI_CENTRES = {
    "V1": (0.15, -0.75, 0.05),
    "V2": (0.3, -0.65, 0.3),
    "V3": (0.4, -0.55, -0.25),
    "hV4": (0.45, -0.35, -0.45),
    "LO": (0.7, -0.4, 0.05),
    "FFA": (0.5, 0.0, -0.5),
    "PPA": (0.2, -0.05, -0.5),
    "SUP": (0.45, -0.15, 0.45),
}
_SURFACE = (0.97, 1.13)


@dataclass(frozen=True, slots=True)
class Brain:
    """Phantom of one participant.

    Attributes:
        affine: Voxel index to millimetres of the acquired grid.
        head_mask: Where there is signal, on the acquired grid.
        labels: 1-based index into `ROI_NAMES`, 0 elsewhere.
        fine_coefficients: Cubic spline coefficients of the fine anatomy.
        fine_factor: Fine voxels per acquired voxel.
        fine_margin: Fine voxels before acquired voxel 0.
        decoding_voxels: Indices of the decoding voxels (C order of the grid) among
            the head's voxels (C order too).
    """

    affine: Float64[np.ndarray, "4 4"]
    head_mask: Bool[np.ndarray, "x y z"]
    labels: Int16[np.ndarray, "x y z"]
    fine_coefficients: Float32[np.ndarray, "fx fy fz"]
    fine_factor: int
    fine_margin: int
    decoding_voxels: Int64[np.ndarray, " voxels"]

    @property
    def roi(self) -> Int16[np.ndarray, " voxels"]:
        """Label of each decoding voxel, in decoding order."""
        return self.labels[self.labels > 0]

    @property
    def head_indices(self) -> Int64[np.ndarray, "head 3"]:
        """Grid indices of the head's voxels, C order."""
        return np.argwhere(self.head_mask)


def build_brain(p: ParticipantParameters, rng: np.random.Generator) -> Brain:
    """Build the phantom.

    Raises:
        ConfigError: The regions do not fit into the grid.
    """
    radius = _radius(_grid_points(p.grid, 1, 0), p.grid)
    inside = ndimage.binary_erosion(radius <= 1.0)
    head_mask = radius <= _SURFACE[1]
    labels = _grow_rois(p, inside)
    fine = _fine_anatomy(p, rng)
    affine = np.diag([p.voxel_mm, p.voxel_mm, p.voxel_mm, 1.0])
    affine[:3, 3] = -p.voxel_mm * (np.array(p.grid) - 1) / 2
    return Brain(
        affine=affine,
        head_mask=head_mask,
        labels=labels,
        fine_coefficients=ndimage.spline_filter(fine, 3, output=np.float32),
        fine_factor=p.fine_factor,
        fine_margin=p.margin_voxels * p.fine_factor,
        decoding_voxels=np.flatnonzero(labels[head_mask] > 0),
    )


def smooth_field(
    mask: Bool[np.ndarray, "x y z"], sigma_voxels: float, rng: np.random.Generator
) -> Float64[np.ndarray, " masked"]:
    """Draw a smooth random field in a mask, mean 0 and variance 1 over the mask."""
    field = ndimage.gaussian_filter(rng.standard_normal(mask.shape), sigma_voxels)
    values = np.asarray(field[mask], dtype=np.float64)
    return np.asarray((values - values.mean()) / values.std())


def _grid_points(
    grid: tuple[int, int, int], factor: int, margin: int
) -> Float64[np.ndarray, "x y z 3"]:
    """Return positions, in acquired voxel indices, of a grid `factor` times as fine."""
    axes = [np.arange(n * factor + 2 * margin) - margin for n in grid]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) / factor


def _radius(
    points: Float64[np.ndarray, "*space 3"], grid: tuple[int, int, int]
) -> Float64[np.ndarray, "*space"]:
    """Return the distance from the ellipsoid's centre; 1 is the brain's surface."""
    shape = np.array(grid)
    centred = (points - (shape - 1) / 2) / (shape / 2 - 0.4)
    return np.asarray(np.sqrt((centred**2).sum(-1)))


def _fine_anatomy(
    p: ParticipantParameters, rng: np.random.Generator
) -> Float32[np.ndarray, "fx fy fz"]:
    points = _grid_points(p.grid, p.fine_factor, p.margin_voxels * p.fine_factor)
    sigma = p.anatomy_smoothness_mm * p.fine_factor / p.voxel_mm
    texture = ndimage.gaussian_filter(rng.standard_normal(points.shape[:3]), sigma)
    rank = 0.5 * (1 + np.tanh(texture / texture.std()))
    intensity = p.intensity_low + (p.intensity_high - p.intensity_low) * rank
    # The surface is a ramp of about 1.5 voxels: partial volume, not a jump.
    inner, outer = _SURFACE
    surface = np.clip((outer - _radius(points, p.grid)) / (outer - inner), 0.0, 1.0)
    return np.asarray(intensity * surface, dtype=np.float32)


def _grow_rois(
    p: ParticipantParameters, inside: Bool[np.ndarray, "x y z"]
) -> Int16[np.ndarray, "x y z"]:
    """Give each region its nearest free voxels, hemisphere by hemisphere."""
    if len(p.roi_voxels) != len(ROI_NAMES):
        raise ConfigError(
            f"roi_voxels: expected {len(ROI_NAMES)} numbers, found {len(p.roi_voxels)}"
        )
    labels = np.zeros(p.grid, dtype=np.int16)
    shape = np.array(p.grid)
    position = (_grid_points(p.grid, 1, 0) - (shape - 1) / 2) / (shape / 2)
    for side in (-1, 1):
        hemisphere = inside & (np.sign(position[..., 0]) == side)
        for label, (name, wanted) in enumerate(
            zip(ROI_NAMES, p.roi_voxels, strict=True), start=1
        ):
            free = np.argwhere(hemisphere & (labels == 0))
            n = wanted // 2 if side < 0 else wanted - wanted // 2
            if len(free) < n:
                raise ConfigError(
                    f"grid: expected {n} free voxels for {name}, found {len(free)}. "
                    "Enlarge grid or shrink roi_voxels."
                )
            centre = np.array(_ROI_CENTRES[name]) * (side, 1, 1)
            distance = ((position[tuple(free.T)] - centre) ** 2).sum(-1)
            chosen = free[np.argsort(distance, kind="stable")[:n]]
            labels[tuple(chosen.T)] = label
    return labels
