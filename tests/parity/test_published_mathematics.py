"""NeuroVAE, the velocity field and the published sampler against a second statement."""

import math

import msgspec
import numpy as np
import pytest
import torch

from runtime.path import path_from_name
from runtime.solver import SOLVERS
from tests.parity import published_mathematics as published
from training.config import PRESETS, NeuroVAEConfig, SiTConfig
from training.flow import decode_latents, encode_latents
from training.neurovae import NeuroVAE
from training.sit import SiT

# Some forty layers in float32, whose unit roundoff is 6e-8, and in float64 (1.1e-16):
# both leave room for rounding to grow by about two orders of magnitude.
LIMITS = {torch.float32: 1e-5, torch.float64: 1e-12}

SMALL_VAES = (
    PRESETS["tiny"].vae,
    PRESETS["demo"].vae,
    NeuroVAEConfig(
        voxels=61,
        tokens=24,
        width=10,
        hidden=17,
        channels=6,
        channel_multipliers=(2, 1, 3, 4),
        blocks=1,
        downsamplings=3,
        groups=3,
    ),
)
SMALL_FLOWS = (
    PRESETS["tiny"].flow,
    SiTConfig(tokens=5, width=28, depth=3, heads=7, mlp_ratio=3, frequencies=10),
)
PAPER = [name for name in PRESETS if name.startswith("paper-")]


