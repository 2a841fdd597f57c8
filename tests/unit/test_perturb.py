"""Which tokens are hidden, and what of it the losses see."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.path import path_from_name
from training.config import config_from_preset
from training.flow import flow_matching_loss
from training.losses import Cycle
from training.neurovae import NeuroVAE
from training.perturb import kept_tokens

CONFIG = config_from_preset("tiny")


def generator():
    return torch.Generator().manual_seed(3)


@given(st.integers(1, 9), st.integers(1, 12), st.floats(0.01, 1.0))
@settings(max_examples=30)
def test_a_mask_has_a_number_for_every_token_and_holds_zeros_and_ones(n, m, dropout):
    kept = kept_tokens(torch.zeros(n, m, 4), dropout, generator())

    assert kept.shape == (n, m, 1)
    assert set(kept.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("dropout", [0.4, 1.0])
def test_shares_are_uniform_up_to_the_limit(dropout):
    kept = kept_tokens(torch.zeros(500, 4000, 1), dropout, generator())

    share = 1 - kept[..., 0].mean(dim=1).numpy()
    # A trial's own count adds at most 5 * 0.008 to its share.
    assert share.max() < dropout + 0.04
    assert share.min() < 0.02 * dropout + 0.01
    # Mean and deviation of a uniform law, at five standard errors.
    assert abs(share.mean() - dropout / 2) < 5 * dropout / np.sqrt(12 * 500)
    assert abs(share.std() - dropout / np.sqrt(12)) < 0.1 * dropout


def test_without_dropout_nothing_is_drawn():
    drawn = generator()

    assert kept_tokens(torch.zeros(2, 3, 4), 0.0, drawn) is None
    assert torch.equal(drawn.get_state(), generator().get_state())


def test_a_field_sees_the_point_without_tokens_and_learns_the_whole_velocity():
    path = path_from_name("cos")
    z_v, z_n = torch.randn(2, 5, 6, 4, generator=generator()).unbind(0)
    t = torch.rand(5, generator=generator())
    kept = kept_tokens(z_n, 1.0, generator())
    assert 0 < float(kept.mean()) < 1
    points = []

    def field(z, times):
        points.append(z)
        return path.velocity(z_v, z_n, times[:, None, None], torch)

    loss = flow_matching_loss(field, z_v, z_n, t, path, seen=z_n * kept)

    assert float(loss) == 0
    wanted = path.interpolate(z_v, z_n * kept, t[:, None, None], torch)
    assert torch.equal(points[0], wanted)


def test_features_that_are_not_read_change_nothing():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = NeuroVAE(CONFIG.vae).eval()
    voxels = torch.randn(3, 37, generator=generator())
    noise = torch.zeros(3, 8, 12)
    nothing, everything = torch.zeros(3, 8, 1), torch.ones(3, 8, 1)

    with torch.no_grad():
        whole = Cycle(vae)(voxels, noise)
        kept = Cycle(vae)(voxels, noise, everything)
        blind = Cycle(vae)(voxels, noise, nothing)

    assert all(torch.equal(a, b) for a, b in zip(whole, kept, strict=True))
    # Of features that are all zero every trial's posterior is the same.
    assert torch.equal(blind.mean[0], blind.mean[1])
    assert not torch.equal(whole.mean[0], whole.mean[1])
