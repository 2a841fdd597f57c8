"""What the two stages read of trials: z_v of a batch, and z_n from a frozen encoder."""

import numpy as np
import torch
from jaxtyping import Int64

from training.neurovae import Latent, NeuroVAE, Posterior, Voxels
from training.trials import TrialSet

POSTERIORS_LIMIT_BYTES = 2**30
"""Posteriors of all trials are kept where they are smaller than this.

The simulated participant's are 30 MB; those of one NSD subject would be 92 GB.
"""


def latent_batch(
    trials: TrialSet, chosen: Int64[np.ndarray, " batch"], place: torch.device
) -> Latent:
    """Return z_v of a batch in float32, centred, on a device.

    Cast there: half as much is sent, and torch is the faster at it; the numbers are
    those of `TrialSet.z_v`.
    """
    z_v = torch.from_numpy(trials.stored_z_v(chosen)).to(place).float()
    if trials.centre is not None:
        # In place, in the batch's own copy: a batch of NSD is 0.1 GB.
        z_v -= torch.from_numpy(trials.centre).to(place)
    return z_v


class FrozenEncoder:
    """Samples z_n of trials; posteriors that are constant are computed once."""

    def __init__(
        self, vae: NeuroVAE, trials: TrialSet, voxel_noise: float, own: slice
    ) -> None:
        """Freeze a VAE.

        Args:
            vae: On its device; its weights no longer learn.
            trials: Whose z_n is wanted.
            voxel_noise: Standard deviation of what is added to the voxels each time.
            own: Rows of a batch of which z_n is returned; random numbers are drawn for
                the whole batch.
        """
        self._own = own
        self._vae = vae.requires_grad_(False)
        self._trials = trials
        self._noise = voxel_noise
        self._device = next(vae.parameters()).device
        size = 2 * 4 * len(trials) * vae.config.tokens * vae.config.width
        self._kept: Posterior | None = None
        if voxel_noise == 0 and size <= POSTERIORS_LIMIT_BYTES:
            self._kept = self._all()

    @torch.no_grad()
    def _all(self) -> Posterior:
        blocks = [
            self._posterior(self._voxels(np.arange(i, min(i + 256, len(self._trials)))))
            for i in range(0, len(self._trials), 256)
        ]
        return Posterior(
            torch.cat([block.mean for block in blocks]),
            torch.cat([block.log_variance for block in blocks]),
        )

    def _voxels(self, chosen: Int64[np.ndarray, " batch"]) -> Voxels:
        return torch.from_numpy(self._trials.voxel_rows(chosen)).to(self._device)

    def _posterior(self, voxels: Voxels) -> Posterior:
        return self._vae.posterior(self._vae.features(voxels))

    @torch.no_grad()
    def sample(
        self, chosen: Int64[np.ndarray, " batch"], generator: torch.Generator
    ) -> Latent:
        """Return z_n of a batch's own rows.

        Args:
            chosen: The trials of the whole batch.
            generator: On the device of the VAE.
        """
        if self._kept is not None:
            rows = torch.from_numpy(chosen[self._own]).to(self._device)
            mean, log_variance = self._kept.mean[rows], self._kept.log_variance[rows]
            return Posterior(mean, log_variance).at(self._draw(len(chosen), generator))
        voxels = self._voxels(chosen)
        if self._noise > 0:
            noise = torch.randn(voxels.shape, generator=generator, device=self._device)
            voxels = voxels + self._noise * noise
        own = self._posterior(voxels[self._own])
        return own.at(self._draw(len(chosen), generator))

    def _draw(self, batch: int, generator: torch.Generator) -> Latent:
        shape = (batch, self._vae.config.tokens, self._vae.config.width)
        noise = torch.randn(shape, generator=generator, device=self._device)
        return noise[self._own]
