"""Synthetic trials: pictures that nobody saw, with the voxels an encoder predicts.

After SynBrain (Mai et al., 2025, arXiv:2508.10298), whose authors train a decoder on
one measured hour plus one synthetic hour, made by their encoder after it was adapted
to the same participant's one hour. Theirs was trained on another participant's forty
sessions first. Ours knows this participant's few trials and nothing else: what the
pictures add is other z_v, not other measurements. Whether that helps was measured:
docs/training.md, "Few trials, own data".
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64

from runtime.errors import CheckpointError, TensorMismatchError, UsageError
from runtime.path import path_from_name
from runtime.solver import solver_from_name
from training.checkpoint import load_flow, load_neurovae
from training.flow import encode_latents
from training.neurovae import NeuroVAE
from training.provenance import Synthetic
from training.sit import SiT
from training.trials import TrialSet, take_rows

STEPS = 2
"""Of the encoding flow; as `neuroflow export` takes by default."""
SHRINKAGE = 0.4
"""Share of the diagonal in the noise's covariance, as `VolumeEstimator` shrinks it."""
SAME_PICTURE = 1e-3
"""Relative distance below which two z_v are of one picture: float16 rounds by less."""
_BLOCK = 128

Latents = Float[np.ndarray, "images tokens width"]
Voxels = Float32[np.ndarray, "images voxels"]


@dataclass(frozen=True, slots=True, eq=False)
class VoxelEncoder:
    """A trained pair of checkpoints that predicts voxels from z_v."""

    vae: NeuroVAE
    field: SiT
    is_centred: bool
    """Whether it was trained on z_v minus their mean."""
    path: str
    solver: str
    fingerprints: tuple[str, str]
    """Of NeuroVAE and of the flow."""

    def predict(self, latents: Latents, mean: Float32[np.ndarray, "..."]) -> Voxels:
        """Return the voxels of pictures, as the model that learned them would have.

        Args:
            latents: z_v as stored.
            mean: Of the training pictures' z_v.
        """
        path = path_from_name(self.path)
        solver = solver_from_name(self.solver, self.path)
        predicted = []
        for first in range(0, len(latents), _BLOCK):
            z_v = latents[first : first + _BLOCK].astype(np.float32)
            if self.is_centred:
                z_v = z_v - mean
            z_n = encode_latents(
                self.field, torch.from_numpy(z_v), STEPS, solver, path
            ).float()
            with torch.no_grad():
                predicted.append(self.vae.decode(z_n).numpy())
        return np.concatenate(predicted)


def open_encoder(folder: Path) -> VoxelEncoder:
    """Open the checkpoints ``vae`` and ``flow`` of a folder.

    Raises:
        CheckpointError: One is missing or damaged, or the flow is another VAE's.
    """
    vae, first = load_neurovae(folder / "vae")
    field, second = load_flow(folder / "flow")
    if second.vae_fingerprint != first.fingerprint:
        raise CheckpointError(
            f"{folder}: expected the flow of vae {first.fingerprint[:12]}, found that "
            f"of {(second.vae_fingerprint or 'none')[:12]}"
        )
    path = second.config.flow_training.path
    return VoxelEncoder(
        vae=vae,
        field=field,
        is_centred=second.config.centre_latents,
        path=path,
        solver="rotation" if path == "cos" else "heun",
        fingerprints=(first.fingerprint, second.fingerprint),
    )


