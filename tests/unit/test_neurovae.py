"""NeuroVAE against a second statement of it, in float64 numpy."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erf

from training.config import config_from_preset
from training.neurovae import NeuroVAE, Posterior

CONFIG = config_from_preset("tiny").vae


def redrawn(module, seed=0):
    """Give every parameter values that are nowhere zero."""
    rng = np.random.default_rng(seed)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            size = rng.uniform(0.1, 0.6, parameter.shape)
            sign = rng.choice([-1.0, 1.0], parameter.shape)
            parameter.copy_(torch.from_numpy(size * sign))
    return module, {k: v.numpy() for k, v in module.state_dict().items()}


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x * (1 + erf(x / math.sqrt(2))) / 2


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def layer_norm(w, name, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def group_norm(w, name, x):
    b, c, n = x.shape
    g = x.reshape(b, CONFIG.groups, -1)
    g = (g - g.mean(-1, keepdims=True)) / np.sqrt(g.var(-1, keepdims=True) + 1e-6)
    scale, shift = w[f"{name}.weight"], w[f"{name}.bias"]
    return g.reshape(b, c, n) * scale[:, None] + shift[:, None]


def convolution(w, name, x, stride=1):
    kernel = w[f"{name}.weight"]
    taps, pad = kernel.shape[2], kernel.shape[2] // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad)))
    n = (x.shape[2] - taps) // stride + 1
    out = sum(
        np.einsum("oi,bin->bon", kernel[:, :, k], x[:, :, k : k + n * stride : stride])
        for k in range(taps)
    )
    return out + w[f"{name}.bias"][:, None]


def doubled(w, name, x):
    # Transposed: input position i adds to output positions 2 i + k - 3.
    kernel, (b, _, n) = w[f"{name}.weight"], x.shape
    out = np.zeros((b, kernel.shape[1], 2 * n + 6))
    for k in range(7):
        out[:, :, k : k + 2 * n : 2] += np.einsum("io,bin->bon", kernel[:, :, k], x)
    return out[:, :, 3 : 3 + 2 * n] + w[f"{name}.bias"][:, None]


def residual(w, name, x):
    h = convolution(w, f"{name}.conv1", silu(group_norm(w, f"{name}.norm1", x)))
    h = convolution(w, f"{name}.conv2", silu(group_norm(w, f"{name}.norm2", h)))
    if f"{name}.nin_shortcut.weight" in w:
        x = convolution(w, f"{name}.nin_shortcut", x)
    return x + h


def attention(w, name, x):
    h = group_norm(w, f"{name}.norm", x)
    q, k, v = (convolution(w, f"{name}.{part}", h) for part in "qkv")
    scores = np.einsum("bci,bcj->bij", q, k) / math.sqrt(x.shape[1])
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    mixed = np.einsum("bij,bcj->bci", scores, v)
    return x + convolution(w, f"{name}.proj_out", mixed)


def middle(w, name, x):
    x = attention(w, f"{name}.attn_1", residual(w, f"{name}.block_1", x))
    return residual(w, f"{name}.block_2", x)


def projection(w, name, x):
    h = gelu(layer_norm(w, f"{name}.norm", linear(w, f"{name}.fc1", x)))
    return linear(w, f"{name}.fc2", h)


def encoder(w, voxels):
    h = convolution(w, "encoder.conv_in", voxels[:, None])
    h = projection(w, "encoder.subj_proj", h)
    for level in range(3):
        for block in range(2):
            h = residual(w, f"encoder.down.{level}.block.{block}", h)
        if level < 2:
            h = convolution(w, f"encoder.down.{level}.downsample.conv", h, stride=2)
    return silu(group_norm(w, "encoder.norm_out", middle(w, "encoder.mid", h)))


def decoder(w, h):
    h = middle(w, "decoder.mid", h)
    for level in (2, 1, 0):
        for block in range(3):
            h = residual(w, f"decoder.up.{level}.block.{block}", h)
        if level > 0:
            h = doubled(w, f"decoder.up.{level}.upsample.trans_conv", h)
    h = silu(group_norm(w, "decoder.norm_out", projection(w, "decoder.subj_proj", h)))
    return convolution(w, "decoder.conv_out", h)[:, 0]


def retrieval(w, h):
    for i in (0, 3, 6):
        h = linear(w, f"clip_proj.{i + 2}", gelu(layer_norm(w, f"clip_proj.{i}", h)))
    return h


@pytest.mark.parametrize("seed", [0, 1])
def test_neurovae_is_its_statement_in_float64(seed):
    vae, w = redrawn(NeuroVAE(CONFIG), seed)
    voxels = np.random.default_rng(seed).standard_normal((3, CONFIG.voxels))
    features = encoder(w, voxels)
    mean, log_variance = np.split(convolution(w, "pre_proj1", features), 2, axis=1)
    z_c = convolution(w, "pre_proj2", mean)
    seen = decoder(w, convolution(w, "post_proj", z_c))

    with torch.no_grad():
        own = vae.features(torch.from_numpy(voxels))
        posterior = vae.posterior(own)
        pairs = {
            "features": (own, features),
            "mean": (posterior.mean, mean),
            "log_variance": (posterior.log_variance, log_variance),
            "retrieval": (vae.retrieval(own), retrieval(w, features)),
            "compact": (vae.compact(posterior.mean), z_c),
            "decode": (vae.decode(posterior.mean), seen),
            "encode": (vae.encode(torch.from_numpy(voxels)), mean),
        }

    errors = {k: relative(a.numpy(), b) for k, (a, b) in pairs.items()}
    # Some forty layers of float64 that amplify rounding by less than 1e5.
    assert max(errors.values()) <= 1e-10, errors


def test_a_sample_has_the_posteriors_mean_and_spread():
    mean = torch.full((1, 100, 400), 3.0)
    posterior = Posterior(mean, torch.full_like(mean, 2 * math.log(0.5)))

    z_n = posterior.sample(torch.Generator().manual_seed(0))

    # 40,000 draws: five standard errors.
    assert abs(float(z_n.mean()) - 3) < 5 * 0.5 / 200
    assert abs(float(z_n.std()) - 0.5) < 5 * 0.5 / 283


def test_a_sample_follows_its_generator():
    posterior = Posterior(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))

    first, again, other = (
        posterior.sample(torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
