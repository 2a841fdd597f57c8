import pickle

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from runtime.errors import CheckpointError
from training.checkpoint import load_flow, load_neurovae, save_checkpoint
from training.config import config_from_preset
from training.neurovae import NeuroVAE
from training.sit import SiT

CONFIG = config_from_preset("tiny")


def written(folder, **changes):
    torch.manual_seed(0)
    weights = NeuroVAE(CONFIG.vae).state_dict() | changes
    return save_checkpoint(folder, weights, CONFIG, stage="vae", seed=5, step=9)


def test_what_was_saved_is_what_is_loaded(tmp_path):
    manifest = written(tmp_path)

    vae, found = load_neurovae(tmp_path)

    torch.manual_seed(0)
    expected = NeuroVAE(CONFIG.vae).state_dict()
    assert found == manifest
    assert (found.seed, found.step, found.config) == (5, 9, CONFIG)
    assert set(found.versions) == {"python", "safetensors", "torch"}
    assert all(torch.equal(v, expected[k]) for k, v in vae.state_dict().items())
    assert not vae.training


def test_a_flow_remembers_whose_latents_it_learned(tmp_path):
    save_checkpoint(
        tmp_path,
        SiT(CONFIG.flow).state_dict(),
        CONFIG,
        stage="flow",
        seed=0,
        step=1,
        vae_fingerprint="abc",
    )

    field, manifest = load_flow(tmp_path)

    assert manifest.vae_fingerprint == "abc"
    assert not field.pos_embed.requires_grad


def test_the_fingerprint_is_a_function_of_weights_and_configuration(tmp_path):
    first, again = written(tmp_path / "a"), written(tmp_path / "b")
    other = written(tmp_path / "c", **{"post_proj.bias": torch.ones(8)})

    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint


def test_changed_weights_or_configuration_are_noticed(tmp_path):
    for part in ("weights", "config"):
        folder = tmp_path / part
        manifest = written(folder)
        if part == "weights":
            weights = NeuroVAE(CONFIG.vae).state_dict()
            save_file(weights, folder / "weights.safetensors")
        else:
            other = config_from_preset("tiny", voxels=38)
            changed = msgspec.structs.replace(manifest, config=other)
            (folder / "config.json").write_bytes(msgspec.json.encode(changed))

        with pytest.raises(
            CheckpointError, match=r"expected fingerprint \w+ .*, found "
        ):
            load_neurovae(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda w: w.pop("post_proj.bias"),
            "expected tensor post_proj.bias, found none",
        ),
        (
            lambda w: w.update({"post_proj.bias": torch.ones(9)}),
            "post_proj.bias: expected torch.float32 (8,), found torch.float32 (9,)",
        ),
        (
            lambda w: w.update(extra=torch.ones(1)),
            "expected 162 tensors of this model, found also extra",
        ),
    ],
)
def test_weights_of_another_model_are_named(tmp_path, spoil, message):
    weights = NeuroVAE(CONFIG.vae).state_dict()
    n = len(weights)
    spoil(weights)
    save_checkpoint(tmp_path, weights, CONFIG, stage="vae", seed=0, step=0)

    with pytest.raises(CheckpointError) as caught:
        load_neurovae(tmp_path)

    expected = message.replace("162", str(n))
    assert str(caught.value) == f"{tmp_path}/weights.safetensors: {expected}"


def test_a_pickle_is_refused_unopened_whatever_its_name(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "last.pth")
    written(tmp_path / "a")
    torch.save({"a": torch.ones(1)}, tmp_path / "a" / "weights.safetensors")
    written(tmp_path / "b")
    (tmp_path / "b" / "weights.safetensors").write_bytes(pickle.dumps([1]))

    for path, file in (
        ("last.pth", "last.pth"),
        ("a", "a/weights.safetensors"),
        ("b", "b/weights.safetensors"),
    ):
        with pytest.raises(CheckpointError) as caught:
            load_neurovae(tmp_path / path)
        assert str(caught.value) == (
            f"{tmp_path}/{file}: expected safetensors, found a pickle, which can run "
            "code when it is opened. Train it here, or convert its tensors to "
            "safetensors."
        )


def test_a_missing_or_foreign_checkpoint_is_one_clear_line(tmp_path):
    written(tmp_path / "vae")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut").mkdir()
    written(tmp_path / "cut")
    whole = (tmp_path / "cut/weights.safetensors").read_bytes()
    (tmp_path / "cut/weights.safetensors").write_bytes(whole[:-9])

    for load, folder, message in (
        (load_flow, "vae", "config.json: expected stage flow, found vae"),
        (load_neurovae, "empty", "found no config.json"),
        (load_neurovae, "nowhere", "found no folder"),
        (load_neurovae, "cut", "found a damaged file"),
    ):
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path / folder)
        assert message in str(caught.value)