def with_synthetic(
    measured: TrialSet,
    unseen: Latents,
    encoder: VoxelEncoder,
    count: int,
    seed: int,
) -> TrialSet:
    """Return measured trials followed by synthetic ones, all in memory.

    A synthetic trial is a prediction plus normal noise, of the covariance that the
    measured trials have about the encoder's predictions, shrunk to its diagonal: voxels
    share much of their noise, and few trials tell little of how. The encoder has
    learned from these very trials: it fits them better than others, and the noise is
    too small rather than too large.

    Args:
        measured: The few trials; ``latent_mean`` stays theirs.
        unseen: z_v of pictures without a trial, as stored, not centred.
        encoder: Of the same participant and features.
        count: Synthetic trials; pictures take turns in an order that is drawn.
        seed: Draws order and noise.

    Raises:
        UsageError: No trial is asked for, or there is no picture.
        TensorMismatchError: Encoder, trials and pictures do not fit each other.
    """
    if count < 1:
        raise UsageError(f"synthetic trials: expected at least 1, found {count}")
    if len(unseen) == 0:
        raise UsageError(
            "synthetic trials: expected pictures that no trial shows, found none. "
            "Give some with --pictures"
        )
    _check_fits(measured, unseen, encoder)
    rng = np.random.Generator(np.random.PCG64([seed % 2**64, count]))
    order = rng.permutation(len(unseen))
    rows, of_trial = np.unique(np.resize(order, count), return_inverse=True)
    shown, image = np.unique(measured.image, return_inverse=True)
    known = take_rows(measured.latents, shown)
    mean, added = measured.latent_mean(), take_rows(unseen, rows)
    residuals = measured.voxels - encoder.predict(known, mean)[image]
    voxels = encoder.predict(added, mean)[of_trial] + _noise(residuals, count, rng)
    return replace(
        measured,
        voxels=np.concatenate([measured.voxels, voxels.astype(np.float32)]),
        image=np.concatenate([image, len(shown) + of_trial]).astype(np.int64),
        latents=np.concatenate([known, added.astype(known.dtype)]),
        stored_mean=mean,
        is_checked=False,
        synthetic=Synthetic(
            trials=count,
            pictures=len(rows),
            vae=encoder.fingerprints[0],
            flow=encoder.fingerprints[1],
            solver=encoder.solver,
            steps=STEPS,
            noise_shrinkage=SHRINKAGE,
            seed=seed,
        ),
    )


def _noise(
    residuals: Voxels, count: int, rng: np.random.Generator
) -> Float64[np.ndarray, "count voxels"]:
    """Draw noise of the residuals' shrunk covariance, which is never formed."""
    r = residuals.astype(np.float64)
    shared = rng.standard_normal((count, len(r))) @ r / np.sqrt(len(r))
    own = rng.standard_normal((count, r.shape[1])) * np.sqrt(np.square(r).mean(axis=0))
    mixed: Float64[np.ndarray, "count voxels"] = (
        np.sqrt(1 - SHRINKAGE) * shared + np.sqrt(SHRINKAGE) * own
    )
    return mixed


def _check_fits(measured: TrialSet, unseen: Latents, encoder: VoxelEncoder) -> None:
    if measured.synthetic is not None:
        raise UsageError("synthetic trials: expected measured ones, found synthetic")
    config = encoder.vae.config
    if measured.voxels.shape[1] != config.voxels:
        raise TensorMismatchError(
            "encoder",
            expected=f"{measured.voxels.shape[1]} voxels as in the trials",
            found=f"{config.voxels}",
        )
    wanted = measured.latents.shape[1:]
    for name, shape in (
        ("encoder", (config.tokens, config.width)),
        ("pictures", unseen.shape[1:]),
    ):
        if shape != wanted:
            raise TensorMismatchError(
                name,
                expected="{} tokens of width {} as in the trials".format(*wanted),
                found="{} of width {}".format(*shape),
            )


def known_among(unseen: Latents, held_out: Latents) -> list[int]:
    """Return which pictures are among those that were held out for a test.

    Args:
        unseen: z_v of pictures to learn from.
        held_out: z_v of pictures to be tested on.
    """
    numbers = int(np.prod(held_out.shape[1:]))
    b = held_out.reshape(len(held_out), numbers).astype(np.float32)
    lengths = np.square(b).sum(axis=1)

    def is_known(row: Float32[np.ndarray, " numbers"]) -> bool:
        # The product of float32 finds whom to compare with; the difference decides.
        distances = np.square(row).sum() + lengths - 2 * (b @ row)
        near = np.flatnonzero(distances <= 1e-3 * lengths + 1e-9)
        exact = np.square(b[near] - row, dtype=np.float64).sum(axis=1)
        return bool((exact <= SAME_PICTURE**2 * lengths[near]).any())

    return [i for i, z_v in enumerate(unseen) if is_known(_flat(z_v))]


def _flat(z_v: Float[np.ndarray, "tokens width"]) -> Float32[np.ndarray, " numbers"]:
    return z_v.ravel().astype(np.float32)
