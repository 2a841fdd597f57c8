"""Whole images are held out, the same ones always, and never what nobody measured."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ConfigError
from runtime.path import path_from_name
from tests.ranked import noisy, trials
from training.neurovae import NeuroVAE
from training.provenance import Synthetic
from training.ranks import ALONE, OneProcess
from training.sit import SiT
from training.trials import TrialSet
from training.validation import flow_judge, hold_out, neurovae_judge

CPU = torch.device("cpu")
CONFIG = noisy()


def of_images(image, synthetic=None):
    image = np.asarray(image, dtype=np.int64)
    rng = np.random.default_rng(0)
    return TrialSet(
        rng.standard_normal((len(image), 3)).astype(np.float32),
        image,
        rng.standard_normal((image.max() + 1, 2, 3)).astype(np.float32),
        synthetic=synthetic,
    )


def made(count):
    name = "0" * 64
    return Synthetic(
        trials=count,
        pictures=1,
        vae=name,
        flow=name,
        solver="heun",
        steps=2,
        noise_shrinkage=0.4,
        seed=0,
    )


@settings(max_examples=50)
@given(st.lists(st.integers(0, 9), min_size=10, max_size=60), st.floats(0.2, 0.8))
def test_no_image_is_on_both_sides_and_no_trial_is_lost(image, share):
    images = len(np.unique(image))
    if not 2 <= round(share * images) < images:
        return
    found = of_images(image)

    learned, held = hold_out(found, share, ALONE)

    assert sorted([*learned, *held]) == list(range(len(image)))
    assert not set(found.image[learned]) & set(found.image[held])
    assert len(set(found.image[held])) == round(share * images)
    again = hold_out(found, share, ALONE)
    assert all(
        np.array_equal(a, b) for a, b in zip((learned, held), again, strict=True)
    )


def test_nothing_held_out_leaves_the_order_alone():
    learned, held = hold_out(trials(), 0, ALONE)

    assert np.array_equal(learned, np.arange(24))
    assert not len(held)


def test_synthetic_trials_are_learned_from():
    image = [*np.arange(10), *np.arange(10)]

    learned, held = hold_out(of_images(image, made(10)), 0.5, ALONE)

    assert set(range(10, 20)) <= set(learned)
    assert len(held) == 5


@pytest.mark.parametrize("share", [0.01, 0.13, 0.95])
def test_a_share_that_leaves_nothing_to_judge_or_learn_is_refused(share):
    with pytest.raises(ConfigError, match=r"validation_share: expected .* 8 images"):
        hold_out(trials(), share, ALONE)


def test_shards_are_refused():
    shards = OneProcess()
    shards.is_sharded = True

    with pytest.raises(ConfigError, match=r"expected 0 with weights in shards"):
        hold_out(trials(), 0.5, shards)


@pytest.fixture
def models():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae, field = NeuroVAE(CONFIG.vae), SiT(CONFIG.flow)
        for parameter in field.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
    return vae, field


def test_judgements_repeat_bit_for_bit_and_follow_the_weights(models):
    vae, field = models
    path, training = path_from_name("cos"), CONFIG.vae_training
    before = torch.get_rng_state()
    judges = (
        (neurovae_judge(vae, trials(), training, CPU), vae),
        (flow_judge(field, vae, trials(), path, "uniform", 8, CPU), field),
    )

    for judge, module in judges:
        weights = {name: value.clone() for name, value in module.state_dict().items()}
        first = judge(weights)
        other = judge({name: 1.5 * value for name, value in weights.items()})
        assert judge(weights) == first
        assert other != first
        # The module that trains is another one.
        assert all(
            torch.equal(value, weights[name])
            for name, value in module.state_dict().items()
        )
    assert torch.equal(torch.get_rng_state(), before)
