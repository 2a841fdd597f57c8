"""What the voxels are tuned to: image and factors to a mean response pattern.

Early areas read the pixels through population receptive fields (Dumoulin and
Wandell 2008): luminance, two colour opponencies and oriented contrast energy (Adelson
and Bergen 1985). Late areas are fixed random nonlinear functions of the factors. No
block transform of patches is computed here, as the model's visual backbone does.
"""

import math

import numpy as np
from jaxtyping import Float32, Float64, Int16, UInt8
from scipy import ndimage

from training.participant.images import CATEGORIES, ImageFactors
from training.participant.parameters import (
    EARLY_ROIS,
    ROI_NAMES,
    SUPPRESSOR,
    ParticipantParameters,
)

Images = UInt8[np.ndarray, "images rows columns 3"]
Responses = Float64[np.ndarray, "images voxels"]

_ORIENTATIONS = 4
_COLOUR_MAPS = 3  # luminance and two opponencies; the rest is contrast energy
_WAVELENGTHS_PX = (4.0, 8.0)  # of a 32 pixel image: 8 and 4 cycles per image
# Weights of (category, position, size, ink colour, background) by region.
_LATE_EMPHASIS = {
    "hV4": (0.5, 0.7, 0.4, 1.3, 0.9),
    "LO": (1.2, 0.7, 0.7, 0.2, 0.2),
    "FFA": (1.4, 0.4, 0.5, 0.3, 0.2),
    "PPA": (1.3, 0.4, 0.4, 0.4, 0.7),
}
_PREFERRED = {"FFA": "face", "PPA": "house"}


def response_patterns(
    images: Images,
    factors: list[ImageFactors],
    roi: Int16[np.ndarray, " voxels"],
    p: ParticipantParameters,
    rng: np.random.Generator,
) -> Responses:
    """Return each voxel's tuned response, mean 0 and variance 1 over the images.

    The suppressor region responds to nothing: its columns are 0.
    """
    patterns = np.zeros((len(images), len(roi)))
    maps = _feature_maps(images)
    for label, name in enumerate(ROI_NAMES, start=1):
        columns = np.flatnonzero(roi == label)
        if name in EARLY_ROIS:
            sigma = p.prf_sigma[EARLY_ROIS.index(name)]
            patterns[:, columns] = _early(maps, len(columns), sigma, p, rng)
        elif name != SUPPRESSOR:
            patterns[:, columns] = _late(factors, name, len(columns), p, rng)
    centred = patterns - patterns.mean(axis=0)
    return np.asarray(centred / np.maximum(patterns.std(axis=0), 1e-12))


def _feature_maps(images: Images) -> Float32[np.ndarray, "images maps pixels"]:
    """Compute pixel maps of luminance, opponency and contrast energy."""
    rgb = images.astype(np.float32) / 255
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    luminance = (r + g + b) / 3
    maps = [luminance, r - g, b - (r + g) / 2]
    maps += [
        _energy(luminance, wavelength, math.pi * k / _ORIENTATIONS)
        for wavelength in _WAVELENGTHS_PX
        for k in range(_ORIENTATIONS)
    ]
    stacked = np.stack(maps, axis=1).reshape(len(images), len(maps), -1)
    spread = stacked.std(axis=(0, 2), keepdims=True)
    return np.asarray(stacked / np.maximum(spread, 1e-6), dtype=np.float32)


def _energy(
    luminance: Float32[np.ndarray, "images rows columns"],
    wavelength_px: float,
    theta: float,
) -> Float32[np.ndarray, "images rows columns"]:
    """Root of the summed squares of a Gabor quadrature pair."""
    sigma = 0.4 * wavelength_px
    reach = math.ceil(2.5 * sigma)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    envelope = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    phase = 2 * math.pi * (x * math.cos(theta) + y * math.sin(theta)) / wavelength_px
    total = np.zeros_like(luminance)
    for carrier in (np.cos(phase), np.sin(phase)):
        kernel = envelope * carrier
        kernel -= envelope * kernel.sum() / envelope.sum()
        weights = (kernel / np.abs(kernel).sum()).astype(np.float32)[None]
        total += ndimage.convolve(luminance, weights, mode="nearest") ** 2
    return np.asarray(np.sqrt(total))


def _early(
    maps: Float32[np.ndarray, "images maps pixels"],
    n_voxels: int,
    sigma: float,
    p: ParticipantParameters,
    rng: np.random.Generator,
) -> Responses:
    """Read the maps through Gaussian receptive fields with random map weights."""
    size = math.isqrt(maps.shape[2])
    axis = (2 * np.arange(size) + 1) / size - 1
    x, y = np.meshgrid(axis, axis)
    centres = rng.uniform(-0.75, 0.75, size=(n_voxels, 2))
    radius = sigma * np.exp(0.2 * rng.standard_normal(n_voxels))
    squared = (x.ravel()[:, None] - centres[:, 0]) ** 2
    squared = squared + (y.ravel()[:, None] - centres[:, 1]) ** 2
    fields = np.exp(-squared / (2 * radius**2))
    fields /= fields.sum(axis=0)
    weights = rng.standard_normal((maps.shape[1], n_voxels))
    weights[_COLOUR_MAPS:] *= p.energy_weight
    flat = maps.reshape(-1, maps.shape[2]) @ fields.astype(np.float32)
    pooled = flat.reshape(*maps.shape[:2], n_voxels)
    drive = (pooled * weights.astype(np.float32)).sum(axis=1)
    drive = (drive - drive.mean(axis=0)) / np.maximum(drive.std(axis=0), 1e-12)
    return np.asarray(2 * np.tanh(drive / 2), dtype=np.float64)


def _late(
    factors: list[ImageFactors],
    name: str,
    n_voxels: int,
    p: ParticipantParameters,
    rng: np.random.Generator,
) -> Responses:
    """Apply a fixed random one-hidden-layer tuning to the factors."""
    category, position, size, ink, background = _LATE_EMPHASIS[name]
    one_hot = np.eye(len(CATEGORIES))[[f.category for f in factors]]
    continuous = np.stack([f.vector() for f in factors])
    emphasis = [position] * 2 + [size] + [ink] * 3 + [background] * 3
    inputs = np.concatenate([one_hot * 2 * category, continuous * emphasis], axis=1)
    first = rng.standard_normal((inputs.shape[1], p.late_units)) / 2.2
    bias = rng.standard_normal(p.late_units)
    hidden = np.tanh(inputs @ first + bias)
    second = rng.standard_normal((p.late_units, n_voxels)) / math.sqrt(p.late_units)
    drive = hidden @ second
    if name in _PREFERRED:
        preferred = one_hot[:, [CATEGORIES.index(_PREFERRED[name])]]
        drive = drive + 2.0 * drive.std() * preferred
    return np.asarray(drive)
