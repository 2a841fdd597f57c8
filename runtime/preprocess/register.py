"""Rigid registration of a volume to a reference: Gauss-Newton on the reference's side.

Inverse-compositional (Baker and Matthews 2004): the reference's slopes are computed
once, a step asks only for the volume's values where the reference's points are thought
to lie. A volume is taken as ``gain * reference(moved) + offset``, so another gain of
the receiver moves nothing. Points that disagree, as active or lost tissue does, count
less (Tukey's biweight). Both images are smoothed alike. Pure; the same volume from the
same start gives the same bits.
"""

from dataclasses import dataclass
from typing import Final, final

import numpy as np

from runtime.arrays import Bool, Float32, Float64, Shaped
from runtime.errors import TensorMismatchError
from runtime.preprocess.axis_filter import (
    FWHM_PER_SIGMA,
    AxisFilter,
    AxisMatrix,
    blocks,
    cubic_coefficients,
    gaussian,
    slope,
)
from runtime.preprocess.rigid import (
    HEAD_RADIUS_MM,
    Matrix,
    centre_of,
    matrix_from_pose,
    voxel_sizes,
)
from runtime.preprocess.sample import PointSampler

SPACING_MM: Final = 6.0
"""Between points: about 5,000 in a head, and more gain nothing (docs/motion.md)."""
HEAD_SHARE: Final = 0.2
"""A point belongs to the head above this share of the reference's bright level."""
BRIGHT_PERCENTILE: Final = 98.0
MIN_POINTS: Final = 200
"""A head of fewer points cannot be registered."""
MAX_STEPS: Final = 12
STEP_MM: Final = 0.005
"""A step below this, as framewise displacement, is the last one."""
MIN_CORRELATION: Final = 0.7
"""Below this the reference is not found: wrong head, or no head (docs/motion.md)."""
MIN_INSIDE: Final = 0.5
"""At least this share of the reference's points must lie in the field of view."""
TUKEY: Final = 4.685
"""Biweight's constant for 95 % efficiency under normal noise."""
SIGMA_PER_MAD: Final = 1.4826


@final
@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Shape of a volume and the place of its voxels."""

    shape: tuple[int, int, int]
    affine: Matrix
    """Voxel indices to millimetres, RAS+."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """Where the reference was found in a volume."""

    matrix: Matrix
    """The reference's millimetres to the volume's."""
    correlation: float
    """Between the volume and the reference, over the points that count."""
    inside: float
    """Share of the points within the volume's field of view."""
    steps: int
    is_converged: bool

    @property
    def is_found(self) -> bool:
        """Whether the place can be believed."""
        return (
            self.is_converged
            and self.correlation >= MIN_CORRELATION
            and self.inside >= MIN_INSIDE
        )


