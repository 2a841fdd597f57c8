"""The published models in float64 numpy, stated from their description alone.

A second statement of NeuroVAE, of the velocity field and of the sampler that shares no
line with `training`: it takes weights by their published names and reads every size off
them, so that it holds for any. Written to be compared with, not to be fast.
"""

import math
from itertools import pairwise

import numpy as np
from scipy.special import erf

LAYER_NORM_EPS = 1e-5
GROUP_NORM_EPS = 1e-6
MODULATED_NORM_EPS = 1e-6
MAX_PERIOD = 10_000.0
PUBLISHED_STEPS = 20


class Weights:
    """A state dict whose arrays are float64 when they are taken out."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __getitem__(self, name):
        return np.asarray(self.arrays[name], dtype=np.float64)

    def has(self, prefix):
        return any(name.startswith(f"{prefix}.") for name in self.arrays)

    def count(self, prefix):
        """How many numbered parts a list of layers has."""
        n = 0
        while self.has(f"{prefix}.{n}"):
            n += 1
        return n


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def standardised(x, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + eps)


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def layer_norm(w, name, x):
    return standardised(x, LAYER_NORM_EPS) * w[f"{name}.weight"] + w[f"{name}.bias"]


def group_norm(w, name, x, groups):
    flat = standardised(x.reshape(len(x), groups, -1), GROUP_NORM_EPS)
    scale, shift = w[f"{name}.weight"], w[f"{name}.bias"]
    return flat.reshape(x.shape) * scale[None, :, None] + shift[None, :, None]


def correlate(x, kernel, stride):
    """Slide a kernel ``[out, in, taps]`` along ``[batch, in, length]``, unpadded."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2], axis=2)
    windows = windows[:, :, ::stride].transpose(0, 2, 1, 3)
    rows = windows.reshape(*windows.shape[:2], -1)
    return (rows @ kernel.reshape(len(kernel), -1).T).transpose(0, 2, 1)


def convolution(w, name, x, stride=1):
    kernel = w[f"{name}.weight"]
    around = kernel.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (around, around)))
    return correlate(padded, kernel, stride) + w[f"{name}.bias"][None, :, None]


def transposed_convolution(w, name, x):
    """Double the length: zeros between the samples, then the mirrored kernel."""
    kernel = w[f"{name}.weight"].transpose(1, 0, 2)[:, :, ::-1]
    spread = np.zeros((*x.shape[:2], 2 * x.shape[2]))
    spread[:, :, ::2] = x
    around = kernel.shape[2] // 2
    padded = np.pad(spread, ((0, 0), (0, 0), (around, around)))
    return correlate(padded, kernel, 1) + w[f"{name}.bias"][None, :, None]


def residual(w, name, x, groups):
    h = group_norm(w, f"{name}.norm1", x, groups)
    h = convolution(w, f"{name}.conv1", silu(h))
    h = group_norm(w, f"{name}.norm2", h, groups)
    h = convolution(w, f"{name}.conv2", silu(h))
    if w.has(f"{name}.nin_shortcut"):
        x = convolution(w, f"{name}.nin_shortcut", x)
    return x + h


def position_attention(w, name, x, groups):
    h = group_norm(w, f"{name}.norm", x, groups)
    query, key, value = (convolution(w, f"{name}.{part}", h) for part in "qkv")
    share = softmax(query.transpose(0, 2, 1) @ key * x.shape[1] ** -0.5)
    mixed = (share @ value.transpose(0, 2, 1)).transpose(0, 2, 1)
    return x + convolution(w, f"{name}.proj_out", mixed)


def middle(w, name, x, groups):
    x = residual(w, f"{name}.block_1", x, groups)
    x = position_attention(w, f"{name}.attn_1", x, groups)
    return residual(w, f"{name}.block_2", x, groups)


def voxel_projection(w, name, x):
    hidden = gelu(layer_norm(w, f"{name}.norm", linear(w, f"{name}.fc1", x)))
    return linear(w, f"{name}.fc2", hidden)


def encoder_features(w, voxels, groups):
    """Voxels ``[batch, voxels]`` to features ``[batch, tokens, width]``."""
    x = convolution(w, "encoder.conv_in", voxels[:, None, :])
    x = voxel_projection(w, "encoder.subj_proj", x)
    for level in range(w.count("encoder.down")):
        name = f"encoder.down.{level}"
        for block in range(w.count(f"{name}.block")):
            x = residual(w, f"{name}.block.{block}", x, groups)
        if w.has(f"{name}.downsample"):
            x = convolution(w, f"{name}.downsample.conv", x, stride=2)
    x = middle(w, "encoder.mid", x, groups)
    return silu(group_norm(w, "encoder.norm_out", x, groups))


