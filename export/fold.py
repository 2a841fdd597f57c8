"""Exact rewrites before export: what is constant on a fixed grid becomes a table.

Each equals the module it replaces in real arithmetic; tests hold them against it in
float64. Knows nothing of ONNX.
"""

import copy
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from training.neurovae import NeuroVAE, PositionAttention
from training.sit import SiT

Row = Float[Tensor, "1 modulation"]


def modulation_size(field: SiT) -> int:
    """Return the length of a table row: six widths per block and two at the end."""
    return (6 * field.config.depth + 2) * field.config.width


@torch.no_grad()
def conditioning_table(
    field: SiT, times: Sequence[float]
) -> Float[Tensor, "evaluations modulation"]:
    """Return the conditioning of a fixed grid: a row for each evaluation's time.

    The time embedding and every adaptive layer norm's linear layer depend on t alone,
    34 % of the published field's parameters. Evaluated in float64, given as float64.

    Args:
        field: The velocity field, of any dtype; not changed.
        times: `runtime.solver.evaluation_times` of the grid.
    """
    t = torch.tensor(times, dtype=torch.float64)
    condition = _functional(field.t_embedder, t)
    layers = (*field.blocks, field.final_layer)
    rows = [_functional(layer.adaLN_modulation, condition) for layer in layers]
    return torch.cat(rows, dim=1)


def _functional(module: nn.Module, x: Tensor) -> Tensor:
    """Call a module with its parameters widened to float64, one module at a time."""
    wide = {name: p.double() for name, p in module.named_parameters()}
    out: Tensor = torch.func.functional_call(module, wide, (x,))
    return out


@final
class FoldedVelocity(nn.Module):
    """The velocity field with its conditioning given as one row of the table."""

    def __init__(self, field: SiT) -> None:
        super().__init__()
        self.field = field
        width, depth = field.config.width, field.config.depth
        self.sizes = [6 * width] * depth + [2 * width]

    def forward(self, z: Tensor, modulation: Row) -> Tensor:
        """Return the velocity at latents `z` ``[1, tokens, width]``."""
        rows = list(torch.split(modulation, self.sizes, dim=-1))
        velocity: Tensor = self.field.velocity(z, rows)
        return velocity


@final
class _HeadAttention(nn.Module):
    """`PositionAttention` with an axis for its one head, which the exporter needs."""

    def __init__(self, attention: PositionAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        a = self.attention
        h = a.norm(x)
        q, k, v = (f(h).transpose(1, 2)[:, None] for f in (a.q, a.k, a.v))
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        projected: Tensor = a.proj_out(attended)
        return x + projected


def _exportable(vae: NeuroVAE) -> NeuroVAE:
    """Return a copy whose attention the exporter understands."""
    vae = copy.deepcopy(vae)
    for middle in (vae.encoder.mid, vae.decoder.mid):
        # Set by name: the declared class of the attribute is the one replaced.
        middle.add_module("attn_1", _HeadAttention(middle.attn_1))
    return vae


@final
class FoldedEncoder(nn.Module):
    """NeuroVAE's encoder whose first two linear maps are one product with the voxels.

    ``conv_in`` gives channel c the signal ``w_c x + b_c``. The linear layer W, b that
    follows along the voxels therefore gives it ``w_c (W x) + b_c (W 1) + b``: one
    product W x for all channels instead of one each.
    """

    gain: Tensor
    offset: Tensor
    weight: Tensor

    def __init__(self, vae: NeuroVAE) -> None:
        super().__init__()
        self.vae = _exportable(vae)
        encoder = vae.encoder
        fc1 = encoder.subj_proj.fc1
        bias = encoder.conv_in.bias
        if bias is None:
            bias = torch.zeros(encoder.conv_in.out_channels)
        gain = encoder.conv_in.weight.detach()[:, 0, 0]
        sums = fc1.weight.detach().double().sum(dim=1)
        offset = bias.detach().double()[:, None] * sums + fc1.bias.detach().double()
        self.register_buffer("gain", gain[None, :, None].clone())
        self.register_buffer("offset", offset[None].to(gain.dtype))
        self.register_buffer("weight", fc1.weight.detach().t().contiguous())

    def forward(self, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """Map voxels ``[1, voxels]`` to z_n's mode and the retrieval features."""
        encoder, projection = self.vae.encoder, self.vae.encoder.subj_proj
        h = self.gain * (voxels @ self.weight)[:, None] + self.offset
        h = projection.fc2(F.gelu(projection.norm(h)))
        for level in encoder.down:
            h = level(h)
        features = F.silu(encoder.norm_out(encoder.mid(h)))
        return self.vae.posterior(features).mean, self.vae.retrieval(features)


@final
class VoxelDecoder(nn.Module):
    """NeuroVAE's decoder as a module of its own."""

    def __init__(self, vae: NeuroVAE) -> None:
        super().__init__()
        self.vae = _exportable(vae)

    def forward(self, z_n: Tensor) -> Tensor:
        """Map z_n ``[1, tokens, width]`` to voxels."""
        return self.vae.decode(z_n)
