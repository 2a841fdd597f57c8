"""What training hides from the model or adds to what it sees; inference does neither.

Every draw comes from the step's generator, for the whole batch of all processes.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from training.neurovae import Latent, Voxels
from training.stage_config import VAETraining

KeptTokens = Float[Tensor, "batch tokens 1"]


def augment(
    voxels: Voxels, training: VAETraining, generator: torch.Generator
) -> Voxels:
    """Return the voxels as stage 1 shows them to the encoder.

    Args:
        voxels: Normalised voxels; left as they are.
        training: How much noise is added, and the largest share of voxels set to zero;
            each trial's own share is drawn uniformly below it.
        generator: Draws both, on the device of `voxels`.
    """
    shown, device = voxels, voxels.device
    if training.voxel_noise > 0:
        noise = torch.randn(voxels.shape, generator=generator, device=device)
        shown = shown + training.voxel_noise * noise
    if training.voxel_dropout > 0:
        share = torch.rand(len(voxels), 1, generator=generator, device=device)
        kept = torch.rand(voxels.shape, generator=generator, device=device)
        shown = shown * (kept >= training.voxel_dropout * share)
    return shown


def kept_tokens(
    like: Latent, dropout: float, generator: torch.Generator
) -> KeptTokens | None:
    """Draw which tokens of a batch are seen: 1 for those, 0 for the others.

    NeuroAdapter (Feng et al., 2026, arXiv:2509.23566; its released training script)
    makes a token of every brain parcel and, in training, draws for each trial a rate
    uniformly from 0 to 1 at which its tokens stay; the others are zeros, nothing is
    scaled up, and the denoiser that reads them learns its usual target. Ours draws the
    share of *dropped* tokens uniformly from 0 to `dropout`, so that 1 is theirs. Our
    tokens are no parcels, which NeuroVAE has not, but the token axis of its latent.
    Zero is the mean to which the KL term draws z_n.

    Args:
        like: Latents of the whole batch; their shape and device count.
        dropout: Upper end of the share.
        generator: Draws the share, then the tokens.

    Returns:
        The mask, or None where nothing is ever dropped: then nothing is drawn either.
    """
    if dropout == 0:
        return None
    batch, tokens, _ = like.shape
    share = torch.rand(batch, 1, 1, generator=generator, device=like.device)
    drawn = torch.rand(batch, tokens, 1, generator=generator, device=like.device)
    return (drawn >= dropout * share).to(like.dtype)
