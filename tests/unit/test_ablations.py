"""Ablations: what a variant changes, how it is judged, and that no pair is lost."""

import dataclasses

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace

from benchmarks import ablations
from runtime.bundle import open_bundle
from runtime.errors import CheckpointError, ConfigError
from runtime.model import open_model
from runtime.preprocess import AffineNormaliser, FeatureSpace, NoiseWhitening
from tests.models import export, random_model
from training.ablation import (
    FULL,
    PUBLISHED,
    SERVED,
    STEPS,
    VARIANTS,
    Sampler,
    first_stage,
)
from training.ablation_judge import (
    HeldOut,
    correlation_shares,
    judge,
)
from training.checkpoint import load_neurovae, save_checkpoint
from training.config import config_from_json, config_from_preset
from training.judge import encoding_correlation
from training.metrics.voxels import correlation_interval
from training.neurovae import NeuroVAE
from training.sit import SiT
from training.trials import TrialSet

BASE = config_from_preset("tiny")
BARE = VARIANTS["no-zc"].change(BASE)
IMAGES, REPEATS = 12, 3


def seeded(module, config, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return module(config).eval()


def held(seed=0):
    rng = np.random.default_rng(seed)
    voxels, pictures = BASE.vae.voxels, 30
    image = np.tile(np.arange(IMAGES), REPEATS)
    space = FeatureSpace(
        AffineNormaliser(np.zeros(voxels, np.float32), np.ones(voxels, np.float32)),
        NoiseWhitening.identity(voxels),
    )

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return HeldOut(
        voxels=normal(len(image), voxels),
        image=image,
        mean_voxels=normal(IMAGES, voxels),
        measured=normal(IMAGES, voxels),
        images=np.arange(IMAGES),
        latents=normal(pictures, BASE.vae.tokens, BASE.vae.width) + 1,
        gallery=np.arange(pictures),
        latent_mean=np.ones((BASE.vae.tokens, BASE.vae.width), np.float32),
        space=space,
        visual=np.arange(voxels) % 5 > 0,
    )


class PosedVAE(NeuroVAE):
    """Encodes as it does, but the mode of a trial is the latent of its image."""

    def __init__(self, config, latents):
        super().__init__(config)
        self.latents = torch.from_numpy(latents)

    def encode(self, voxels):
        return self.latents[torch.arange(len(voxels)) % IMAGES]


# What a variant changes


def test_the_full_model_is_the_published_one():
    assert VARIANTS[FULL].change(BASE) == BASE
    assert next(iter(VARIANTS)) == FULL


def test_every_variant_has_a_name_of_its_own_and_changes_one_thing():
    for name, variant in VARIANTS.items():
        config = variant.change(BASE)
        parts = [
            part
            for part in ("vae", "flow", "vae_training", "flow_training")
            if getattr(config, part) != getattr(BASE, part)
        ]
        assert variant.name == name
        assert len(parts) == (name not in (FULL, "no-xfm")), name
        assert config_from_json(msgspec.json.encode(config)) == config
    assert len({v.change(BASE).fingerprint() for v in VARIANTS.values()}) == 8


def test_variants_of_the_flow_share_one_neurovae():
    def shared(name):
        return first_stage(VARIANTS[name].change(BASE), BASE).fingerprint()

    assert {shared(n) for n in ("cos2", "linear", "no-xfm")} == {shared(FULL)}
    assert len({shared(n) for n in VARIANTS}) == 6


def test_a_sampler_that_does_not_fit_a_path_is_left_out():
    cos = VARIANTS[FULL].samplers("cos")
    linear = VARIANTS["linear"].samplers("linear")

    assert cos == tuple(Sampler(s, n) for s in ("euler", "rotation") for n in STEPS)
    assert linear == tuple(Sampler("euler", n) for n in STEPS)
    assert VARIANTS["no-kl"].samplers("cos") == (PUBLISHED, SERVED)
    assert VARIANTS["no-xfm"].samplers("cos") == (None,)
    assert Sampler("heun", 8).evaluations == 16


# The model without z_c


def test_without_z_c_voxels_come_from_the_whole_latent():
    vae = seeded(NeuroVAE, BARE.vae)
    z_n = torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(1))
    # A direction that the published model's weighted sum cannot see.
    moved = z_n.clone()
    published = seeded(NeuroVAE, BASE.vae)
    weights = published.pre_proj2.weight[0, :, 0].detach()
    moved[:, 0] += weights[1]
    moved[:, 1] -= weights[0]

    with torch.no_grad():
        assert vae.decode(z_n).shape == (3, BARE.vae.voxels)
        assert torch.equal(vae.decode(z_n), vae.decoder(z_n))
        assert not torch.allclose(vae.decode(moved), vae.decode(z_n), atol=1e-4)
        torch.testing.assert_close(
            published.decode(moved), published.decode(z_n), atol=1e-5, rtol=1e-4
        )
    missing = set(published.state_dict()) - set(vae.state_dict())
    assert missing == {f"{n}.{p}" for n in ("pre_proj2", "post_proj")
                       for p in ("weight", "bias")}  # fmt: skip
    with pytest.raises(ConfigError, match="expected a model with z_c, found one"):
        vae.compact(z_n)


