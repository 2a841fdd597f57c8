"""Synthetic trials: what they are made of, what is said of them, what is refused."""

import dataclasses

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import CheckpointError, TensorMismatchError, UsageError
from tests.ranked import trials
from training.checkpoint import save_checkpoint
from training.config import config_from_preset
from training.neurovae import NeuroVAE
from training.sit import SiT
from training.synthetic import known_among, open_encoder, with_synthetic

CONFIG = config_from_preset("tiny")
RNG = np.random.default_rng(5)
UNSEEN = RNG.standard_normal((5, 8, 12)).astype(np.float32)


def write(folder, config=CONFIG, vae_fingerprint=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae, field = NeuroVAE(config.vae), SiT(config.flow)
        for parameter in field.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
    common = {"seed": 0, "step": 1}
    first = save_checkpoint(
        folder / "vae", vae.state_dict(), config, stage="vae", **common
    )
    second = save_checkpoint(
        folder / "flow",
        field.state_dict(),
        config,
        stage="flow",
        vae_fingerprint=vae_fingerprint or first.fingerprint,
        **common,
    )
    return first.fingerprint, second.fingerprint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("encoder")
    write(place)
    return place


def test_measured_trials_come_first_and_stay_what_they_were(folder):
    measured = trials()

    both = with_synthetic(measured, UNSEEN, open_encoder(folder), 10, seed=1)

    assert (len(both), both.measured) == (34, 24)
    first = np.arange(24)
    assert np.array_equal(both.voxel_rows(first), measured.voxels)
    assert np.array_equal(both.z_v(first), measured.z_v(first))
    assert np.array_equal(both.latent_mean(), measured.latent_mean())
    shown = both.z_v(np.arange(24, 34))
    # Ten trials of five pictures: each twice.
    for picture in UNSEEN:
        assert sum(np.array_equal(picture, row) for row in shown) == 2
    assert both.digest() != measured.digest()


def test_noise_has_the_shrunk_covariance_of_what_the_predictions_leave(folder):
    measured, encoder, count = trials(), open_encoder(folder), 20_000
    mean = measured.latent_mean()
    left = measured.voxels - encoder.predict(measured.latents, mean)[measured.image]
    moments = left.T.astype(np.float64) @ left / len(left)
    wanted = 0.6 * moments + 0.4 * np.diag(np.diag(moments))

    both = with_synthetic(measured, UNSEEN[:1], encoder, count, seed=1)

    noise = both.voxels[24:] - encoder.predict(UNSEEN[:1], mean)[0]
    size = np.sqrt(np.diag(moments))
    # Correlations and means at five standard errors.
    limit = 5 / np.sqrt(count)
    assert np.all(np.abs(noise.mean(axis=0) / size) < limit)
    found = noise.T.astype(np.float64) @ noise / count
    scale = np.outer(size, size)
    assert np.all(np.abs(found - wanted) / scale < np.sqrt(2) * limit)
    # There is something to see off the diagonal.
    off = (wanted / scale)[~np.eye(37, dtype=bool)]
    assert np.abs(off).max() > 5 * limit


def test_what_a_checkpoint_will_say(folder, tmp_path):
    fingerprints = write(tmp_path)

    both = with_synthetic(trials(), UNSEEN, open_encoder(tmp_path), 3, seed=7)

    assert msgspec.to_builtins(both.synthetic) == {
        "trials": 3,
        "pictures": 3,
        "vae": fingerprints[0],
        "flow": fingerprints[1],
        "solver": "rotation",
        "steps": 2,
        "noise_shrinkage": 0.4,
        "seed": 7,
    }


def test_the_seed_and_nothing_else_decides(folder):
    encoder = open_encoder(folder)

    a, b, c = (
        with_synthetic(trials(), UNSEEN, encoder, 6, seed=s).voxels for s in (1, 1, 2)
    )

    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("path", ["linear", "cos2"])
def test_other_paths_are_followed_too(path, tmp_path):
    flow = msgspec.structs.replace(CONFIG.flow_training, path=path)
    write(tmp_path, msgspec.structs.replace(CONFIG, flow_training=flow))

    both = with_synthetic(trials(), UNSEEN, open_encoder(tmp_path), 3, seed=0)

    assert both.synthetic.solver == "heun"
    assert np.isfinite(both.voxels).all()


def test_what_does_not_fit_is_refused(folder, tmp_path):
    encoder = open_encoder(folder)
    small = dataclasses.replace(trials(), voxels=trials().voxels[:, :30].copy())
    both = with_synthetic(trials(), UNSEEN, encoder, 3, seed=0)

    with pytest.raises(TensorMismatchError, match=r"encoder: expected 30 voxels .* 37"):
        with_synthetic(small, UNSEEN, encoder, 3, seed=0)
    with pytest.raises(
        TensorMismatchError,
        match=r"pictures: expected 8 tokens of width 12 .* found 8 of width 6",
    ):
        with_synthetic(trials(), UNSEEN[..., :6], encoder, 3, seed=0)
    with pytest.raises(UsageError, match="expected pictures that no trial shows"):
        with_synthetic(trials(), UNSEEN[:0], encoder, 3, seed=0)
    with pytest.raises(UsageError, match="expected at least 1, found 0"):
        with_synthetic(trials(), UNSEEN, encoder, 0, seed=0)
    with pytest.raises(UsageError, match="expected measured ones, found synthetic"):
        with_synthetic(both, UNSEEN, encoder, 3, seed=0)
    write(tmp_path, vae_fingerprint="f" * 64)
    with pytest.raises(CheckpointError, match=r"expected the flow of vae \w+, found"):
        open_encoder(tmp_path)
    with pytest.raises(CheckpointError, match="expected a checkpoint folder"):
        open_encoder(tmp_path / "none")


@given(
    st.lists(st.integers(0, 5), max_size=6, unique=True),
    st.sampled_from([np.float16, np.float32]),
    st.floats(0.01, 100),
)
def test_held_out_pictures_are_found_in_either_precision(known, dtype, size):
    rng = np.random.default_rng(len(known))
    pictures = (size * rng.standard_normal((6, 8, 12))).astype(np.float32)
    held = pictures[known].astype(dtype)

    assert known_among(pictures, held) == sorted(known)
    assert known_among(pictures[:0], held) == []
