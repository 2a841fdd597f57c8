"""NeuroVAE: voxels to the neural latent z_n and back, through a compact z_c.

Module and parameter names are those of the published checkpoints, so that these load
by name. Sizes come from `NeuroVAEConfig`. Knows nothing of losses or data.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.errors import ConfigError
from training.config import NeuroVAEConfig
from training.recompute import run

Voxels = Float[Tensor, "batch voxels"]
Latent = Float[Tensor, "batch tokens width"]


class VoxelProjection(nn.Module):
    """Two linear layers along the last axis, applied to every channel alike."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., inputs]`` to ``[..., outputs]``."""
        hidden: Tensor = F.gelu(self.norm(self.fc1(x)))
        projected: Tensor = self.fc2(hidden)
        return projected


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Norm, SiLU and convolution, twice, around a shortcut."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(inputs, groups)
        self.conv1 = nn.Conv1d(inputs, outputs, 3, padding=1)
        self.norm2 = _norm(outputs, groups)
        self.conv2 = nn.Conv1d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, inputs, length]`` to ``[batch, outputs, length]``."""
        h: Tensor = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        if hasattr(self, "nin_shortcut"):
            x = self.nin_shortcut(x)
        return x + h


class PositionAttention(nn.Module):
    """Single-head attention over positions, channels as features."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.q = nn.Conv1d(channels, channels, 1)
        self.k = nn.Conv1d(channels, channels, 1)
        self.v = nn.Conv1d(channels, channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, channels, length]`` to the same shape."""
        h = self.norm(x)
        # The axis of one head: without it torch's fused kernel is not taken, and the
        # square of positions is kept for the backward pass.
        q, k, v = (f(h).mT.contiguous()[:, None] for f in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        projected: Tensor = self.proj_out(attended)
        return x + projected


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 7, stride=2, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(x)
        return halved


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.trans_conv = nn.ConvTranspose1d(
            channels, channels, 7, stride=2, padding=3, output_padding=1
        )

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.trans_conv(x)
        return doubled


class _Middle(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, groups)
        self.attn_1 = PositionAttention(channels, groups)
        self.block_2 = ResidualBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class _Level(nn.Module):
    """Residual blocks of one resolution, then a change of resolution, or none."""

    def __init__(self, inputs: int, outputs: int, blocks: int, groups: int) -> None:
        super().__init__()
        widths = [inputs, *[outputs] * blocks]
        self.block = nn.ModuleList(
            ResidualBlock(a, b, groups) for a, b in pairwise(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class Encoder(nn.Module):
    """Voxels to features of the latent's shape (before the posterior)."""

    def __init__(self, config: NeuroVAEConfig) -> None:
        super().__init__()
        c, groups = config.channels, config.groups
        length = config.width * 2**config.downsamplings
        self.recompute = False
        """Whether a level's activations are computed again instead of kept."""
        self.conv_in = nn.Conv1d(1, c, 1)
        self.subj_proj = VoxelProjection(config.voxels, config.hidden, length)
        widths = [c, *(c * m for m in config.channel_multipliers)]
        self.down = nn.ModuleList()
        for i, (a, b) in enumerate(pairwise(widths)):
            level = _Level(a, b, config.blocks, groups)
            if i < config.downsamplings:
                level.downsample = _Downsample(b)
            self.down.append(level)
        self.mid = _Middle(widths[-1], groups)
        self.norm_out = _norm(widths[-1], groups)

    def forward(self, x: Voxels) -> Latent:
        """Map voxels to features of shape ``[batch, tokens, width]``."""
        h = self.subj_proj(self.conv_in(x[:, None]))
        for level in self.down:
            h = run(level, h, recompute=self.recompute)
        return F.silu(self.norm_out(run(self.mid, h, recompute=self.recompute)))