@final
class Registration:
    """One reference at one smoothness, for volumes of one grid.

    Args:
        reference: Finite, at least 4 voxels along every axis.
        grid: Of the reference.
        volumes: Grid of the volumes to come.
        fwhm_mm: Smoothing of both.
        spacing_mm: Between points.
        order: 3 to read the smoothed volume by cubic splines, 1 linearly.

    Raises:
        TensorMismatchError: The reference has another shape than its grid, or shows no
            head.
        ConfigError: An affine has no inverse.
    """

    def __init__(
        self,
        reference: Float32[np.ndarray, "x y z"],
        grid: Grid,
        volumes: Grid,
        *,
        fwhm_mm: float,
        spacing_mm: float = SPACING_MM,
        order: int = 3,
    ) -> None:
        self._centre_mm = centre_of(grid.affine, grid.shape)
        smooth = _smoothing(grid, fwhm_mm)
        values = AxisFilter(*smooth)(reference).copy()
        chosen = _points(values, grid, fwhm_mm, spacing_mm)
        indices = np.argwhere(chosen).T.astype(np.float64)
        if indices.shape[1] < MIN_POINTS:
            raise TensorMismatchError(
                "reference",
                expected=f"a head of at least {MIN_POINTS} points",
                found=f"{indices.shape[1]}",
            )
        points_mm = grid.affine[:3, :3] @ indices + grid.affine[:3, 3:]
        slopes = _slopes(reference, grid, smooth, chosen)
        arms = points_mm - self._centre_mm[:, None]
        rows = np.empty((8, indices.shape[1]))
        rows[0], rows[1] = values[chosen], 1.0
        rows[2:5] = slopes
        # A turn of one radian's arc in millimetres, so that all six are of one size.
        rows[5:8] = np.cross(arms, slopes, axis=0) / HEAD_RADIUS_MM
        # The last row holds the volume's values, so that one product gives both sides.
        self._rows = np.empty((9, indices.shape[1]), dtype=np.float32)
        self._rows[:8] = rows
        self._points_mm = np.vstack((points_mm, np.ones(indices.shape[1])))
        self._to_voxels = np.linalg.inv(volumes.affine)
        filters = _smoothing(volumes, fwhm_mm)
        if order == 3:
            filters = tuple(
                cubic_coefficients(size) @ matrix
                for size, matrix in zip(volumes.shape, filters, strict=True)
            )
        self._filter = AxisFilter(*filters)
        self._sampler = PointSampler(volumes.shape, indices.shape[1], order)
        self._weighted = np.empty_like(self._rows[:8])
        self._weights = np.empty(indices.shape[1], dtype=np.float32)
        self._residual = np.empty(indices.shape[1], dtype=np.float32)

    @property
    def points(self) -> int:
        """Points of the reference that are looked for."""
        return int(self._weights.size)

    def load(self, volume: Shaped[np.ndarray, "x y z"]) -> None:
        """Smooth a volume for the calls of `align` that follow."""
        self._volume = self._filter(volume)

    def align(self, start: Matrix, max_steps: int = MAX_STEPS) -> Alignment:
        """Find the reference in the loaded volume, starting from a map."""
        matrix, correlation = start, 0.0
        fit = None
        for step in range(1, max_steps + 1):
            values = self._at(matrix)
            inside = float(self._sampler.is_inside.mean())
            self._weigh(values, fit)
            fit = self._solve(values)
            if fit is None:
                return Alignment(start, 0.0, inside, step, is_converged=False)
            turn = fit[2:] / fit[0]
            change = np.concatenate((turn[:3], np.rad2deg(turn[3:] / HEAD_RADIUS_MM)))
            moved = matrix_from_pose(change, self._centre_mm)
            matrix = matrix @ np.linalg.inv(moved)
            if np.abs(turn).sum() < STEP_MM:
                correlation = self._correlation(values)
                return Alignment(matrix, correlation, inside, step, is_converged=True)
        correlation = self._correlation(values)
        return Alignment(matrix, correlation, inside, max_steps, is_converged=False)

    def _at(self, matrix: Matrix) -> Float32[np.ndarray, " points"]:
        to_voxels = (self._to_voxels @ matrix)[:3]
        places = np.einsum("ij,jn->in", to_voxels, self._points_mm)
        return self._sampler.at(self._volume, places)

    def _weigh(
        self,
        values: Float32[np.ndarray, " points"],
        fit: Float64[np.ndarray, "8"] | None,
    ) -> None:
        weights = self._weights
        weights[:] = self._sampler.is_inside
        if fit is None:
            return
        residual = self._residual
        np.multiply(self._rows[0], np.float32(fit[0]), out=residual)
        residual += np.float32(fit[1])
        np.subtract(values, residual, out=residual)
        np.abs(residual, out=residual)
        scale = TUKEY * SIGMA_PER_MAD * float(np.median(residual))
        if scale > 0.0:
            residual /= np.float32(scale)
            np.minimum(residual, 1.0, out=residual)
            residual *= residual
            np.subtract(1.0, residual, out=residual)
            residual *= residual
            weights *= residual

    def _solve(
        self, values: Float32[np.ndarray, " points"]
    ) -> Float64[np.ndarray, "8"] | None:
        weighted = np.multiply(self._rows[:8], self._weights, out=self._weighted)
        self._rows[8] = values
        sums = np.zeros((8, 9))
        for part in blocks(values.size, sums.size):
            sums += weighted[:, part] @ self._rows[:, part].T
        normal, right = sums[:, :8], sums[:, 8]
        sizes = np.sqrt(np.diag(normal))
        if not (np.isfinite(normal).all() and (sizes > 0).all()):
            return None
        try:
            fit = np.linalg.solve(normal / np.outer(sizes, sizes), right / sizes)
        except np.linalg.LinAlgError:
            return None
        fit = fit / sizes
        return fit if np.isfinite(fit).all() and fit[0] > 0 else None

    def _correlation(self, values: Float32[np.ndarray, " points"]) -> float:
        weights = self._weights.astype(np.float64)
        total = weights.sum()
        x, y = self._rows[0] - self._rows[0].mean(), values.astype(np.float64)
        x, y = x - (weights @ x) / total, y - (weights @ y) / total
        scale = np.sqrt((weights @ (x * x)) * (weights @ (y * y)))
        return float((weights @ (x * y)) / scale) if scale > 0 else 0.0


def _smoothing(grid: Grid, fwhm_mm: float) -> tuple[AxisMatrix, ...]:
    sigma = fwhm_mm / FWHM_PER_SIGMA / voxel_sizes(grid.affine)
    return tuple(gaussian(n, float(s)) for n, s in zip(grid.shape, sigma, strict=True))


def _points(
    values: Float32[np.ndarray, "x y z"],
    grid: Grid,
    fwhm_mm: float,
    spacing_mm: float,
) -> Bool[np.ndarray, "x y z"]:
    """Choose the points of the reference's head, on a regular coarser grid."""
    bright = np.percentile(values, BRIGHT_PERCENTILE)
    chosen = values > HEAD_SHARE * bright
    kept = np.zeros(grid.shape, dtype=np.bool_)
    sizes = voxel_sizes(grid.affine)
    # What was smoothed with the mirror image of the field of view tells of no head.
    margins = [
        max(1, round(fwhm_mm / 2.0 / size)) if n > 8 else 1
        for n, size in zip(grid.shape, sizes, strict=True)
    ]
    strides = [max(1, round(spacing_mm / size)) for size in sizes]
    kept[
        tuple(
            slice(margin, n - margin, stride)
            for margin, n, stride in zip(margins, grid.shape, strides, strict=True)
        )
    ] = True
    return np.asarray(chosen & kept)


def _slopes(
    reference: Float32[np.ndarray, "x y z"],
    grid: Grid,
    smooth: tuple[AxisMatrix, ...],
    chosen: Bool[np.ndarray, "x y z"],
) -> Float64[np.ndarray, "3 points"]:
    """Return the slope of the smoothed reference along x, y and z, per millimetre."""
    per_voxel = []
    for axis in range(3):
        matrices = [
            slope(n) @ matrix if k == axis else matrix
            for k, (n, matrix) in enumerate(zip(grid.shape, smooth, strict=True))
        ]
        per_voxel.append(AxisFilter(*matrices)(reference)[chosen].astype(np.float64))
    return np.asarray(np.linalg.inv(grid.affine[:3, :3]).T @ np.stack(per_voxel))