def redrawn(module, seed):
    """Give every parameter new values that are nowhere zero; the same in numpy.

    Also those that start at zero or one: what is multiplied by nothing cannot be wrong.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            size = 0.5 + torch.rand(parameter.shape, generator=generator)
            sign = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            if name.endswith("bias"):
                size = size / 5
            elif parameter.ndim > 1 and name != "pos_embed":
                size = size / math.sqrt(parameter[0].numel())
            parameter.copy_(size * sign)
    arrays = {k: v.numpy().copy() for k, v in module.state_dict().items()}
    return module.eval(), published.Weights(arrays)


def relative(found, expected):
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def vae_errors(config, seed, batch):
    """Return the error of every output of NeuroVAE in both precisions."""
    vae, w = redrawn(NeuroVAE(config), seed)
    draws = torch.Generator().manual_seed(seed)
    voxels = torch.randn(batch, config.voxels, generator=draws)
    x, groups = voxels.numpy().astype(np.float64), config.groups
    features = published.encoder_features(w, x, groups)
    mean, log_variance = published.posterior(w, features)
    z_c = published.compact(w, mean)
    expected = {
        "features": features,
        "mean": mean,
        "log_variance": log_variance,
        "mode": mean,
        "retrieval": published.retrieval(w, features),
        "compact": z_c,
        "voxels": published.decode_compact(w, z_c, groups),
    }
    errors = {}
    for dtype in LIMITS:
        vae = vae.to(dtype)
        noise = torch.randn(mean.shape, generator=seeded(seed), dtype=dtype).numpy()
        with torch.no_grad():
            own = vae.features(voxels.to(dtype))
            given = vae.posterior(own)
            found = {
                "features": own,
                "mean": given.mean,
                "log_variance": given.log_variance,
                "mode": vae.encode(voxels.to(dtype)),
                "retrieval": vae.retrieval(own),
                "compact": vae.compact(given.mean),
                "voxels": vae.decode(given.mean),
                "sample": given.sample(seeded(seed)),
            }
        expected["sample"] = published.sample(mean, log_variance, noise)
        for name, value in found.items():
            errors[dtype, name] = relative(value.numpy(), expected[name])
    return errors


def seeded(seed):
    return torch.Generator().manual_seed(seed + 1)


def flow_errors(config, seed, batch):
    """Return the error of the velocity in both precisions."""
    field, w = redrawn(SiT(config), seed)
    draws = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, config.tokens, config.width, generator=draws)
    t = torch.cat([torch.tensor([0.0, 1.0]), torch.rand(batch, generator=draws)])[
        :batch
    ]
    expected = published.velocity(
        w, z.numpy().astype(np.float64), t.numpy(), config.heads
    )
    errors = {}
    for dtype in LIMITS:
        with torch.no_grad():
            found = field.to(dtype)(z.to(dtype), t.to(dtype))
        errors[dtype, "velocity"] = relative(found.numpy(), expected)
    return errors


def beyond(errors):
    return {key: e for key, e in errors.items() if not e <= LIMITS[key[0]]}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("config", SMALL_VAES, ids=["tiny", "demo", "uneven"])
def test_neurovae_is_the_published_one_at_small_sizes(config, seed):
    assert beyond(vae_errors(config, seed, batch=3)) == {}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("config", SMALL_FLOWS, ids=["tiny", "uneven"])
def test_the_velocity_is_the_published_one_at_small_sizes(config, seed):
    assert beyond(flow_errors(config, seed, batch=4)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("preset", PAPER)
def test_neurovae_is_the_published_one_at_its_own_size(preset):
    errors = vae_errors(PRESETS[preset].vae, 0, batch=1)

    assert len(PAPER) == 4
    assert beyond(errors) == {}


@pytest.mark.slow
def test_the_velocity_is_the_published_one_at_its_own_width():
    config = msgspec.structs.replace(PRESETS["paper-subj01"].flow, depth=2)

    assert beyond(flow_errors(config, 0, batch=1)) == {}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_twenty_steps_of_euler_are_the_published_sampler(direction, batch):
    config = SMALL_FLOWS[1]
    field, w = redrawn(SiT(config), 2)
    z = torch.randn(batch, config.tokens, config.width, generator=seeded(0))
    follow = {"encode": encode_latents, "decode": decode_latents}[direction]

    def same_network(state, t):
        with torch.no_grad():
            return field(torch.from_numpy(state), torch.from_numpy(t)).numpy()

    def second_statement(state, t):
        return published.velocity(w, state.astype(np.float64), t, config.heads)

    found = follow(field, z, 20, SOLVERS["euler"], path_from_name("cos")).numpy()

    exact = published.published_sampler(same_network, z.numpy(), direction)
    stated = published.published_sampler(second_statement, z.numpy(), direction)
    assert found.dtype == np.float64
    # The published times are rounded to float32 on their way into the network.
    assert relative(found, exact) <= 1e-6
    assert relative(found, stated) <= LIMITS[torch.float32]


def test_the_sampler_goes_the_way_that_is_said():
    """A field that is constant, and one that tells the times it was asked for."""
    z, asked = np.zeros((1, 2, 3)), []

    def field(state, t):
        asked.append(float(t[0]))
        return np.ones_like(state)

    assert np.allclose(published.published_sampler(field, z, "encode"), 1)
    assert np.allclose(published.published_sampler(field, z, "decode"), -1)
    assert np.allclose(asked[:20], np.arange(20) / 20)
    assert np.allclose(asked[20:], 1 - np.arange(20) / 20)


# A softmax over positions does not see what is added to all of its scores alike.
WITHOUT_EFFECT = {f"{part}coder.mid.attn_1.k.bias" for part in ("en", "de")}


@pytest.mark.parametrize(
    ("kind", "config", "silent"),
    [
        (NeuroVAE, PRESETS["tiny"].vae, WITHOUT_EFFECT),
        (SiT, PRESETS["tiny"].flow, set()),
    ],
    ids=["neurovae", "sit"],
)
def test_the_second_statement_reads_every_tensor(kind, config, silent):
    _, w = redrawn(kind(config), 3)
    before = outputs(w, config)

    unread = set()
    for name in w.arrays:
        changed = published.Weights(w.arrays | {name: w.arrays[name] * 1.5})
        pairs = zip(outputs(changed, config), before, strict=True)
        if max(relative(a, b) for a, b in pairs) < 1e-6:
            unread.add(name)

    assert unread == silent


def outputs(w, config):
    rng = np.random.default_rng(0)
    if isinstance(config, SiTConfig):
        z = rng.standard_normal((2, config.tokens, config.width))
        return [published.velocity(w, z, [0.2, 0.7], config.heads)]
    x = rng.standard_normal((2, config.voxels))
    features = published.encoder_features(w, x, config.groups)
    mean, log_variance = published.posterior(w, features)
    z_c = published.compact(w, mean)
    return [
        features,
        mean,
        log_variance,
        published.retrieval(w, features),
        published.decode_compact(w, z_c, config.groups),
    ]