class Decoder(nn.Module):
    """Features of the latent's shape to voxels."""

    def __init__(self, config: NeuroVAEConfig) -> None:
        super().__init__()
        c, groups = config.channels, config.groups
        length = config.width * 2**config.downsamplings
        widths = [c * m for m in config.channel_multipliers]
        self.recompute = False
        """Whether a level's activations are computed again instead of kept."""
        self.mid = _Middle(widths[-1], groups)
        self.up = nn.ModuleList()
        # up[0] is the last to run, as in the published layout.
        for i, outputs in enumerate(widths):
            inputs = widths[i + 1] if i + 1 < len(widths) else widths[-1]
            level = _Level(inputs, outputs, config.blocks + 1, groups)
            if i >= len(widths) - config.downsamplings:
                level.upsample = _Upsample(outputs)
            self.up.append(level)
        self.norm_out = _norm(c * config.channel_multipliers[0], groups)
        self.conv_out = nn.Conv1d(c * config.channel_multipliers[0], 1, 1)
        self.subj_proj = VoxelProjection(length, config.hidden, config.voxels)

    def forward(self, h: Latent) -> Voxels:
        """Map ``[batch, tokens, width]`` to voxels."""
        h = run(self.mid, h, recompute=self.recompute)
        for level in reversed(self.up):
            h = run(level, h, recompute=self.recompute)
        h = self.conv_out(F.silu(self.norm_out(self.subj_proj(h))))
        return h[:, 0]


@dataclass(frozen=True, slots=True)
class Posterior:
    """A diagonal Gaussian over z_n; its mean is also its mode."""

    mean: Latent
    log_variance: Latent

    def sample(self, generator: torch.Generator | None = None) -> Latent:
        """Draw z_n."""
        noise = torch.randn(
            self.mean.shape,
            generator=generator,
            dtype=self.mean.dtype,
            device=self.mean.device,
        )
        return self.at(noise)

    def at(self, noise: Latent) -> Latent:
        """Return the z_n that standard normal numbers stand for."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise


class NeuroVAE(nn.Module):
    """The whole autoencoder with its retrieval projection."""

    def __init__(self, config: NeuroVAEConfig) -> None:
        super().__init__()
        self.config = config
        m, d = config.tokens, config.width
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.pre_proj1 = nn.Conv1d(m, 2 * m, 1)
        self.is_compact = config.decoded_from != "z_n"
        """Whether voxels are decoded by way of z_c."""
        if self.is_compact:
            self.pre_proj2 = nn.Conv1d(m, 1, 1)
            self.post_proj = nn.Conv1d(1, m, 1)
        self.clip_proj = nn.Sequential(
            *(
                layer
                for _ in range(3)
                for layer in (nn.LayerNorm(d), nn.GELU(), nn.Linear(d, d))
            )
        )

    def features(self, voxels: Voxels) -> Latent:
        """Encode voxels up to the features before the posterior."""
        features: Latent = self.encoder(voxels)
        return features

    def posterior(self, features: Latent) -> Posterior:
        """Return the distribution of z_n given features."""
        mean, log_variance = self.pre_proj1(features).chunk(2, dim=1)
        return Posterior(mean, log_variance)

    def retrieval(self, features: Latent) -> Latent:
        """Project features towards z_v (the retrieval submodule)."""
        projected: Latent = self.clip_proj(features)
        return projected

    def compact(self, z_n: Latent) -> Float[Tensor, "batch 1 width"]:
        """Return z_c, a learned weighted sum over the tokens of z_n.

        Raises:
            ConfigError: The model is the ablation that has none.
        """
        if not self.is_compact:
            raise ConfigError(
                "vae.decoded_from: expected a model with z_c, found one that decodes "
                "z_n itself. Train it without this field."
            )
        z_c: Tensor = self.pre_proj2(z_n)
        return z_c

    def decode(self, z_n: Latent) -> Voxels:
        """Return the voxels that z_n implies: by way of z_c, as published."""
        h = self.post_proj(self.compact(z_n)) if self.is_compact else z_n
        voxels: Voxels = self.decoder(h)
        return voxels

    def encode(self, voxels: Voxels) -> Latent:
        """Return the posterior's mode, which is what inference uses."""
        return self.posterior(self.features(voxels)).mean
