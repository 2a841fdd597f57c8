"""The exact rewrites equal what they replace, in float64."""

import copy

import numpy as np
import pytest
import torch

from export.fold import (
    FoldedAttention,
    FoldedEncoder,
    FoldedRetrieval,
    FoldedVelocity,
    VoxelDecoder,
    conditioning_table,
    modulation_size,
)
from tests.models import random_model
from training.neurovae import PositionAttention

EXACT = 1e-12
"""Sums of a few hundred float64 terms in another order."""


@pytest.fixture(scope="module")
def model():
    return random_model()


def rel_l2(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def test_the_table_gives_the_velocity_that_the_time_gives(model):
    field = model.field
    times = (1.0, 0.5, 0.125, 0.0)
    table = conditioning_table(field, times)
    wide = FoldedVelocity(copy.deepcopy(field).double())
    z = torch.randn(1, 8, 12, dtype=torch.float64)

    with torch.no_grad():
        for row, t in zip(table, times, strict=True):
            wanted = wide.field(z, torch.tensor([t], dtype=torch.float64))
            assert rel_l2(wide(z, row[None]), wanted) <= EXACT


def test_a_row_holds_every_modulation_and_the_table_is_float64(model):
    table = conditioning_table(model.field, (0.0, 1.0))

    assert tuple(table.shape) == (2, modulation_size(model.field))
    assert table.dtype == torch.float64
    assert model.field.t_embedder.mlp[0].weight.dtype == torch.float32


def drawn(module, seed=0):
    """A copy in float64 in which no bias is near zero, nor any gain near one."""
    module = copy.deepcopy(module).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


@pytest.fixture(scope="module")
def vae(model):
    return drawn(model.vae)


@pytest.fixture(scope="module")
def voxels(model):
    return torch.from_numpy(model.golden_voxels[:1]).double()


def test_the_folded_encoder_gives_the_mode_of_the_posterior(vae, voxels):
    with torch.no_grad():
        wanted = vae.posterior(vae.features(voxels)).mean

        assert rel_l2(FoldedEncoder(vae)(voxels), wanted) <= EXACT


def test_the_folded_retrieval_gives_the_retrieval_features(vae, voxels):
    with torch.no_grad():
        wanted = vae.retrieval(vae.features(voxels))

        assert rel_l2(FoldedRetrieval(vae)(voxels), wanted) <= EXACT


def test_the_folded_decoder_is_the_decoder(vae):
    z_n = torch.randn(1, 8, 12, dtype=torch.float64)

    with torch.no_grad():
        assert rel_l2(VoxelDecoder(vae)(z_n), vae.decode(z_n)) <= EXACT


@pytest.mark.parametrize("gain", [0.1, 1.0, 10.0])
def test_attention_of_two_maps_is_attention_of_four(gain):
    """From rows of the softmax that are almost even to some that are almost one."""
    torch.manual_seed(0)
    attention = drawn(PositionAttention(12, 3))
    with torch.no_grad():
        attention.q.weight.mul_(gain)
        x = torch.randn(1, 12, 40, dtype=torch.float64)
        folded = FoldedAttention(attention)

        assert rel_l2(folded(x) - x, attention(x) - x) <= EXACT
    matrices = [p for p in folded.parameters() if p.ndim > 1]
    assert [tuple(p.shape) for p in matrices] == [(12, 12, 1)] * 2


def test_what_is_folded_is_left_as_it_was(model):
    before = {name: p.clone() for name, p in model.vae.state_dict().items()}

    for fold in (FoldedEncoder, FoldedRetrieval, VoxelDecoder):
        folded = fold(model.vae)
        assert {p.dtype for p in folded.parameters()} == {torch.float32}

    after = model.vae.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_test_model_has_unit_velocity_and_outlier_channels(model):
    z = torch.randn(16, 8, 12, generator=torch.Generator().manual_seed(1))

    with torch.no_grad():
        velocity = model.field(z, torch.linspace(0, 1, 16))
        rows = model.field.modulations(torch.zeros(1))[0][0]

    assert 0.5 < float(velocity.std()) < 2
    assert float(rows.abs().max()) > 5 * float(np.median(rows.abs().numpy()))
