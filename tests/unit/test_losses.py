import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import config_from_preset
from training.losses import SoftClip, kl_divergence, vae_loss
from training.neurovae import NeuroVAE, Posterior


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def soft_clip_in_numpy(predictions, targets, temperature):
    p, q = (a.reshape(len(a), -1) for a in (predictions, targets))
    p = p / np.linalg.norm(p, axis=1, keepdims=True)
    q = q / np.linalg.norm(q, axis=1, keepdims=True)
    wanted = np.exp(log_softmax(q @ q.T / temperature))
    logits = p @ q.T / temperature
    total = 0.0
    for table in (logits, logits.T):
        total -= (wanted * log_softmax(table)).sum() / len(p)
    return total / 2


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 9), st.floats(0.02, 2))
def test_soft_clip_is_its_statement_in_float64(seed, batch, temperature):
    rng = np.random.default_rng(seed)
    p, q = rng.standard_normal((2, batch, 3, 5))

    value = SoftClip(torch.from_numpy(q), temperature)(torch.from_numpy(p))

    # A few hundred float64 operations on numbers up to 1 / temperature.
    assert float(value) == pytest.approx(
        soft_clip_in_numpy(p, q, temperature), rel=1e-10, abs=1e-12
    )


def test_trials_of_one_image_are_not_each_others_negatives():
    rng = np.random.default_rng(3)
    targets = rng.standard_normal((6, 4, 7))
    targets[4] = targets[1]
    predictions = torch.from_numpy(rng.standard_normal((6, 4, 7))).requires_grad_()
    swapped = predictions.detach()[[0, 4, 2, 3, 1, 5]]
    q = torch.from_numpy(targets)

    loss = SoftClip(q, 0.125)(predictions)
    exchanged = SoftClip(q, 0.125)(swapped)
    wanted = torch.softmax(
        torch.nn.functional.normalize(q.flatten(1))
        @ torch.nn.functional.normalize(q.flatten(1)).T
        / 0.125,
        -1,
    )

    # Which of the two trials predicts what is no matter, and both are wanted alike.
    torch.testing.assert_close(loss, exchanged, rtol=1e-12, atol=0)
    torch.testing.assert_close(wanted[1, 1], wanted[1, 4], rtol=1e-12, atol=0)
    assert float(wanted[1, 1]) < 0.5 + 1e-12


def test_perfect_predictions_of_a_repeated_image_do_not_push_it_away():
    rng = np.random.default_rng(4)
    q = torch.from_numpy(rng.standard_normal((5, 40)))
    q[3] = q[0]
    p = q.clone().requires_grad_()

    SoftClip(q, 0.125)(p).backward()

    # The targets' own similarities are the loss's minimum: a repeat adds no force.
    assert p.grad.abs().max() < 1e-12


def test_kl_is_the_closed_form_of_a_gaussian():
    mean = torch.tensor([[[0.5, -1.0]], [[0.0, 2.0]]], dtype=torch.float64)
    log_variance = torch.tensor([[[0.0, 1.0]], [[-2.0, 0.3]]], dtype=torch.float64)
    normal = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    standard = torch.distributions.Normal(0.0, torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(normal, standard).sum() / 2

    value = kl_divergence(Posterior(mean, log_variance))

    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)


def test_the_total_is_the_weighted_sum_of_the_terms():
    config = config_from_preset("tiny")
    torch.manual_seed(0)
    vae = NeuroVAE(config.vae).double()
    voxels = torch.randn(5, 37, dtype=torch.float64)
    z_v = torch.randn(5, 8, 12, dtype=torch.float64)

    losses = vae_loss(
        vae, voxels, z_v, config.vae_training, torch.Generator().manual_seed(7)
    )

    features = vae.features(voxels)
    z_n = vae.posterior(features).sample(torch.Generator().manual_seed(7))
    seen = vae.decode(z_n)
    again = vae.features(seen)
    tau = config.vae_training.temperature
    pairs = {
        "clip_latent": z_n,
        "clip_retrieval": vae.clip_proj(features),
        "cycle_latent": vae.encode(seen),
        "cycle_retrieval": vae.clip_proj(again),
    }
    for name, predictions in pairs.items():
        expected = soft_clip_in_numpy(predictions.detach().numpy(), z_v.numpy(), tau)
        assert float(getattr(losses, name).detach()) == pytest.approx(
            expected, rel=1e-10
        )
    assert float(losses.mse.detach()) == pytest.approx(
        float(((seen - voxels) ** 2).sum().detach()) / 5, rel=1e-12
    )
    total = (
        losses.mse
        + 0.001 * losses.kl
        + 1000 * (losses.clip_latent + losses.clip_retrieval)
        + 1000 * (losses.cycle_latent + losses.cycle_retrieval)
    )
    torch.testing.assert_close(losses.total, total, rtol=1e-12, atol=0)
    assert "total" not in losses.terms()


def test_the_cycle_moves_the_decoder():
    config = config_from_preset("tiny")
    torch.manual_seed(0)
    vae = NeuroVAE(config.vae)
    losses = vae_loss(
        vae,
        torch.randn(4, 37),
        torch.randn(4, 8, 12),
        config.vae_training,
        torch.Generator().manual_seed(0),
    )

    (losses.cycle_latent + losses.cycle_retrieval).backward()

    assert vae.decoder.subj_proj.fc2.weight.grad.abs().max() > 0


def test_what_is_shown_is_not_what_the_reconstruction_is_compared_with():
    config = config_from_preset("tiny")
    torch.manual_seed(0)
    vae = NeuroVAE(config.vae)
    voxels, z_v = torch.randn(4, 37), torch.randn(4, 8, 12)

    def mse(target):
        generator = torch.Generator().manual_seed(0)
        return vae_loss(
            vae, target, z_v, config.vae_training, generator, shown=voxels
        ).mse

    seen = vae.decode(
        vae.posterior(vae.features(voxels)).sample(torch.Generator().manual_seed(0))
    )
    assert float(mse(voxels + 1).detach()) == pytest.approx(
        float((seen - voxels - 1).square().sum().detach()) / 4, rel=1e-5
    )
