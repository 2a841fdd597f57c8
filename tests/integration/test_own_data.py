"""Anybody's data by the command line: voxels, token grids, few trials, added trials."""

import contextlib
import io
import re
import subprocess
import sys
from itertools import compress
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file, save_file

import neuroflow
from runtime.errors import (
    ConfigError,
    RecordingError,
    TensorMismatchError,
    UsageError,
)
from runtime.manifest import affine_rows
from runtime.preprocess.mask import VoxelMask
from runtime.recording import open_recording
from tests.in_process import said
from tests.participants import tiny_participant
from training.checkpoint import load_flow, load_neurovae, read_manifest
from training.compute import Compute
from training.config import (
    FlowTraining,
    ModelConfig,
    NeuroVAEConfig,
    SiTConfig,
    VAETraining,
)
from training.data.manifest import Split, TrialsManifest, VisualSource
from training.data.store import open_trials
from training.data.writer import TrialsWriter
from training.fit import DivergedError
from training.learned_from import noted_subject
from training.stimuli import open_stimuli, read_table
from verbs.progress import Screen

# Training, and a participant's betas.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TRIALS, IMAGES = 30, 12


def config(voxels: int, tokens: int, width: int, **shape) -> ModelConfig:
    """A model of these sizes that trains in a second."""
    sizes = {"channels": tokens, "channel_multipliers": (1,), "downsamplings": 0}
    sizes |= {"groups": 1} | shape
    return ModelConfig(
        preset="own",
        vae=NeuroVAEConfig(
            voxels=voxels,
            tokens=tokens,
            width=width,
            hidden=8,
            blocks=1,
            **sizes,
        ),
        flow=SiTConfig(tokens=tokens, width=width, depth=1, heads=2, frequencies=8),
        centre_latents=True,
        vae_training=VAETraining(epochs=2, batch=6, first_layer="ridge"),
        flow_training=FlowTraining(steps=4, batch=6),
    )


def write_config(file: Path, chosen: ModelConfig, **changes) -> Path:
    changed = msgspec.structs.replace(chosen, **changes)
    file.write_bytes(msgspec.json.encode(changed))
    return file


def write_trials(folder: Path, voxels: int, tokens: int, width: int) -> Path:
    """Prepared trials: 24 to learn from, of ten pictures, and six of two others."""
    rng = np.random.default_rng(voxels)
    mask = VoxelMask.from_volume(np.ones((voxels, 1, 1), dtype=bool))
    image = np.concatenate([np.arange(24) % 9, [10, 11] * 3])
    manifest = TrialsManifest(
        source="nsd",
        subject="own",
        voxels=voxels,
        mask_sha256=mask.sha256,
        affine=affine_rows(np.eye(4)),
        betas="nsd",
        betas_detail="",
        normalisation="session-train",
        groups=("a",),
        runs=("1",),
        splits={"train": Split(first=0, trials=24), "test": Split(first=24, trials=6)},
        image_ids=tuple(f"image-{i}" for i in range(IMAGES)),
        visual=VisualSource(name="file", detail=""),
        files={},
    )
    writer = TrialsWriter(folder, manifest, TRIALS, (IMAGES, tokens, width), "float32")
    writer.write_statistics(0, np.zeros(voxels, "f4"), np.ones(voxels, "f4"))
    rows = np.arange(TRIALS)
    writer.write_voxels(rows, rng.standard_normal((TRIALS, voxels), dtype="f4"), 0)
    writer.write_latents(0, rng.standard_normal((IMAGES, tokens, width), dtype="f4"))
    zeros = np.zeros(TRIALS, dtype=np.int64)
    indices = {"image": image, "group": zeros, "run": zeros, "position": rows}
    writer.finish(indices, np.arange(9), {"mask": mask.volume()})
    return folder


def train(trials: Path, chosen: Path, out: Path, **more) -> None:
    """Train both stages by the command line's own function."""
    common = {"trials": trials, "config": chosen, **more}
    neuroflow.train("vae", out=out / "vae", **common)
    neuroflow.train("flow", out=out / "flow", vae=out / "vae", **common)


