"""The trials that a model learns from: voxels, and which image was on the screen.

Latents are kept once per image and shared by its trials through an index, so that
repeats cost no memory; every array may be a read-only memory map.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Int64

from runtime.errors import ConfigError, TensorMismatchError
from training.config import ModelConfig

_ROWS = 1024
"""Rows that are checked at a time, so that a memory map is never read in whole."""


@dataclass(frozen=True, slots=True)
class TrialSet:
    """Single trials with the visual latents of their images.

    Raises:
        TensorMismatchError: A wrong dtype or number of axes, lengths that do not fit,
            a value that is not finite, or an index without a row of latents.
    """

    voxels: Float32[np.ndarray, "trials voxels"]
    """One row per trial, normalised as at the scanner."""
    image: Int64[np.ndarray, " trials"]
    """The row of `latents` that belongs to each trial."""
    latents: Float32[np.ndarray, "images tokens width"]
    """z_v, one per image."""

    def __post_init__(self) -> None:
        """Check the three arrays against each other."""
        for field, dtype, axes in (
            ("voxels", np.float32, 2),
            ("image", np.int64, 1),
            ("latents", np.float32, 3),
        ):
            array = getattr(self, field)
            if array.dtype != dtype or array.ndim != axes:
                raise TensorMismatchError(
                    f"trials.{field}",
                    expected=f"{np.dtype(dtype)} with {axes} axes",
                    found=f"{array.dtype} with shape {array.shape}",
                )
        if len(self.voxels) == 0:
            raise TensorMismatchError(
                "trials.voxels", expected="at least one trial", found="none"
            )
        if len(self.image) != len(self.voxels):
            raise TensorMismatchError(
                "trials.image",
                expected=f"one row per trial, {len(self.voxels)}",
                found=f"{len(self.image)}",
            )
        self._check_indices()
        _check_finite("trials.voxels", self.voxels)
        _check_finite("trials.latents", self.latents)

    def _check_indices(self) -> None:
        images = len(self.latents)
        outside = np.flatnonzero((self.image < 0) | (self.image >= images))
        if outside.size:
            trial = int(outside[0])
            raise TensorMismatchError(
                "trials.image",
                expected=f"rows of latents in [0, {images})",
                found=f"{self.image[trial]} at trial {trial}",
            )

    def __len__(self) -> int:
        """Return the number of trials."""
        return len(self.voxels)

    def latent_mean(self) -> Float32[np.ndarray, "tokens width"]:
        """Return the mean of z_v over the images of these trials, each counted once."""
        shown = self.latents[np.unique(self.image)]
        return np.asarray(shown.mean(axis=0, dtype=np.float64), dtype=np.float32)

    def centred(self) -> "TrialSet":
        """Return the same trials with `latent_mean` subtracted from z_v."""
        return replace(self, latents=self.latents - self.latent_mean())

    def check_fits(self, config: ModelConfig) -> None:
        """Compare the shapes with a model's.

        Raises:
            TensorMismatchError: Another number of voxels, tokens or features.
        """
        vae = config.vae
        if self.voxels.shape[1] != vae.voxels:
            raise TensorMismatchError(
                "trials.voxels",
                expected=f"{vae.voxels} voxels as vae.voxels",
                found=f"{self.voxels.shape[1]}",
            )
        if self.latents.shape[1:] != (vae.tokens, vae.width):
            raise TensorMismatchError(
                "trials.latents",
                expected=f"{vae.tokens} tokens of width {vae.width} as in vae",
                found="{} of width {}".format(*self.latents.shape[1:]),
            )

    def digest(self) -> str:
        """Return a sha256 that tells sets of trials apart.

        Covers every shape, the whole index and 16 rows of the large arrays: enough to
        refuse the wrong data when a run resumes, cheap for tens of gigabytes.
        """
        shapes = [self.voxels.shape, self.image.shape, self.latents.shape]
        digest = hashlib.sha256(repr(shapes).encode())
        digest.update(np.ascontiguousarray(self.image).tobytes())
        for array in (self.voxels, self.latents):
            rows = np.linspace(0, len(array) - 1, 16).astype(int)
            digest.update(np.ascontiguousarray(array[rows]).tobytes())
        return digest.hexdigest()


def epoch_order(trials: int, seed: int, epoch: int) -> Int64[np.ndarray, " trials"]:
    """Return the order of an epoch: a function of its arguments and nothing else."""
    # Seeds are any integers in a configuration; entropy must not be negative.
    rng = np.random.Generator(np.random.PCG64([seed % 2**64, epoch]))
    return rng.permutation(trials).astype(np.int64)


@dataclass(frozen=True, slots=True)
class BatchOrder:
    """Which trials make up which step.

    A function of the step alone, so that a resumed run sees the batches that the
    uninterrupted one would have seen. The incomplete last batch of an epoch is dropped.

    Raises:
        ConfigError: Fewer trials than one batch.
    """

    trials: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse an epoch without a batch."""
        if self.trials < self.batch:
            raise ConfigError(
                f"batch: expected at most the {self.trials} trials, found {self.batch}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches of an epoch."""
        return self.trials // self.batch

    def at(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Return the trials of a step, counted from 0."""
        epoch, i = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.trials, self.seed, epoch)
        return order[i * self.batch : (i + 1) * self.batch]


def _check_finite(name: str, array: np.ndarray) -> None:
    for first in range(0, len(array), _ROWS):
        bad = np.argwhere(~np.isfinite(array[first : first + _ROWS]))
        if bad.size:
            row, *rest = (int(i) for i in bad[0])
            at = ", ".join(map(str, (first + row, *rest)))
            raise TensorMismatchError(
                name, expected="finite values", found=f"another at [{at}]"
            )
