"""Noise of one run in percent signal: components, own noise, drift, run's offset.

Everything is scaled by the voxel's residual standard deviation, so shares hold in
every voxel. Knows no stimulus.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64

from training.participant.brain import Brain, smooth_field
from training.participant.parameters import ParticipantParameters

_QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """Noise of one participant, on the head's voxels.

    Attributes:
        scale: Residual standard deviation, percent.
        loadings: Components by voxels, global first, in units of `scale`.
        own_share: Share of the residual variance that is the voxel's own.
        ar_share: Share of the own noise that is autocorrelated.
        offset_fields: Smooth fields whose random mixtures shift runs and drift.
    """

    scale: Float64[np.ndarray, " head"]
    loadings: Float32[np.ndarray, "components head"]
    own_share: float
    ar_share: Float64[np.ndarray, " head"]
    offset_fields: Float32[np.ndarray, "fields head"]


def build_noise(
    brain: Brain, p: ParticipantParameters, rng: np.random.Generator
) -> NoiseModel:
    """Draw the spatial structure of a participant's noise."""
    mask = brain.head_mask
    sigma = p.component_smoothness_mm / p.voxel_mm
    fields = np.stack(
        [smooth_field(mask, sigma, rng) for _ in range(p.component_count)]
    )
    fields *= math.sqrt(p.component_share) / np.sqrt((fields**2).sum(axis=0))
    shared = 1 + 0.2 * smooth_field(mask, 2 * sigma, rng)
    loadings = np.concatenate([math.sqrt(p.global_share) * shared[None], fields])
    n = int(mask.sum())
    return NoiseModel(
        scale=_noise_scale(brain, p, rng),
        loadings=loadings.astype(np.float32),
        own_share=1 - p.component_share - p.global_share,
        ar_share=np.clip(p.voxel_ar_share + 0.15 * rng.standard_normal(n), 0.05, 0.95),
        offset_fields=np.stack(
            [smooth_field(mask, 2 * sigma, rng) for _ in range(8)]
        ).astype(np.float32),
    )


def residual_series(
    model: NoiseModel,
    n_volumes: int,
    p: ParticipantParameters,
    rng: np.random.Generator,
) -> Float32[np.ndarray, "times head"]:
    """Draw stationary noise of one run, percent, without drift."""
    n_voxels = len(model.scale)
    courses = _ar1((n_volumes, len(model.loadings)), p.component_ar**p.tr_s, rng)
    slow = _ar1((n_volumes, n_voxels), p.voxel_ar**p.tr_s, rng)
    white = rng.standard_normal((n_volumes, n_voxels), dtype=np.float32)
    own = np.sqrt(model.ar_share).astype(np.float32) * slow
    own += np.sqrt(1 - model.ar_share).astype(np.float32) * white
    own *= np.float32(math.sqrt(model.own_share))
    own += courses @ model.loadings
    return np.asarray(own * model.scale.astype(np.float32), dtype=np.float32)


def drift_series(
    model: NoiseModel,
    n_volumes: int,
    p: ParticipantParameters,
    rng: np.random.Generator,
) -> Float32[np.ndarray, "times head"]:
    """Draw a run's drift, percent, mean 0: mostly a line, some slow cosine."""
    time = np.linspace(-1, 1, n_volumes)
    shapes = [math.sqrt(3) * time, math.sqrt(2) * np.cos(math.pi * (time + 1))]
    weights = (math.sqrt(0.9), math.sqrt(0.1))
    total = np.zeros((n_volumes, len(model.scale)))
    for shape, weight in zip(shapes, weights, strict=True):
        total += weight * shape[:, None] * _offset(model, rng)
    return np.asarray(p.drift_ratio * total * model.scale, dtype=np.float32)


def run_offset(
    model: NoiseModel, p: ParticipantParameters, rng: np.random.Generator
) -> Float32[np.ndarray, " head"]:
    """Draw by how much a run's mean differs from the participant's, percent."""
    offset = p.run_shift_ratio * _offset(model, rng) * model.scale
    return np.asarray(offset, dtype=np.float32)


def _offset(
    model: NoiseModel, rng: np.random.Generator
) -> Float64[np.ndarray, " head"]:
    """Draw a unit-variance field: one half smooth in space, one half voxelwise."""
    mixture = rng.standard_normal(len(model.offset_fields))
    smooth = mixture @ model.offset_fields / math.sqrt(len(mixture))
    own = rng.standard_normal(len(model.scale))
    return np.asarray(math.sqrt(0.5) * (smooth + own))


def _noise_scale(
    brain: Brain, p: ParticipantParameters, rng: np.random.Generator
) -> Float64[np.ndarray, " head"]:
    """Give decoding voxels, and apart from them the others, the table's quantiles."""
    # Late: it takes longer to import than a participant takes to be read.
    from scipy import stats

    mask = brain.head_mask
    field = smooth_field(mask, 1.5, rng) + 0.7 * rng.standard_normal(int(mask.sum()))
    scale = np.empty(len(field))
    decoding: Bool[np.ndarray, " head"] = np.zeros(len(field), dtype=bool)
    decoding[brain.decoding_voxels] = True
    for group in (decoding, ~decoding):
        rank = (stats.rankdata(field[group]) - 0.5) / group.sum()
        tsnr = np.exp(np.interp(rank, _QUANTILES, np.log(p.tsnr_quantiles)))
        scale[group] = 100 / tsnr
    return scale


def _ar1(
    shape: tuple[int, int], coefficient: float, rng: np.random.Generator
) -> Float32[np.ndarray, "times series"]:
    """Draw stationary AR(1) columns of variance 1."""
    from scipy import signal  # as above

    shocks = rng.standard_normal(shape, dtype=np.float32)
    shocks[1:] *= np.float32(math.sqrt(1 - coefficient**2))
    taps = np.array([1.0, -coefficient], dtype=np.float32)
    series = signal.lfilter(np.ones(1, dtype=np.float32), taps, shocks, axis=0)
    return np.asarray(series, dtype=np.float32)
