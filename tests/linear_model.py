"""A model small enough to do by hand: random matrices there and back."""

import numpy as np

from runtime.heads import Retrieval
from runtime.patch_dct import PatchDct

BACKBONE = PatchDct(image_size=4, patch=2)


class LinearModel:
    """Voxels to latents by a matrix, and from visual to neural by a sign."""

    def __init__(self, voxels, seed=0):
        size = BACKBONE.tokens * BACKBONE.width
        rng = np.random.default_rng(seed)
        self.matrix = rng.standard_normal((size, voxels)).astype(np.float32)
        self.seen = []

    def _latent(self, row):
        return row.reshape(BACKBONE.tokens, BACKBONE.width).astype(np.float32)

    def encode_voxels(self, voxels):
        self.seen.append(voxels.copy())
        return self._latent(self.matrix @ voxels)

    def decode_latent(self, z_n):
        return -z_n

    def encode_latent(self, z_v):
        return -z_v

    def predict_voxels(self, z_n):
        return (self.matrix.T @ z_n.ravel()).astype(np.float32)


def gallery_latents(items=9, seed=5):
    shape = (items, BACKBONE.tokens, BACKBONE.width)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def retrieval(temperature=0.1):
    latents = gallery_latents()
    return Retrieval(
        latents,
        [f"image-{i}" for i in range(len(latents))],
        [f"label-{i % 3}" for i in range(len(latents))],
        mean=np.zeros(latents.shape[1:], dtype=np.float32),
        temperature=temperature,
    )
