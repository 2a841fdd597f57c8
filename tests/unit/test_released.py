"""The authors' released files: what becomes of them, and which are refused."""

import argparse
import contextlib
import hashlib
import resource
import types

import pytest
import torch

import neuroflow
from runtime.errors import ConfigError, UsageError
from tests.released_files import (
    CONFIG,
    FLAGS,
    SAVE,
    drawn,
    fetched,
    flow_content,
    refusal,
    vae_content,
)
from training import released
from training.checkpoint import load_flow, load_neurovae
from training.config import PRESETS, config_from_preset
from training.neurovae import NeuroVAE
from training.released import import_released
from training.sit import SiT
from verbs import import_checkpoint


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Subject 1 is of the small preset."""
    monkeypatch.setattr(released, "config_of_subject", lambda _subject: CONFIG)


@pytest.fixture
def files(tmp_path):
    return fetched(tmp_path)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_both_files_become_checkpoints_of_this_project(files, tmp_path):
    first, second = import_released(*files, tmp_path / "out", 1)

    vae, vae_manifest = load_neurovae(tmp_path / "out" / "vae")
    field, flow_manifest = load_flow(tmp_path / "out" / "flow")
    # drawn() seeds what it draws: the same again is what was saved.
    for loaded, saved in (
        (vae.state_dict(), drawn(NeuroVAE(CONFIG.vae), 1)),
        (field.state_dict(), drawn(SiT(CONFIG.flow), 3)),
    ):
        assert loaded.keys() == saved.keys()
        assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert (vae_manifest, flow_manifest) == (first, second)
    assert (first.step, first.seed, first.stage) == (0, CONFIG.vae_training.seed, "vae")
    assert (second.step, second.seed) == (50_000, CONFIG.flow_training.seed)
    assert second.vae_fingerprint == first.fingerprint
    assert second.config.flow_training.path == "cos"
    assert first.imported == released.Origin(
        file="last.pth", field="model", sha256=sha256(files[0])
    )
    assert second.imported == released.Origin(
        file="last.pt", field="ema", sha256=sha256(files[1])
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "last.pth", "out"]


def test_a_released_subject_has_the_published_configuration(monkeypatch):
    monkeypatch.undo()

    voxels = {s: released.config_of_subject(s).vae.voxels for s in (1, 2, 5, 7)}

    assert voxels == {1: 15_724, 2: 14_278, 5: 13_039, 7: 12_682}
    assert all(
        released.config_of_subject(s).flow_training.path == "cos" for s in voxels
    )
    with pytest.raises(
        UsageError, match="subject: expected one of 1, 2, 5, 7, found 3"
    ):
        released.config_of_subject(3)


def test_the_prefix_of_data_parallel_training_is_taken_away(files, tmp_path):
    for path, content, field in (
        (files[0], vae_content(), "model"),
        (files[1], flow_content(), "ema"),
    ):
        content[field] = {f"module.{k}": v for k, v in content[field].items()}
        torch.save(content, path)

    import_released(*files, tmp_path / "out", 1)

    vae, _ = load_neurovae(tmp_path / "out" / "vae")
    saved = drawn(NeuroVAE(CONFIG.vae), 1)
    assert all(torch.equal(v, saved[k]) for k, v in vae.state_dict().items())


@pytest.mark.parametrize("args", [None, FLAGS, argparse.Namespace()])
def test_flags_may_be_missing_or_a_plain_dictionary(files, tmp_path, args):
    torch.save(flow_content(args=args), files[1])

    import_released(*files, tmp_path / "out", 1)

    assert load_flow(tmp_path / "out" / "flow")[1].step == 50_000


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("subject", 2, "args.subject: expected 1, found 2"),
        ("path_type", "linear", "args.path_type: expected cosine, found linear"),
        ("prediction", "x", "args.prediction: expected v, found x"),
        ("model_depth", 8, "args.model_depth: expected 2, found 8"),
        ("model_head", 4, "args.model_head: expected 3, found 4"),
        ("qk_norm", True, "args.qk_norm: expected False, found True"),
        ("zscore_clip", True, "args.zscore_clip: expected False, found True"),
        ("subject", True, "args.subject: expected 1, found True"),
        ("subject", "\x1b[2J", r"args.subject: expected 1, found \x1b[2J"),
    ],
)
def test_another_way_of_training_is_refused(files, flag, value, message):
    torch.save(flow_content(args=argparse.Namespace(**FLAGS | {flag: value})), files[1])

    assert refusal(files) == f"{files[1]}: {message}"


BIAS = "post_proj.bias"
PROJECTION = "encoder.subj_proj.fc1.weight"


def transformed(change):
    def spoil(weights):
        weights[BIAS] = change(weights[BIAS])

    return spoil


def with_nan(tensor):
    tensor[3] = torch.nan
    return tensor


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w.pop(BIAS), f"model.{BIAS}: expected a tensor, found none"),
        (
            lambda w: w.update({BIAS: [1.0]}),
            f"model.{BIAS}: expected a tensor, found list",
        ),
        (
            lambda w: w.update(extra=torch.ones(1)),
            "model.extra: expected no such tensor among the N of this model, found one",
        ),
        (
            lambda w: w.update({"a\nb\x1b": torch.ones(1)}),
            r"model.a\nb\x1b: expected no such tensor among the N of this model, "
            "found one",
        ),
        (
            lambda w: w.update({"module.extra": torch.ones(1)}),
            "model.module.extra: expected no such tensor among the N of this model, "
            "found one",
        ),
        (
            lambda w: w.update({BIAS: torch.ones(9)}),
            f"model.{BIAS}: expected (8,), found (9,)",
        ),
        (
            lambda w: w.update({PROJECTION: torch.ones(24, 14_278)}),
            f"model.{PROJECTION}: expected (24, 37), found (24, 14278); subject 2 has "
            "14278 voxels",
        ),
        (
            lambda w: w.update({PROJECTION: torch.ones(24, 12_682)}),
            f"model.{PROJECTION}: expected (24, 37), found (24, 12682); subject 7 has "
            "12682 voxels",
        ),
        (
            transformed(torch.Tensor.half),
            f"model.{BIAS}: expected torch.float32, found torch.float16",
        ),
        (
            transformed(torch.Tensor.double),
            f"model.{BIAS}: expected torch.float32, found torch.float64",
        ),
        (
            transformed(torch.Tensor.to_sparse),
            f"model.{BIAS}: expected plain values, found torch.sparse_coo on cpu",
        ),
        (
            transformed(lambda tensor: tensor.to("meta")),
            f"model.{BIAS}: expected plain values, found torch.strided on meta",
        ),
        (
            transformed(with_nan),
            f"model.{BIAS}: expected finite values, found NaN or infinity",
        ),
        (
            transformed(lambda tensor: tensor / 0),
            f"model.{BIAS}: expected finite values, found NaN or infinity",
        ),
        (
            lambda w: w.update({"pre_proj2.bias": w["decoder.conv_out.bias"]}),
            "model.pre_proj2.bias: expected values of its own, found those of "
            "decoder.conv_out.bias",
        ),
    ],
)
def test_weights_of_another_model_are_refused(files, spoil, message):
    content = vae_content()
    n = len(content["model"])
    spoil(content["model"])
    torch.save(content, files[0])

    assert refusal(files) == f"{files[0]}: {message}".replace("the N of", f"the {n} of")


def test_the_flow_is_checked_like_neurovae(files):
    content = flow_content()
    content["ema"]["blocks.1.attn.qkv.bias"][0] = torch.inf
    torch.save(content, files[1])

    assert refusal(files) == (
        f"{files[1]}: ema.blocks.1.attn.qkv.bias: expected finite values, "
        "found NaN or infinity"
    )


def test_the_weights_that_inference_does_not_use_do_not_matter(files, tmp_path):
    torch.save(flow_content(model=None), files[1])

    import_released(*files, tmp_path / "out", 1)

    assert (tmp_path / "out" / "flow" / "config.json").is_file()


@pytest.mark.parametrize(
    ("which", "content", "message"),
    [
        (0, {"state_dict": {}}, "expected the field model, found state_dict"),
        (0, {}, "expected the field model, found none"),
        (0, {"model": [1]}, "model: expected tensors by name, found list"),
        (0, [1], "expected a dictionary at its top, found list"),
        (0, torch.ones(1), "expected a dictionary at its top, found Tensor"),
        (1, {"ema": {}}, "steps: expected a number, found none"),
        (1, {"ema": {}, "steps": 1.5}, "steps: expected a number, found 1.5"),
        (1, {"ema": {}, "steps": True}, "steps: expected a number, found True"),
        (1, {"ema": {}, "steps": -1}, "steps: expected a number, found -1"),
        (
            1,
            {"model": {}, "steps": 1},
            "expected the field ema, found model, steps",
        ),
        (
            1,
            {"ema": {}, "steps": 1},
            "ema.pos_embed: expected a tensor, found none",
        ),
        (1, {"steps": 1, "args": 3}, "args: expected flags, found int"),
    ],
)
def test_another_layout_is_refused(files, which, content, message):
    torch.save(content, files[which])

    assert refusal(files) == f"{files[which]}: {message}"


def test_the_two_files_in_each_others_place_are_refused(files):
    assert refusal((files[1], files[0])) == (
        f"{files[1]}: model.encoder.conv_in.weight: expected a tensor, found none"
    )


def test_a_folder_with_content_is_left_alone(files, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("mine")

    with pytest.raises(UsageError, match="expected no folder or an empty one"):
        import_released(*files, tmp_path / "out", 1)

    assert [p.name for p in (tmp_path / "out").iterdir()] == ["kept"]


def test_an_empty_folder_is_filled(files, tmp_path):
    (tmp_path / "out").mkdir()

    import_released(*files, tmp_path / "out", 1)

    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["flow", "vae"]


def test_a_disk_that_takes_no_more_is_one_line_and_leaves_nothing(files, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        line = refusal(files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert "weights.safetensors: expected to write it, found " in line


def cli(monkeypatch, *words):
    stages = []
    shown = contextlib.nullcontext(types.SimpleNamespace(stage=stages.append))
    monkeypatch.setattr(import_checkpoint, "screen", lambda: shown)
    monkeypatch.setattr(
        "sys.argv", ["neuroflow", "import-checkpoint", *map(str, words)]
    )
    return neuroflow.main(), stages


def test_the_verb_writes_both_and_prints_where(files, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"

    status, stages = cli(
        monkeypatch,
        *("--neurovae", files[0], "--xfm", files[1], "--subject", 1, "--out", out),
    )

    assert (status, len(stages)) == (0, 3)
    assert capsys.readouterr().out.splitlines() == [f"{out}/vae", f"{out}/flow"]
    assert load_neurovae(out / "vae")[1].imported is not None


def test_the_verb_refuses_with_one_line_and_status_1(
    files, tmp_path, monkeypatch, capsys
):
    files[1].write_text("<html>")

    status, _ = cli(
        monkeypatch,
        *("--neurovae", files[0], "--xfm", files[1], "--subject", 1),
        *("--out", tmp_path / "out"),
    )

    said = capsys.readouterr().err
    assert status == 1
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"neuroflow: {files[1]}: {SAVE} a web page")


def test_the_verb_knows_the_released_subjects_only(files, tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as caught:
        cli(
            monkeypatch,
            *("--neurovae", files[0], "--xfm", files[1], "--subject", 3),
            *("--out", tmp_path / "out"),
        )

    assert caught.value.code == 2
    assert not (tmp_path / "out").exists()


def test_an_unknown_preset_cannot_be_meant():
    assert set(released.SUBJECTS.values()) <= set(PRESETS)
    with pytest.raises(ConfigError):
        config_from_preset("paper-subj03")
