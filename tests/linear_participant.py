"""A participant that can be done by hand, and a model that is best for it.

Images have features; the response is linear in them, the noise white, so that what a
decoder and an encoder ought to do is known. On another day the response may have
another gain, lie elsewhere, or mix voxels by rotations.
"""

from dataclasses import dataclass

import numpy as np

from runtime.calibration import KnownTrials
from runtime.heads import Retrieval
from runtime.preprocess import AffineNormaliser, FeatureSpace, NoiseWhitening

RANK, VOXELS = 20, 300


class LinearGaussian:
    """The best linear decoder and encoder of the first day."""

    def __init__(self, patterns):
        self.patterns = patterns
        lengths = (patterns**2).sum(axis=1)
        self.readout = patterns / (lengths + 1)[:, None]

    def encode_voxels(self, voxels):
        return (-self.readout @ voxels)[None].astype(np.float32)

    def decode_latent(self, z_n):
        return -z_n

    def encode_latent(self, z_v):
        return -z_v

    def predict_voxels(self, z_n):
        return (-z_n[0] @ self.patterns).astype(np.float32)


@dataclass
class Day:
    trials: KnownTrials
    space: FeatureSpace
    model: LinearGaussian
    retrieval: Retrieval


def a_day(
    seed,
    *,
    images=100,
    repeats=1,
    voxels=VOXELS,
    snr=0.12,
    angle=0.0,
    gain_sd=0.0,
    offset_sd=0.0,
    is_shuffled=False,
    shift=0.0,
):
    """Trials of one day; `angle` turns pairs of voxels into each other.

    With a shift, today's images are of another kind than the gallery's: each feature
    is so much more, of which no response shows anything.
    """
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((voxels, RANK)))[0].T
    spectrum = np.linspace(1.5, 0.5, RANK)
    spectrum *= snr * np.sqrt(voxels / (spectrum**2).sum())
    model = LinearGaussian(basis * spectrum[:, None])
    features = rng.standard_normal((images, RANK))
    gallery = rng.standard_normal((100, RANK))
    image = np.tile(np.arange(images), repeats)
    rows = features[image] @ model.patterns
    rows = rows + rng.standard_normal(rows.shape)
    order = rng.permutation(voxels)
    a, b = order[: voxels // 2], order[voxels // 2 : 2 * (voxels // 2)]
    turned = rows.copy()
    turned[:, a] = np.cos(angle) * rows[:, a] - np.sin(angle) * rows[:, b]
    turned[:, b] = np.sin(angle) * rows[:, a] + np.cos(angle) * rows[:, b]
    turned *= np.exp(gain_sd * rng.standard_normal(voxels))
    turned += offset_sd * rng.standard_normal(voxels)
    scale = rng.uniform(0.5, 2.0, voxels).astype(np.float32)
    mean = rng.standard_normal(voxels).astype(np.float32)
    if is_shuffled:
        features = features[rng.permutation(images)]
    return Day(
        KnownTrials(
            betas=(turned * scale + mean).astype(np.float32),
            image=image,
            run=np.repeat(np.arange(repeats), images),
            latents=(features + shift)[:, None].astype(np.float32),
            names=tuple(f"today-{i}" for i in range(images)),
        ),
        FeatureSpace(AffineNormaliser(mean, scale), NoiseWhitening.identity(voxels)),
        model,
        Retrieval(
            gallery[:, None].astype(np.float32),
            [f"item-{i}" for i in range(100)],
            ["label"] * 100,
            mean=np.zeros((1, RANK), np.float32),
            temperature=1.0,
        ),
    )