@pytest.mark.parametrize(
    ("voxels", "tokens", "width", "shape"),
    [
        (19, 6, 10, {}),
        (1, 1, 2, {}),
        (503, 5, 14, {}),
        (
            19,
            6,
            10,
            {"channels": 3, "channel_multipliers": (1, 2), "downsamplings": 1},
        ),
        (40, 12, 6, {"channels": 6, "channel_multipliers": (1, 2), "groups": 3}),
        (
            7,
            16,
            4,
            {"channels": 4, "channel_multipliers": (1, 2, 4), "downsamplings": 2},
        ),
    ],
)
def test_any_voxel_count_and_any_token_grid_trains(
    voxels, tokens, width, shape, tmp_path
):
    trials = write_trials(tmp_path / "trials", voxels, tokens, width)
    chosen = write_config(tmp_path / "c.json", config(voxels, tokens, width, **shape))

    train(trials, chosen, tmp_path)

    vae, _ = load_neurovae(tmp_path / "vae")
    field, _ = load_flow(tmp_path / "flow")
    assert (vae.config.voxels, vae.config.tokens, vae.config.width) == (
        voxels,
        tokens,
        width,
    )
    assert (field.config.tokens, field.config.width) == (tokens, width)


@pytest.mark.parametrize(
    ("sizes", "line"),
    [
        ((20, 6, 10), "trials.voxels: expected 20 voxels as vae.voxels, found 19"),
        (
            (19, 5, 10),
            "trials.latents: expected 5 tokens of width 10 as in vae, "
            "found 6 of width 10",
        ),
        (
            (19, 6, 12),
            "trials.latents: expected 6 tokens of width 12 as in vae, "
            "found 6 of width 10",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(sizes, line, tmp_path):
    trials = write_trials(tmp_path / "trials", 19, 6, 10)
    chosen = write_config(tmp_path / "c.json", config(*sizes))

    with pytest.raises(TensorMismatchError) as caught:
        neuroflow.train("vae", out=tmp_path / "vae", trials=trials, config=chosen)

    assert str(caught.value) == line


def test_fewer_trials_than_a_batch_are_one_line(tmp_path):
    trials = write_trials(tmp_path / "trials", 19, 6, 10)
    large = msgspec.structs.replace(config(19, 6, 10).vae_training, batch=25)
    chosen = write_config(tmp_path / "c.json", config(19, 6, 10), vae_training=large)

    with pytest.raises(ConfigError, match="batch: expected at most the 24 trials"):
        neuroflow.train("vae", out=tmp_path / "vae", trials=trials, config=chosen)


def test_a_recording_takes_any_grid_of_its_own_backbone_and_no_other(tmp_path):
    recording = tiny_participant()
    voxels = open_recording(recording).mask.voxels
    # 32 pixels in patches of 2 and of 8.
    for tokens, width in ((4, 768), (64, 48)):
        chosen = write_config(tmp_path / "c.json", config(voxels, tokens, width))
        out = tmp_path / f"vae-{tokens}"
        neuroflow.train("vae", out=out, recording=recording, config=chosen)
        assert load_neurovae(out)[1].config.vae.tokens == tokens
    chosen = write_config(tmp_path / "c.json", config(voxels, 6, 10))

    with pytest.raises(ConfigError, match=r"found 6 tokens of width 10"):
        neuroflow.train("vae", out=tmp_path / "no", recording=recording, config=chosen)


def shown_names(recording: Path) -> set[str]:
    runs = open_recording(recording).runs
    return {event.stimulus_id for run in runs for event in run.events}


def picture_names(recording: Path) -> list[str]:
    """What events show and what retrieval may answer with, in the file's order."""
    table = read_table(recording)
    return sorted(shown_names(recording).union(compress(table.ids, table.in_gallery)))


def test_z_v_made_elsewhere_gives_a_bids_recording_any_grid(tmp_path):
    recording, rng = tiny_participant(), np.random.default_rng(0)
    names = picture_names(recording)
    latents = rng.standard_normal((len(names), 6, 10)).astype(np.float16)
    np.save(tmp_path / "z_v.npy", latents)

    neuroflow.prepare_bids(
        recording=recording,
        out=tmp_path / "trials",
        delay=8.0,
        latents=tmp_path / "z_v.npy",
    )

    opened = open_trials(tmp_path / "trials", whole=True)
    assert opened.arrays["latents"].dtype == np.float16
    for row, name in enumerate(opened.manifest.image_ids):
        wanted = latents[names.index(name)]
        assert np.array_equal(opened.arrays["latents"][row], wanted), name
    voxels = opened.manifest.voxels
    chosen = write_config(tmp_path / "c.json", config(voxels, 6, 10))
    train(tmp_path / "trials", chosen, tmp_path)
    load_flow(tmp_path / "flow")

    np.save(tmp_path / "z_v.npy", latents[1:])
    with pytest.raises(
        RecordingError,
        match=rf"rows: expected {len(names)}, one per picture that an event shows",
    ):
        neuroflow.prepare_bids(
            recording=recording,
            out=tmp_path / "other",
            latents=tmp_path / "z_v.npy",
        )


def test_trials_are_added_stop_early_and_the_checkpoints_say_so(tmp_path, monkeypatch):
    heard = io.StringIO()

    @contextlib.contextmanager
    def screen(*, is_quiet):
        yield Screen(Console(file=heard, width=200, force_terminal=False))

    monkeypatch.setattr("verbs.train.screen", screen)
    trials = write_trials(tmp_path / "trials", 19, 6, 10)
    chosen = write_config(tmp_path / "c.json", config(19, 6, 10), validation_share=0.25)
    train(trials, chosen, tmp_path / "first")
    heard.truncate(0)

    train(trials, chosen, tmp_path / "more", augment=12, encoder=tmp_path / "first")

    said = heard.getvalue()
    # Row 9 is the one picture of the folder that no trial shows.
    line = "12 synthetic trials beside 24 measured ones, pictures: 1"
    assert said.count(line) == 2
    assert said.count("on 2 held-out images") == 2
    for stage in ("vae", "flow"):
        made = read_manifest(tmp_path / "more" / stage, stage)
        assert made.synthetic.trials == 12
        for part in ("vae", "flow"):
            encoder = read_manifest(tmp_path / "first" / part, part)
            assert getattr(made.synthetic, part) == encoder.fingerprint
        # Of nine measured pictures; each is shown two or three times.
        assert made.stopped.images == 2
        assert 4 <= made.stopped.trials <= 6
        assert read_manifest(tmp_path / "first" / stage, stage).synthetic is None


def test_pictures_of_the_test_are_refused_and_others_taken(tmp_path):
    trials = write_trials(tmp_path / "trials", 19, 6, 10)
    chosen = write_config(tmp_path / "c.json", config(19, 6, 10))
    train(trials, chosen, tmp_path / "first")
    stored = np.load(trials / "latents.npy")
    asked = {"trials": trials, "config": chosen, "augment": 4}
    asked |= {"encoder": tmp_path / "first", "pictures": tmp_path / "p.npy"}
    fresh = np.random.default_rng(1).standard_normal((3, 6, 10)).astype(np.float32)

    np.save(tmp_path / "p.npy", np.concatenate([fresh, stored[10:]]))
    with pytest.raises(UsageError, match=r"found 2 of them, the first row 3\. Leave"):
        neuroflow.train("vae", out=tmp_path / "no", **asked)
    assert not (tmp_path / "no").exists()
    np.save(tmp_path / "p.npy", fresh)
    neuroflow.train("vae", out=tmp_path / "vae", **asked)

    assert read_manifest(tmp_path / "vae", "vae").synthetic.pictures == 3


def test_a_recordings_own_unseen_pictures_or_a_folder_of_others(tmp_path):
    recording = tiny_participant()
    voxels = open_recording(recording).mask.voxels
    chosen = write_config(tmp_path / "c.json", config(voxels, 16, 192))
    common = {"recording": recording, "config": chosen}
    neuroflow.train("vae", out=tmp_path / "a" / "vae", **common)
    neuroflow.train(
        "flow", out=tmp_path / "a" / "flow", vae=tmp_path / "a" / "vae", **common
    )
    asked = common | {"augment": 40, "encoder": tmp_path / "a"}

    neuroflow.train("vae", out=tmp_path / "own", **asked)
    stimuli = open_stimuli(recording)
    unseen = set(stimuli.ids) - shown_names(recording)
    made = read_manifest(tmp_path / "own", "vae").synthetic
    assert made.pictures == min(len(unseen), 40) > 0

    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    neuroflow.train("vae", out=tmp_path / "others", pictures=folder, **asked)
    assert read_manifest(tmp_path / "others", "vae").synthetic.pictures == 3

    events = [e for run in open_recording(recording).runs for e in run.events]
    name = next(e.stimulus_id for e in events if e.split == "test")
    Image.fromarray(stimuli.pixels[stimuli.row(name)]).save(folder / "seen.png")
    with pytest.raises(UsageError, match=r"found 1 of them, the first seen\.png"):
        neuroflow.train("vae", out=tmp_path / "no", pictures=folder, **asked)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"encoder": Path("x")}, "--encoder: expected with --augment alone"),
        ({"pictures": Path("x")}, "--pictures: expected with --augment alone"),
        ({"augment": 3}, "--augment: expected --encoder with checkpoints"),
        (
            {"augment": 0, "encoder": Path("x")},
            "--augment: expected at least 1, found 0",
        ),
        (
            {"preset": "demo", "config": Path("x")},
            r"--preset: expected without --config, which is a whole configuration, "
            r"found both\. Leave one out\.$",
        ),
    ],
)
def test_flags_that_need_each_other_or_none_are_wrong_usage(flags, line, tmp_path):
    with pytest.raises(UsageError, match=line):
        neuroflow.train("vae", out=tmp_path / "o", trials=tmp_path, **flags)


