"""SiT against a second statement of it, in float64 numpy."""

import math

import numpy as np
import pytest
import torch

from training.config import config_from_preset
from training.sit import SiT

CONFIG = config_from_preset("tiny").flow


def redrawn(seed):
    rng = np.random.default_rng(seed)
    field = SiT(CONFIG).double()
    with torch.no_grad():
        for parameter in field.parameters():
            size = rng.uniform(0.1, 0.6, parameter.shape)
            sign = rng.choice([-1.0, 1.0], parameter.shape)
            parameter.copy_(torch.from_numpy(size * sign))
    return field, {k: v.numpy() for k, v in field.state_dict().items()}


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def modulated(x, shift, scale):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    return x * (1 + scale[:, None]) + shift[:, None]


def attention(w, name, x):
    q, k, v = np.split(linear(w, f"{name}.qkv", x), 3, axis=-1)
    out, size = np.empty_like(x), x.shape[-1] // CONFIG.heads
    for head in range(CONFIG.heads):
        part = slice(head * size, (head + 1) * size)
        scores = np.einsum("bid,bjd->bij", q[..., part], k[..., part])
        scores = np.exp(scores / math.sqrt(size))
        scores /= scores.sum(-1, keepdims=True)
        out[..., part] = np.einsum("bij,bjd->bid", scores, v[..., part])
    return linear(w, f"{name}.proj", out)


def velocity(w, z, t):
    half = CONFIG.frequencies // 2
    angles = t[:, None] * 10_000.0 ** (-np.arange(half) / half)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    condition = linear(
        w, "t_embedder.mlp.2", silu(linear(w, "t_embedder.mlp.0", waves))
    )
    x = z + w["pos_embed"]
    for i in range(CONFIG.depth):
        name = f"blocks.{i}"
        numbers = linear(w, f"{name}.adaLN_modulation.1", silu(condition))
        a, b, gate_a, c, d, gate_m = np.split(numbers, 6, axis=1)
        x = x + gate_a[:, None] * attention(w, f"{name}.attn", modulated(x, a, b))
        h = gelu_tanh(linear(w, f"{name}.mlp.fc1", modulated(x, c, d)))
        x = x + gate_m[:, None] * linear(w, f"{name}.mlp.fc2", h)
    numbers = linear(w, "final_layer.adaLN_modulation.1", silu(condition))
    return linear(w, "final_layer.linear", modulated(x, *np.split(numbers, 2, axis=1)))


@pytest.mark.parametrize("seed", [0, 1])
def test_sit_is_its_statement_in_float64(seed):
    field, w = redrawn(seed)
    rng = np.random.default_rng(seed)
    z, t = rng.standard_normal((3, CONFIG.tokens, CONFIG.width)), rng.random(3)
    expected = velocity(w, z, t)

    with torch.no_grad():
        found = field(torch.from_numpy(z), torch.from_numpy(t)).numpy()

    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error <= 1e-10


def test_a_new_field_is_zero_everywhere():
    z = torch.randn(4, CONFIG.tokens, CONFIG.width)

    with torch.no_grad():
        found = SiT(CONFIG)(z, torch.rand(4))

    assert not found.any()


def test_one_row_of_modulation_serves_the_whole_batch():
    field, _ = redrawn(0)
    z = torch.randn(4, CONFIG.tokens, CONFIG.width, dtype=torch.float64)
    t = torch.tensor([0.3], dtype=torch.float64)

    with torch.no_grad():
        one = field.velocity(z, field.modulations(t))
        each = field(z, t.expand(4))

    torch.testing.assert_close(one, each, rtol=1e-12, atol=1e-12)


def test_positions_are_fixed_while_everything_else_learns():
    frozen = [n for n, p in SiT(CONFIG).named_parameters() if not p.requires_grad]

    assert frozen == ["pos_embed"]
