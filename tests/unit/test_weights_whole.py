"""Weights and snapshots that are kept: finite, and either old or new as a whole."""

import shutil

import msgspec
import numpy as np
import pytest
import torch

import training.checkpoint
from runtime.errors import CheckpointError
from training.checkpoint import load_neurovae, save_checkpoint
from training.config import config_from_preset
from training.fit import DivergedError, fit_neurovae
from training.neurovae import NeuroVAE
from training.snapshot import RunIdentity, load_snapshot, save_snapshot
from training.trials import TrialSet

CONFIG = config_from_preset("tiny")
RUN = RunIdentity(stage="vae", config="c", trials="t")


def weights(seed=0, **changes):
    torch.manual_seed(seed)
    return NeuroVAE(CONFIG.vae).state_dict() | changes


def save(folder, seed=0, **changes):
    made = weights(seed, **changes)
    return save_checkpoint(folder, made, CONFIG, stage="vae", seed=5, step=9)


def spoiled():
    name, value = next(iter(weights().items()))
    return {name: torch.full_like(value, torch.nan)}


def trials():
    rng = np.random.default_rng(0)
    return TrialSet(
        rng.standard_normal((24, 37)).astype(np.float32),
        np.arange(24) % 8,
        rng.standard_normal((8, 8, 12)).astype(np.float32),
    )


def with_training(**changes):
    training = msgspec.structs.replace(CONFIG.vae_training, **changes)
    return msgspec.structs.replace(CONFIG, vae_training=training)


def test_a_last_update_that_diverges_keeps_no_weights(tmp_path):
    with pytest.raises(DivergedError, match=r"vae step 1: expected finite weights, "):
        fit_neurovae(
            with_training(epochs=1, batch=24, learning_rate=1e39), trials(), tmp_path
        )

    assert {file.name for file in tmp_path.iterdir()} == {"history.csv", "tensorboard"}


def test_weights_that_are_not_finite_are_not_saved_over_good_ones(tmp_path):
    before = save(tmp_path)
    (name,) = spoiled()

    with pytest.raises(CheckpointError, match=rf"weights.safetensors: {name}: .* NaN"):
        save(tmp_path, **spoiled())

    assert load_neurovae(tmp_path)[1] == before


def test_weights_that_are_not_finite_are_not_loaded(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(training.checkpoint, "check_finite", lambda *_: None)
        save(tmp_path, **spoiled())
    (name,) = spoiled()

    with pytest.raises(CheckpointError, match=rf"weights.safetensors: {name}: .* NaN"):
        load_neurovae(tmp_path)


@pytest.mark.parametrize("writer", ["save_tensors", "write_bytes"])
def test_a_full_disk_leaves_the_older_checkpoint(tmp_path, monkeypatch, writer):
    before = save(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training.checkpoint, writer, full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, seed=1)

    assert load_neurovae(tmp_path)[1] == before
    assert {file.name for file in tmp_path.iterdir()} == {
        "weights.safetensors",
        "config.json",
    }


def test_a_process_that_died_between_the_two_files_leaves_the_new_one(
    tmp_path, monkeypatch
):
    folder, other = tmp_path / "folder", tmp_path / "other"
    save(folder)
    new = save(other, seed=1)
    shutil.copy(other / "weights.safetensors", folder / "weights.safetensors")
    shutil.copy(other / "config.json", folder / "next-config.json")

    assert load_neurovae(folder)[1] == new

    def full(*_):
        raise OSError(28, "No space left on device")

    # Nor does a later one that finds no room undo that.
    monkeypatch.setattr(training.checkpoint, "save_tensors", full)
    with pytest.raises(OSError, match="No space"):
        save(folder, seed=2)
    assert load_neurovae(folder)[1] == new


def test_a_byte_that_changed_in_a_snapshot_is_noticed(tmp_path):
    save_snapshot(tmp_path, RUN, 7, weights(), CONFIG)
    file = tmp_path / "snapshot-7.safetensors"
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)

    with pytest.raises(CheckpointError, match=r"snapshot-7.safetensors: .* sha256"):
        load_snapshot(tmp_path, RUN, CONFIG)


def test_a_snapshot_of_before_hashes_were_kept_is_still_read(tmp_path):
    save_snapshot(tmp_path, RUN, 7, weights(), CONFIG)
    path = tmp_path / "snapshot.json"
    said = msgspec.json.decode(path.read_bytes())
    del said["sha256"]
    path.write_bytes(msgspec.json.encode(said))

    snapshot, tensors = load_snapshot(tmp_path, RUN, CONFIG)

    assert (snapshot.step, snapshot.sha256) == (7, None)
    assert tensors.keys() == weights().keys()


@pytest.mark.parametrize("step", [-5, 99])
def test_a_step_that_the_run_cannot_have_taken_is_refused(tmp_path, step):
    save_snapshot(tmp_path, RUN, 7, weights(), CONFIG)
    path = tmp_path / "snapshot.json"
    said = msgspec.json.decode(path.read_bytes()) | {"step": step}
    path.write_bytes(msgspec.json.encode(said))

    with pytest.raises(CheckpointError, match=r"snapshot.json: .*step"):
        load_snapshot(tmp_path, RUN, CONFIG, steps=12)