def test_a_diverging_run_ends_with_1_its_step_and_what_to_do(tmp_path):
    trials = write_trials(tmp_path / "trials", 19, 6, 10)
    wild = msgspec.structs.replace(
        config(19, 6, 10).vae_training, learning_rate=1e30, epochs=9
    )
    chosen = write_config(
        tmp_path / "c.json",
        config(19, 6, 10),
        vae_training=wild,
        validation_share=0.25,
    )
    out = tmp_path / "vae"

    done = subprocess.run(
        [
            *(sys.executable, "-m", "neuroflow", "train", "vae", "--trials", trials),
            *("--config", chosen, "--out", out),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("neuroflow: vae step ")
    assert last.endswith(
        ". No earlier step is kept: begin anew with a lower learning rate (--config)"
    )
    assert "Traceback" not in done.stderr
    assert not (out / "config.json").exists()


def test_what_a_diverged_run_leaves_says_what_it_was_learned_from(
    tmp_path, monkeypatch
):
    trials, out = write_trials(tmp_path / "trials", 19, 6, 10), tmp_path / "vae"
    chosen, wild = (
        write_config(
            tmp_path / f"{name}.json",
            config(19, 6, 10),
            vae_training=VAETraining(epochs=2, batch=6, learning_rate=rate),
        )
        for name, rate in (("calm", 1e-4), ("wild", 1e30))
    )

    def interrupted(_screen, progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Screen, "training", interrupted)
        with pytest.raises(KeyboardInterrupt):
            neuroflow.train("vae", trials=trials, config=chosen, out=out)
    with pytest.raises(DivergedError, match="goes on from step 3, whose weights are"):
        neuroflow.train("vae", trials=trials, config=wild, out=out)

    # So that export compares it, and knows the estimator where there is one.
    assert noted_subject(out / "last_good") == "own"
    assert not (out / "config.json").exists()
    assert read_manifest(out / "last_good", "vae").step == 3
    neuroflow.train("vae", trials=trials, config=chosen, out=out)
    assert read_manifest(out, "vae").step == 8


def diverged(monkeypatch, calm, wild, *arguments):
    """What the command line says of a run that a high rate ends after a snapshot."""

    def interrupted(_screen, progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        # Ctrl-C, which leaves a snapshot.
        patched.setattr(Screen, "training", interrupted)
        status, _, error = said("train", *arguments, "--config", calm)
    assert status != 0
    assert error.endswith("neuroflow: interrupted\n")
    status, out, error = said("train", *arguments, "--config", wild)
    assert status == 1
    assert out == ""
    assert "Traceback" not in error
    (line,) = [x for x in error.splitlines() if x.startswith("neuroflow: ")]
    return line


def test_the_last_good_weights_of_both_stages_are_kept_and_exported(
    tmp_path, monkeypatch
):
    trials = write_trials(tmp_path / "trials", 19, 6, 10)
    stages = {
        "vae_training": VAETraining(epochs=2, batch=6),
        "flow_training": FlowTraining(steps=8, batch=6),
    }
    chosen = msgspec.structs.replace(config(19, 6, 10), **stages)
    calm = write_config(tmp_path / "calm.json", chosen)
    # The rate of the stage alone may change.
    wild = {
        name: write_config(
            tmp_path / f"{name}.json",
            chosen,
            **{name: msgspec.structs.replace(training, learning_rate=1e30)},
        )
        for name, training in stages.items()
    }
    vae, flow = tmp_path / "vae", tmp_path / "flow"

    for stage, out, more in (
        ("vae", vae, ()),
        ("flow", flow, ("--vae", vae / "last_good")),
    ):
        asked = (stage, "--trials", trials, *more, "--out", out)
        line = diverged(monkeypatch, calm, wild[f"{stage}_training"], *asked)

        advice = (
            "With a lower learning rate (--config) the same command goes on from step "
            f"3, whose weights are a checkpoint in {out / 'last_good'}"
        )
        wanted = rf"neuroflow: {stage} step [45]: expected a finite (loss|gradient "
        wanted += rf"norm), found (nan|inf)\. {re.escape(advice)}"
        assert re.fullmatch(wanted, line), line
        kept = read_manifest(out / "last_good", stage)
        assert kept.step == 3
        assert not (out / "config.json").exists()

    # A process of its own: the exporter leaves threads.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "neuroflow", "export", "--trials", trials),
            *("--vae", vae / "last_good", "--flow", flow / "last_good"),
            *("--out", tmp_path / "out"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "out" / "bundle")]
    status, _, error = said("verify", tmp_path / "out" / "bundle")
    assert status == 0, error


def test_a_slow_precision_is_said_once_before_training(tmp_path, monkeypatch):
    trials = write_trials(tmp_path / "trials", 19, 6, 10)
    chosen = write_config(tmp_path / "c.json", config(19, 6, 10))
    monkeypatch.setattr(Compute, "slow_on", lambda self, _: f"slow: {self.precision}")
    said = []
    monkeypatch.setattr(Screen, "say", lambda _screen, line: said.append(line))

    neuroflow.train(
        "vae", trials=trials, config=chosen, out=tmp_path / "vae", precision="bf16"
    )

    assert said == ["slow: bf16"]


def test_a_checkpoint_of_before_opens_as_it_did(tmp_path):
    trials = write_trials(tmp_path / "trials", 19, 6, 10)
    chosen = write_config(tmp_path / "c.json", config(19, 6, 10))
    neuroflow.train("vae", out=tmp_path / "vae", trials=trials, config=chosen)
    manifest = msgspec.json.decode((tmp_path / "vae/config.json").read_bytes())
    for name in ("stopped", "synthetic"):
        del manifest[name]
    del manifest["config"]["validation_share"]
    for stage in ("vae_training", "flow_training"):
        for name in ("token_dropout", "patience"):
            del manifest["config"][stage][name]
    (tmp_path / "vae/config.json").write_bytes(msgspec.json.encode(manifest))

    vae, opened = load_neurovae(tmp_path / "vae")

    assert opened.stopped is None
    weights = load_file(tmp_path / "vae/weights.safetensors")
    assert set(weights) == set(vae.state_dict())
    # And what was changed is still found.
    weights["pre_proj2.bias"] += 1
    save_file(weights, tmp_path / "vae/weights.safetensors")
    with pytest.raises(Exception, match="expected fingerprint"):
        load_neurovae(tmp_path / "vae")