def test_the_published_model_has_not_changed():
    # Of the commit before the field existed: checkpoints made then still open.
    assert BASE.fingerprint().startswith("dffa97411de0")
    assert config_from_preset("paper-subj01").fingerprint().startswith("56159b9e49b5")
    assert b"decoded_from" not in msgspec.json.encode(BASE)
    assert b'"decoded_from":"z_n"' in msgspec.json.encode(BARE)


def test_a_checkpoint_knows_which_of_the_two_it_is(tmp_path):
    for folder, config in (("bare", BARE), ("full", BASE)):
        weights = seeded(NeuroVAE, config.vae).state_dict()
        save_checkpoint(tmp_path / folder, weights, config, stage="vae", seed=0, step=0)
    weights = seeded(NeuroVAE, BARE.vae).state_dict()
    save_checkpoint(tmp_path / "mixed", weights, BASE, stage="vae", seed=0, step=0)

    assert not load_neurovae(tmp_path / "bare")[0].is_compact
    assert load_neurovae(tmp_path / "full")[0].is_compact
    with pytest.raises(CheckpointError, match=r"expected tensor pre_proj2.weight"):
        load_neurovae(tmp_path / "mixed")


@pytest.mark.slow
def test_a_model_without_z_c_is_exported_and_judged_as_any_other(tmp_path):
    model = dataclasses.replace(
        random_model(), config=BARE, vae=seeded(NeuroVAE, BARE.vae)
    )

    folder = export(model, tmp_path / "bundle")

    z_n = np.random.default_rng(0).standard_normal((8, 12)).astype(np.float32)
    with open_bundle(folder) as bundle, open_model(bundle, "ort") as opened:
        served = opened.predict_voxels(z_n)
    with torch.no_grad():
        expected = model.vae.decode(torch.from_numpy(z_n)[None])[0].numpy()
    # Some forty layers in float32, fused in another order.
    np.testing.assert_allclose(served, expected, atol=1e-4, rtol=1e-3)


# Judging


def test_shares_of_a_correlation_have_it_as_their_mean():
    rng = np.random.default_rng(0)
    measured = rng.standard_normal((200, 7)).astype(np.float32)
    predicted = (0.4 * measured + rng.standard_normal((200, 7))).astype(np.float32)
    predicted[:, 6] = 3.0
    voxels = np.arange(7) != 2

    shares = correlation_shares(predicted, measured, voxels)

    r = encoding_correlation(predicted, measured, voxels)
    assert shares.mean() == pytest.approx(r, abs=1e-6)
    # Their spread is the bootstrap's that computes every correlation again: 1,000
    # draws know a width to about 4 %, first order to a little more at n = 200.
    drawn = correlation_interval(predicted, measured, voxels, rng)
    width = 2 * 1.96 * shares.std() / np.sqrt(len(shares))
    assert width == pytest.approx(drawn.high - drawn.low, rel=0.15)


def test_without_a_flow_the_latents_change_places():
    known = held()
    vae = PosedVAE(BASE.vae, known.latents - known.latent_mean)

    found = judge(vae, None, BASE, known, [None])

    (one,) = found.judged
    assert all(one.single)
    assert len(one.single) == IMAGES * REPEATS
    assert one.round_trip is None
    with torch.no_grad():
        z_v = torch.from_numpy(known.latents[known.images] - known.latent_mean)
        predicted = vae.decode(z_v).numpy()
    r = encoding_correlation(predicted, known.measured, known.visual)
    assert np.mean(one.encoding) == pytest.approx(r, abs=1e-6)


def test_centring_is_undone_where_the_model_has_none():
    known = held()
    plain = replace(BASE, centre_latents=False)
    vae = PosedVAE(plain.vae, known.latents)

    found = judge(vae, None, plain, known, [None])

    assert all(found.judged[0].single)


def test_a_still_field_goes_round_in_a_circle_and_evaluates_as_often_as_said():
    known, calls = held(), []
    vae, field = seeded(NeuroVAE, BASE.vae), seeded(SiT, BASE.flow)
    whole = field.velocity

    def counted(z, modulations):
        calls.append(len(z))
        return whole(z, modulations)

    field.velocity = counted

    found = judge(vae, field, BASE, known, [Sampler("euler", 4)])

    # The field starts at zero: encoding moves nothing, decoding moves it back.
    assert found.judged[0].round_trip == 0.0
    # Encode images; decode them, the single trials and the means.
    assert calls == [IMAGES] * 8 + [IMAGES * REPEATS] * 4 + [IMAGES] * 4


# Keeping


def test_features_come_back_as_they_were_kept(tmp_path):
    known = held()
    train = TrialSet(known.voxels, known.image, known.latents)
    file = tmp_path / "features.npz"

    ablations.save_prepared(file, ablations.Prepared(train, known), "table")
    found = ablations.load_prepared(file, "table")

    for name in ("voxels", "gallery", "visual", "latent_mean", "measured"):
        np.testing.assert_array_equal(getattr(found.held, name), getattr(known, name))
    np.testing.assert_array_equal(found.train.voxels, train.voxels)
    np.testing.assert_array_equal(
        found.held.space.from_model(known.mean_voxels),
        known.space.from_model(known.mean_voxels),
    )
    with pytest.raises(ConfigError, match=r"expected table other, found table\. Rem"):
        ablations.load_prepared(file, "other")
