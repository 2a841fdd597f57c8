"""SiT: the velocity field of the flow between z_v and z_n.

A transformer over the latent's tokens whose only conditioning is the flow time t,
through adaptive layer normalisation that starts at zero (Peebles & Xie, 2023; Ma et
al., 2024). Parameter names are those of the published checkpoints.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import SiTConfig
from training.recompute import run

Latent = Float[Tensor, "batch tokens width"]
Times = Float[Tensor, " batch"]
Condition = Float[Tensor, "batch width"]


class TimestepEmbedder(nn.Module):
    """Sinusoids of t, then two linear layers."""

    max_period = 10_000.0

    def __init__(self, width: int, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(
            nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, t: Times) -> Condition:
        """Map times in [0, 1], not rescaled, to conditions."""
        half = self.frequencies // 2
        # Exponents in float64 whatever the module's dtype: the table that export folds
        # them into is then the same to the last bit for every precision.
        exponents = torch.arange(half, dtype=torch.float64, device=t.device) / half
        rates = torch.exp(-math.log(self.max_period) * exponents)
        angles = t.to(torch.float64)[:, None] * rates[None]
        waves = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
        condition: Condition = self.mlp(waves.to(next(self.mlp.parameters()).dtype))
        return condition


def _xavier(linear: nn.Linear) -> nn.Linear:
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = _xavier(nn.Linear(width, 3 * width))
        self.proj = _xavier(nn.Linear(width, width))

    def forward(self, x: Latent) -> Latent:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        h = F.scaled_dot_product_attention(q, k, v)
        projected: Latent = self.proj(h.transpose(1, 2).reshape(batch, tokens, width))
        return projected


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = _xavier(nn.Linear(width, hidden))
        self.fc2 = _xavier(nn.Linear(hidden, width))

    def forward(self, x: Latent) -> Latent:
        out: Latent = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


def _modulation(width: int, chunks: int) -> nn.Sequential:
    linear = nn.Linear(width, chunks * width)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.SiLU(), linear)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    normed = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return normed * (1 + scale) + shift


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the modulation."""

    def __init__(self, config: SiTConfig) -> None:
        super().__init__()
        d = config.width
        self.attn = _Attention(d, config.heads)
        self.mlp = _Mlp(d, config.mlp_ratio * d)
        self.adaLN_modulation = _modulation(d, 6)

    def forward(self, x: Latent, modulation: Float[Tensor, "rows six_width"]) -> Latent:
        """Apply the block under a modulation of ``6 * width`` numbers per row."""
        parts = modulation[:, None].chunk(6, dim=-1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        attended: Tensor = self.attn(_modulate(x, shift_a, scale_a))
        x = x + gate_a * attended
        mixed: Tensor = self.mlp(_modulate(x, shift_m, scale_m))
        return x + gate_m * mixed


class _FinalLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.adaLN_modulation = _modulation(width, 2)

    def forward(self, x: Latent, modulation: Tensor) -> Latent:
        shift, scale = modulation[:, None].chunk(2, dim=-1)
        out: Latent = self.linear(_modulate(x, shift, scale))
        return out


def sincos_positions(tokens: int, width: int) -> Float[np.ndarray, "tokens width"]:
    """Return the fixed sinusoidal embedding of the token index, sin first."""
    rates = 1.0 / 10_000 ** (np.arange(width // 2, dtype=np.float64) / (width / 2))
    angles = np.arange(tokens, dtype=np.float64)[:, None] * rates[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


class SiT(nn.Module):
    """The velocity field ``v(z, t)``."""

    def __init__(self, config: SiTConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        """Whether a block's activations are computed again instead of kept."""
        positions = torch.from_numpy(sincos_positions(config.tokens, config.width))
        self.pos_embed = nn.Parameter(positions.float()[None], requires_grad=False)
        self.t_embedder = TimestepEmbedder(config.width, config.frequencies)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_layer = _FinalLayer(config.width)
        for module in self.t_embedder.mlp:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    def modulations(self, t: Times) -> list[Tensor]:
        """Return each block's and, last, the final layer's modulation at times `t`.

        Depends on t alone: for a fixed time grid these are constants.
        """
        condition = self.t_embedder(t)
        layers = (*self.blocks, self.final_layer)
        return [layer.adaLN_modulation(condition) for layer in layers]

    def velocity(self, z: Latent, modulations: list[Tensor]) -> Latent:
        """Return the velocity under given modulations (one row, or one per sample)."""
        x = z + self.pos_embed
        for block, modulation in zip(self.blocks, modulations[:-1], strict=True):
            x = run(block, x, modulation, recompute=self.recompute)
        out: Latent = self.final_layer(x, modulations[-1])
        return out

    def pieces(self) -> list[nn.Module]:
        """Return the large parts that are called as a whole, for sharding each.

        A block is none: `modulations` calls a part of it before the block itself runs.
        """
        names = ("attn", "mlp", "adaLN_modulation")
        return [getattr(block, name) for block in self.blocks for name in names]

    def forward(self, z: Latent, t: Times) -> Latent:
        """Return the velocity at latents `z` and times `t`."""
        return self.velocity(z, self.modulations(t))
