"""Parts with channels last equal what they replace, in float64."""

import copy

import pytest
import torch
from torch import nn

from export.assemble import autoencoder_modules
from export.channels_last import (
    FlatAttention,
    FlatNorm,
    Interleaved,
    channels_last,
    flat_convolution,
)
from export.fold import FoldedAttention, FoldedEncoder
from export.graphs import graph_from_module, write_graph
from runtime.engine import open_engine
from tests.models import random_model
from training.config import NeuroVAEConfig
from training.neurovae import NeuroVAE, PositionAttention

EXACT = 1e-12
"""Sums of a few hundred float64 terms in another order."""


def drawn(module, seed=0):
    """In float64, with no bias near zero, nor any gain near one."""
    module = module.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module.eval()


def numbers(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def rel_l2(found, wanted):
    assert found.shape == wanted.shape
    return float((found - wanted).norm() / wanted.norm())


@torch.no_grad()
def error(flat, plain, x):
    """How far a part of height 1 is from the one that it replaces."""
    return rel_l2(flat(x.unsqueeze(2)).squeeze(2), plain(x))


@pytest.mark.parametrize(
    ("groups", "length"), [(1, 1), (3, 1), (1, 40), (3, 40), (12, 40)]
)
def test_a_flat_norm_is_the_group_norm(groups, length):
    norm = drawn(nn.GroupNorm(groups, 12, eps=1e-6))

    assert error(FlatNorm(norm), norm, 3 + 2 * numbers(1, 12, length)) <= EXACT


@pytest.mark.parametrize("mean", [0, 1, 10, 1e3, 1e5])
def test_a_flat_norm_is_as_exact_in_float32_where_the_mean_is_far_beyond_the_spread(
    mean,
):
    norm = drawn(nn.GroupNorm(3, 12, eps=1e-6)).float()
    # As float32 holds them: what is lost before the norm is not the norm's.
    x = (mean + numbers(1, 12, 500)).float()

    plain, flat = (
        error(made, copy.deepcopy(norm).double(), x.double())
        for made in (
            lambda x: norm(x.squeeze(2).float()).double().unsqueeze(2),
            lambda x: FlatNorm(norm)(x.float()).double(),
        )
    )

    # The mean square less the mean squared is 1e5 times as bad as torch at 1e5.
    assert flat <= 4 * plain


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_an_engine_finds_the_mean_of_thousands_of_numbers(backend, tmp_path):
    """Each of them 30 deviations from zero, as a sum in float32 meets them."""
    norm = drawn(nn.GroupNorm(32, 64, eps=1e-6)).float()
    same = nn.Conv1d(64, 64, 1, bias=False)
    nn.init.dirac_(same.weight)
    x = (30 + numbers(1, 64, 1, 6656)).float()
    # Between convolutions, for which an engine puts channels last.
    module = nn.Sequential(
        flat_convolution(same), FlatNorm(norm), flat_convolution(same)
    )
    graph = graph_from_module("g", module, (x,), inputs=["x"], outputs=["y"])
    write_graph(graph, tmp_path / "g.onnx")
    with torch.no_grad():
        wanted = copy.deepcopy(norm).double()(x.double()[:, :, 0])[:, :, None]

    engine = open_engine(backend, tmp_path / "g.onnx", graph.spec("g.onnx"), threads=1)
    found = torch.from_numpy(engine.run({"x": x.numpy()})["y"].copy())
    engine.close()

    # Rounding of the input itself: half of 2^-23 at 30, of a unit.
    assert rel_l2(found.double(), wanted) <= 2 * 30 * 2**-24


@pytest.mark.parametrize("taps", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_a_flat_convolution_is_the_convolution(taps, stride, bias):
    layer = drawn(
        nn.Conv1d(4, 6, taps, stride=stride, padding=taps // 2, bias=bias), seed=taps
    )

    assert error(flat_convolution(layer), layer, numbers(1, 4, 20)) <= EXACT


@pytest.mark.parametrize(
    ("taps", "stride", "padding", "more"),
    [
        (7, 2, 3, 1),
        (4, 2, 1, 0),
        (2, 2, 0, 0),
        (3, 2, 1, 1),
        (5, 3, 1, 0),
        (7, 3, 2, 0),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_interleaved_phases_are_the_transposed_convolution(
    taps, stride, padding, more, bias, length
):
    layer = drawn(
        nn.ConvTranspose1d(
            4, 6, taps, stride=stride, padding=padding, output_padding=more, bias=bias
        )
    )

    assert error(Interleaved(layer), layer, numbers(1, 4, length)) <= EXACT


@pytest.mark.parametrize("gain", [0.1, 1.0, 10.0])
def test_flat_attention_is_the_attention_that_was_trained(gain):
    attention = drawn(PositionAttention(12, 3))
    with torch.no_grad():
        attention.q.weight.mul_(gain)
        x = numbers(1, 12, 40)

        flat = FlatAttention(FoldedAttention(attention))

        assert rel_l2(flat(x.unsqueeze(2)).squeeze(2) - x, attention(x) - x) <= EXACT


def test_the_whole_autoencoder_is_what_was_trained():
    model = random_model()
    vae = drawn(copy.deepcopy(model.vae))
    voxels = torch.from_numpy(model.golden_voxels[:1]).double()
    z_n = numbers(1, model.config.vae.tokens, model.config.vae.width)
    encoder, features, decoder = autoencoder_modules(vae)

    with torch.no_grad():
        assert rel_l2(encoder(voxels), vae.encode(voxels)) <= EXACT
        wanted = vae.retrieval(vae.features(voxels))
        assert rel_l2(features(voxels), wanted) <= EXACT
        assert rel_l2(decoder(z_n), vae.decode(z_n)) <= EXACT
    for module in (encoder, decoder):
        kinds = {type(part) for part in module.modules()}
        assert {nn.GroupNorm, nn.ConvTranspose1d}.isdisjoint(kinds)


def test_a_decoder_without_a_bottleneck_is_what_was_trained():
    vae = drawn(
        NeuroVAE(
            NeuroVAEConfig(
                voxels=37, tokens=8, width=12, hidden=16, channels=4,
                channel_multipliers=(1, 2), blocks=1, downsamplings=1, groups=2,
                decoded_from="z_n",
            )
        )
    )  # fmt: skip
    z_n = numbers(1, 8, 12)

    decoder = autoencoder_modules(vae)[-1]

    with torch.no_grad():
        assert rel_l2(decoder(z_n), vae.decode(z_n)) <= EXACT


def test_what_is_rewritten_is_left_as_it_was():
    folded = FoldedEncoder(random_model().vae)
    before = {name: p.clone() for name, p in folded.state_dict().items()}

    flat = channels_last(folded, "features.down.0", "mean")

    after = folded.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {p.dtype for p in flat.state_dict().values()} == {torch.float32}
