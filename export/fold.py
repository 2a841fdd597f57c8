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

from training.neurovae import Decoder, Encoder, NeuroVAE, PositionAttention
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
class FoldedAttention(nn.Module):
    """`PositionAttention` with two products along the channels instead of four.

    A score is ``(Wq h_i + bq) . (Wk h_j + bk)``, over the root of the channels. What of
    it does not depend on j is the same throughout a row of the softmax, which does not
    see it, and what is left is ``(Wk^T Wq h_i + Wk^T bq) . h_j``: the normalised
    features are their own keys. They are their own values too: a row of the softmax
    adds to one, so that the maps of the values and of the output are one behind the
    sum. The products of the weights are formed in float64, the scale among them.
    """

    def __init__(self, attention: PositionAttention) -> None:
        super().__init__()
        (q, bq), (k, _), (v, bv), (out, bout) = (
            _wide(layer)
            for layer in (attention.q, attention.k, attention.v, attention.proj_out)
        )
        k = k * len(k) ** -0.5
        dtype = attention.q.weight.dtype
        self.norm = copy.deepcopy(attention.norm)
        self.q = _pointwise(k.t() @ q, k.t() @ bq, dtype)
        self.proj_out = _pointwise(out @ v, out @ bv + bout, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[1, channels, length]`` to the same shape."""
        h = self.norm(x)
        weights = torch.softmax(self.q(h).transpose(1, 2) @ h, dim=-1)
        projected: Tensor = self.proj_out(h @ weights.transpose(1, 2))
        return x + projected


def _wide(layer: nn.Conv1d) -> tuple[Tensor, Tensor]:
    """Return the weights and the bias of a convolution of one tap, in float64."""
    weight = layer.weight.detach().double()[:, :, 0]
    if layer.bias is None:
        return weight, weight.new_zeros(len(weight))
    return weight, layer.bias.detach().double()


def _pointwise(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> nn.Conv1d:
    """Return the convolution of one tap that has these weights."""
    outputs, inputs = weight.shape
    # Without memory: else weights are drawn that nobody needs.
    layer = nn.Conv1d(inputs, outputs, 1, device="meta", dtype=dtype)
    layer.weight = nn.Parameter(weight[:, :, None].to(dtype))
    layer.bias = nn.Parameter(bias.to(dtype))
    return layer


@final
class _Features(nn.Module):
    """NeuroVAE's encoder whose first two linear maps are one product with the voxels.

    ``conv_in`` gives channel c the signal ``w_c x + b_c``. The linear layer W, b that
    follows along the voxels therefore gives it ``w_c (W x) + b_c (W 1) + b``: one
    product W x for all channels instead of one each.
    """

    gain: Tensor
    offset: Tensor
    weight: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
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
        self.norm = copy.deepcopy(encoder.subj_proj.norm)
        self.fc2 = copy.deepcopy(encoder.subj_proj.fc2)
        self.down = copy.deepcopy(encoder.down)
        self.mid = _middle(encoder)
        self.norm_out = copy.deepcopy(encoder.norm_out)

    def forward(self, voxels: Tensor) -> Tensor:
        """Map voxels ``[1, voxels]`` to features ``[1, tokens, width]``."""
        h = self.gain * (voxels @ self.weight)[:, None] + self.offset
        h = self.fc2(F.gelu(self.norm(h)))
        for level in self.down:
            h = level(h)
        return F.silu(self.norm_out(self.mid(h)))


def _middle(coder: Encoder | Decoder) -> nn.Module:
    """Return a copy of its middle whose attention is folded."""
    middle = copy.deepcopy(coder.mid)
    # Set by name: the declared class of the attribute is the one replaced.
    middle.add_module("attn_1", FoldedAttention(middle.attn_1))
    return middle


@final
class FoldedEncoder(nn.Module):
    """Voxels to z_n's mode, and nothing that it does not need: no variance of it."""

    def __init__(self, vae: NeuroVAE) -> None:
        super().__init__()
        self.features = _Features(vae.encoder)
        weight, bias = _wide(vae.pre_proj1)
        # The mean's rows come first; see `NeuroVAE.posterior`.
        half = len(weight) // 2
        self.mean = _pointwise(weight[:half], bias[:half], vae.pre_proj1.weight.dtype)

    def forward(self, voxels: Tensor) -> Tensor:
        """Map voxels ``[1, voxels]`` to z_n's mode."""
        mean: Tensor = self.mean(self.features(voxels))
        return mean


@final
class FoldedRetrieval(nn.Module):
    """Voxels to the retrieval features, without z_n."""

    def __init__(self, vae: NeuroVAE) -> None:
        super().__init__()
        self.features = _Features(vae.encoder)
        self.clip_proj = copy.deepcopy(vae.clip_proj)

    def forward(self, voxels: Tensor) -> Tensor:
        """Map voxels ``[1, voxels]`` to the retrieval features."""
        found: Tensor = self.clip_proj(self.features(voxels))
        return found


@final
class VoxelDecoder(nn.Module):
    """NeuroVAE's decoder as a module of its own."""

    def __init__(self, vae: NeuroVAE) -> None:
        super().__init__()
        self.vae = copy.deepcopy(vae)
        self.vae.decoder.add_module("mid", _middle(vae.decoder))

    def forward(self, z_n: Tensor) -> Tensor:
        """Map z_n ``[1, tokens, width]`` to voxels."""
        return self.vae.decode(z_n)