def posterior(w, features):
    """Features to the mean, which is the mode, and the logarithm of the variance."""
    both = convolution(w, "pre_proj1", features)
    tokens = both.shape[1] // 2
    return both[:, :tokens], both[:, tokens:]


def sample(mean, log_variance, noise):
    return mean + np.sqrt(np.exp(log_variance)) * noise


def compact(w, z_n):
    return convolution(w, "pre_proj2", z_n)


def decode_compact(w, z_c, groups):
    """z_c ``[batch, 1, width]`` to voxels."""
    x = convolution(w, "post_proj", z_c)
    x = middle(w, "decoder.mid", x, groups)
    for level in reversed(range(w.count("decoder.up"))):
        name = f"decoder.up.{level}"
        for block in range(w.count(f"{name}.block")):
            x = residual(w, f"{name}.block.{block}", x, groups)
        if w.has(f"{name}.upsample"):
            x = transposed_convolution(w, f"{name}.upsample.trans_conv", x)
    x = voxel_projection(w, "decoder.subj_proj", x)
    x = silu(group_norm(w, "decoder.norm_out", x, groups))
    return convolution(w, "decoder.conv_out", x)[:, 0, :]


def retrieval(w, features):
    """Three times normalisation, GELU and a linear layer, on the features."""
    x = features
    for norm in (0, 3, 6):
        x = linear(
            w, f"clip_proj.{norm + 2}", gelu(layer_norm(w, f"clip_proj.{norm}", x))
        )
    return x


def time_condition(w, t):
    half = w["t_embedder.mlp.0.weight"].shape[1] // 2
    rates = MAX_PERIOD ** (-np.arange(half) / half)
    angles = np.outer(t, rates)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    hidden = silu(linear(w, "t_embedder.mlp.0", waves))
    return linear(w, "t_embedder.mlp.2", hidden)


def modulation(w, name, condition, parts):
    numbers = linear(w, f"{name}.adaLN_modulation.1", silu(condition))
    return np.split(numbers[:, None, :], parts, axis=2)


def modulated(x, shift, scale):
    return standardised(x, MODULATED_NORM_EPS) * (1 + scale) + shift


def self_attention(w, name, x, heads):
    batch, tokens, width = x.shape
    query, key, value = (
        part.reshape(batch, tokens, heads, -1).transpose(0, 2, 1, 3)
        for part in np.split(linear(w, f"{name}.qkv", x), 3, axis=2)
    )
    share = softmax(query @ key.transpose(0, 1, 3, 2) / math.sqrt(width // heads))
    mixed = (share @ value).transpose(0, 2, 1, 3).reshape(batch, tokens, width)
    return linear(w, f"{name}.proj", mixed)


def velocity(w, z, t, heads):
    """Latents ``[batch, tokens, width]`` and one time each to velocities."""
    condition = time_condition(w, np.asarray(t, dtype=np.float64))
    x = z + w["pos_embed"]
    for block in range(w.count("blocks")):
        name = f"blocks.{block}"
        numbers = modulation(w, name, condition, 6)
        attended = self_attention(w, f"{name}.attn", modulated(x, *numbers[:2]), heads)
        x = x + numbers[2] * attended
        hidden = linear(w, f"{name}.mlp.fc1", modulated(x, *numbers[3:5]))
        x = x + numbers[5] * linear(w, f"{name}.mlp.fc2", gelu_tanh(hidden))
    shift, scale = modulation(w, "final_layer", condition, 2)
    return linear(w, "final_layer.linear", modulated(x, shift, scale))


def published_sampler(field, z, direction):
    """Twenty steps of Euler; the state in float64, what the field sees in float32.

    Args:
        field: Latents and one time per latent, both float32, to velocities.
        z: Where the flow starts.
        direction: ``encode`` runs t from 0 to 1, ``decode`` from 1 to 0.
    """
    ends = {"encode": (0.0, 1.0), "decode": (1.0, 0.0)}[direction]
    times = np.linspace(*ends, PUBLISHED_STEPS + 1)
    state = z.astype(np.float64)
    for now, then in pairwise(times):
        seen = np.full(len(z), now, dtype=np.float32)
        v = np.asarray(field(state.astype(np.float32), seen), dtype=np.float64)
        state = state + (then - now) * v
    return state
