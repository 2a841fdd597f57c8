"""The way of docs/training.md from raw files to a bundle, typed as the page shows it.

The commands and what they print are taken from the page. What they made is then looked
at, spoiled, and mixed up.
"""

import fcntl
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import msgspec
import numpy as np
import pytest

from runtime.bundle import open_bundle
from runtime.estimator import BetaEstimator, ExternalEstimator
from runtime.gallery import open_gallery
from runtime.model import open_model
from tests.console_blocks import missing_lines, section, shown_in
from tests.forked import command_line
from tests.in_process import said
from training.checkpoint import load_neurovae, save_checkpoint
from training.config import config_from_preset
from training.data.store import open_trials
from training.learned_from import NOTE
from training.metrics.report import from_json
from training.metrics.result import Value
from training.stimuli import open_stimuli

# Two trainings of two stages each, by as many processes as there are commands.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "training.md"
HEADING = "From raw files to a bundle, step by step"


WITH_TORCH = {"prepare-nsd", "prepare-bids", "train", "export", "evaluate"}
"""Verbs whose interpreter would import torch, which a forked process has already."""


def brief(trials):
    """The default configuration, trained for as long as the figures of trials need.

    Those of the person are compared with themselves, whatever they are.
    """
    config = config_from_preset("demo", voxels=open_trials(trials).manifest.voxels)
    replaced = msgspec.structs.replace
    is_person = trials.name == "person"
    epochs = 2 if is_person else config.vae_training.epochs
    steps = 20 if is_person else 100
    return replaced(
        config,
        vae_training=replaced(config.vae_training, epochs=epochs),
        flow_training=replaced(config.flow_training, steps=steps, batch=32),
    )


def typed(command, folder):
    """Run a line with this checkout's programs; return its status and all it said."""
    name, *arguments = command.split()
    if arguments[0] == "train":
        trials = folder / arguments[arguments.index("--trials") + 1]
        file = folder / f"{trials.name}.json"
        file.write_bytes(msgspec.json.encode(brief(trials)))
        arguments += ["--config", str(file)]
    if arguments[0] in WITH_TORCH:
        return command_line(folder, *arguments)
    if arguments[0] == "serve":
        # The page's port may be somebody else's here.
        arguments += ["--address", "tcp://127.0.0.1:*"]
    program = {"neuroflow": ["-m", "neuroflow"], "python": []}[name]
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python'}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """Type the page's commands in an empty folder; return it and what was said.

    Processes that share the tests share the walk.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, record = root / "walk", root / "walk.json"
    commands = [
        shown
        for shown in shown_in(section(PAGE, HEADING))
        if shown.command.split()[0] in ("neuroflow", "python")
    ]
    with (root / "walk.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            folder.mkdir()
            found = [typed(shown.command, folder) for shown in commands]
            record.write_bytes(msgspec.json.encode(found))
    answers = msgspec.json.decode(record.read_bytes(), type=list[tuple[int, str]])
    return folder, [
        (shown, *answer) for shown, answer in zip(commands, answers, strict=True)
    ]


@pytest.fixture(scope="module")
def made(walked):
    return walked[0]


def refused(*arguments):
    """Return the one line that the command line fails with."""
    status, output, error = said(*arguments)

    assert (status, output) == (1, ""), error
    assert "Traceback" not in error
    last = error.splitlines()[-1]
    assert last.startswith("neuroflow: ")
    return last.removeprefix("neuroflow: ")


def evaluation(folder):
    return from_json((folder / "evaluation.json").read_bytes())


def by(rows, **wanted):
    (row,) = [r for r in rows if all(getattr(r, k) == v for k, v in wanted.items())]
    return row


def test_every_command_of_the_page_does_and_says_what_it_shows(walked):
    _, found = walked

    verbs = {shown.command.split()[1] for shown, _, _ in found}
    assert verbs >= {
        "prepare-nsd", "prepare-bids", "train", "export", "verify", "inspect",
        "evaluate", "serve",
    }  # fmt: skip
    for shown, status, printed in found:
        assert status == int(shown.fails), (shown.command, printed)
        assert not missing_lines(shown, printed), (shown.command, printed)
    # One of them fails on purpose: what others estimated cannot be served.
    assert [s.command.split()[1] for s, _, _ in found if s.fails] == ["serve"]


def test_a_bundle_of_released_betas_says_whose_they_are(made):
    trials = open_trials(made / "trials/subj01", whole=True)

    with open_bundle(made / "out/bundle") as bundle, open_model(bundle) as model:
        said_of_it, tensors = bundle.manifest, bundle.tensors
        assert model.backend

    assert said_of_it.estimator == ExternalEstimator(
        name="nsd",
        detail="betas_fithrf_GLMdenoise_RR, func1pt8mm",
        normalisation="session-train",
    )
    assert (said_of_it.input_kind, said_of_it.voxels.units) == ("beta", "session z")
    assert said_of_it.subject == "subj01"
    assert said_of_it.voxels.voxel_order_sha256 == trials.manifest.mask_sha256
    np.testing.assert_array_equal(tensors["mask"], trials.arrays["mask"])
    assert not (made / "out/gallery").exists()


def test_released_betas_are_judged_and_what_cannot_be_had_is_named(made):
    result = evaluation(made / "out/evaluation")

    assert (result.trials, result.images, result.repeats) == (36, 12, 3)
    assert result.recording == "subj01"
    assert "nsd" in result.responses
    decoded = by(
        result.retrieval,
        source="decoded latents",
        trials="averaged",
        is_mean_subtracted=True,
    )
    # The generated responses hold what was seen, at about half of their variance.
    assert decoded.forward.low > decoded.forward.chance
    for row in result.reconstructions:
        assert isinstance(row.pixcorr, Value)
    assert result.regions is None
    averaged = by(result.encoding, trials="averaged")
    for figure in (averaged.mse, averaged.pearson, averaged.pearson_percent):
        assert isinstance(figure, Value)
    # A voxel's level in each session is in percent signal, and not in z-scores.
    assert averaged.pearson_percent.mean > averaged.pearson.mean + 0.1
    assert averaged.rois[0].correlation.low > 0
    assert [roi.roi for roi in averaged.rois] == [
        "all voxels", "V1", "V2", "V3", "hV4", "OFA", "FFA-1",
    ]  # fmt: skip
    assert sorted(p.name for p in (made / "out/evaluation").iterdir()) == [
        "contact.png", "evaluation.json", "evaluation.md", "evaluation_images.npz",
        "rois.svg", "voxels_r_dark.png", "voxels_r_light.png",
        "voxels_regions_dark.png", "voxels_regions_light.png",
    ]  # fmt: skip


def test_causal_trials_make_the_bundle_and_gallery_that_the_recording_makes(
    made, tmp_path
):
    status, printed = typed(
        "neuroflow export --vae live/vae --flow live/flow --recording person "
        f"--out {tmp_path}",
        made,
    )
    assert status == 0, printed

    with (
        open_bundle(made / "live/bundle") as ours,
        open_bundle(tmp_path / "bundle") as theirs,
    ):
        # A day may begin between the two exports.
        same_day = msgspec.structs.replace(
            ours.manifest, created=theirs.manifest.created
        )
        assert same_day == theirs.manifest
        assert isinstance(ours.manifest.estimator, BetaEstimator)
        is_same_day = ours.manifest.created == theirs.manifest.created
    galleries = [open_gallery(f / "gallery") for f in (made / "live", tmp_path)]
    assert galleries[0].ids == galleries[1].ids
    assert galleries[0].labels == galleries[1].labels
    np.testing.assert_array_equal(galleries[0].latents, galleries[1].latents)
    np.testing.assert_array_equal(galleries[0].images, galleries[1].images)
    assert galleries[0].confidence.temperature == galleries[1].confidence.temperature
    if is_same_day:
        assert galleries[0].sha256 == galleries[1].sha256


def test_trials_are_judged_as_the_recording_that_they_are_from(made, tmp_path):
    status, _, error = said(
        *("evaluate", "--bundle", made / "live/bundle"),
        *("--recording", made / "person", "--out", tmp_path),
    )
    assert status == 0, error
    ours, theirs = evaluation(made / "live/evaluation"), evaluation(tmp_path)

    for kind in ("reconstructions", "retrieval", "encoding"):
        rows = zip(getattr(ours, kind), getattr(theirs, kind), strict=True)
        for a, b in rows:
            for name in a.__struct_fields__:
                one, other = getattr(a, name), getattr(b, name)
                if isinstance(one, Value):
                    # Intervals are drawn over images in another order.
                    assert one.mean == pytest.approx(other.mean, abs=1e-5), name
    assert theirs.regions is None
    assert (made / "live/evaluation/contact.png").is_file()


def test_a_recording_does_not_judge_the_betas_of_others(made):
    status, _, error = said(
        "evaluate", "--bundle", made / "out/bundle", "--recording", made / "person"
    )

    assert status == 2
    assert error.splitlines()[-1] == (
        "neuroflow: evaluate --recording: expected a bundle whose betas are estimated "
        "here, found betas of nsd. Use --trials."
    )


def test_trials_of_another_participant_do_not_judge_a_bundle(made):
    line = refused(
        "evaluate", "--bundle", made / "out/bundle", "--trials", made / "trials/person"
    )

    assert line == (
        f"{made}/trials/person/manifest.json: subject: expected subj01 as the "
        "bundle's, found sub-sim000"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "--vae", "x", "--flow", "x", "--out", "x"),
        ("evaluate", "--bundle", "x"),
    ],
)
def test_either_a_recording_or_trials(arguments):
    neither = said(*arguments)
    both = said(*arguments, "--recording", "x", "--trials", "x")

    for (status, _, error), found in ((neither, "neither"), (both, "both")):
        assert status == 2
        assert error.count("\n") == 1
        assert f"expected either --recording or --trials, found {found}" in error


def export_line(made, tmp_path, **changes):
    paths = {
        "vae": made / "out/vae", "flow": made / "out/flow",
        "trials": made / "trials/subj01", "out": tmp_path / "exported", **changes,
    }  # fmt: skip
    return "export", *(part for name, p in paths.items() for part in (f"--{name}", p))


def test_a_checkpoint_of_another_subject_is_refused(made, tmp_path):
    line = refused(*export_line(made, tmp_path, trials=made / "trials/person"))

    assert line == (
        f"{made}/out/vae/{NOTE}: subject: expected sub-sim000 as in the trials, found "
        "subj01. Use the trials that it was trained on, or train on these"
    )
    flow = refused(*export_line(made, tmp_path, flow=made / "live/flow"))
    assert flow.startswith(f"{made}/live/flow/{NOTE}: subject: expected subj01")
    trained = refused(
        *("train", "flow", "--trials", made / "trials/subj01"),
        *("--vae", made / "live/vae", "--out", tmp_path / "flow"),
    )
    assert trained.startswith(f"{made}/live/vae/{NOTE}: subject: expected subj01")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_without_a_note_is_told_by_its_voxels_or_its_vae(made, tmp_path):
    for name in ("vae", "flow"):
        shutil.copytree(made / "live" / name, tmp_path / name)
        (tmp_path / name / NOTE).unlink()

    voxels = refused(*export_line(made, tmp_path, vae=tmp_path / "vae"))
    other = refused(*export_line(made, tmp_path, flow=tmp_path / "flow"))

    assert voxels == (
        f"{tmp_path}/vae: vae.voxels: expected 200 as in the trials of subj01, found "
        "108. It is another subject's or another mask's"
    )
    assert other.startswith(f"{tmp_path}/flow: vae_fingerprint: expected ")
    assert not (tmp_path / "exported").exists()


def test_a_flow_of_another_centring_than_its_vae_is_refused(made, tmp_path):
    vae, manifest = load_neurovae(made / "out/vae")
    config = msgspec.structs.replace(manifest.config, centre_latents=False)
    save_checkpoint(
        tmp_path / "vae", vae.state_dict(), config, stage="vae", seed=0, step=0
    )
    flow = shutil.copytree(made / "out/flow", tmp_path / "flow")
    text = (flow / "config.json").read_text()
    _, renamed = load_neurovae(tmp_path / "vae")
    (flow / "config.json").write_text(
        text.replace(manifest.fingerprint, renamed.fingerprint)
    )

    line = refused(*export_line(made, tmp_path, vae=tmp_path / "vae", flow=flow))

    assert line == (
        f"{flow}: centre_latents: expected False as of {tmp_path}/vae, found True"
    )


def test_a_pickle_posing_as_weights_is_refused_unopened(made, tmp_path):
    for name in ("vae", "flow"):
        folder = shutil.copytree(made / "out" / name, tmp_path / name)
        file = folder / "weights.safetensors"
        file.write_bytes(pickle.dumps({"weights": 1}))

        line = refused(*export_line(made, tmp_path, **{name: folder}))

        assert line == (
            f"{file}: expected safetensors, found a pickle, which can run code when it "
            "is opened. Train it here, or convert its tensors to safetensors."
        )
    assert not (tmp_path / "exported").exists()


def test_an_unknown_path_or_solver_is_wrong_usage_and_named(made, tmp_path):
    status, _, error = said(*export_line(made, tmp_path), "--solver", "magic")
    assert (status, error) == (
        2,
        "neuroflow: solver: expected one of euler, rotation, heun, found magic\n",
    )
    config = msgspec.json.encode(config_from_preset("demo", voxels=200))
    file = tmp_path / "config.json"
    file.write_bytes(config.replace(b'"path":"cos"', b'"path":"magic"'))
    status, _, error = said(
        *("train", "vae", "--trials", made / "trials/subj01"),
        *("--config", file, "--out", tmp_path / "vae"),
    )
    assert status == 2
    assert error == (
        f"neuroflow: {file}: flow_training.path: expected one of cos, cos2, linear, "
        "found magic\n"
    )


def test_training_that_goes_wild_names_the_step_and_what_to_do(made, tmp_path):
    config = config_from_preset("demo", voxels=200)
    wild = msgspec.structs.replace(config.vae_training, learning_rate=1e30)
    file, out = tmp_path / "config.json", tmp_path / "vae"
    file.write_bytes(
        msgspec.json.encode(msgspec.structs.replace(config, vae_training=wild))
    )
    arguments = ("train", "vae", "--trials", made / "trials/subj01", "--config", file)

    line = refused(*arguments, "--out", out)

    first = r"vae step 2: expected a finite loss, found "
    assert line.startswith(first), line
    assert line.endswith("begin anew with a lower learning rate (--config)")
    assert not (out / "snapshot.json").exists()
    assert not (out / "config.json").exists()
    assert not (out / NOTE).exists()


def test_what_is_wrong_with_the_files_is_one_line_of_the_command_line(made, tmp_path):
    nsd = shutil.copytree(made / "NSD", tmp_path / "nsd")
    betas = nsd / "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    arguments = ("prepare-nsd", "--nsd", nsd, "--subject", "1", "--backbone")
    arguments += ("patch_dct", "--out", tmp_path / "trials")
    second = betas / "betas_session02.hdf5"
    whole = second.read_bytes()

    with h5py.File(second, "r+") as file:
        percent = file["betas"][()].astype(np.float32) / 300
        del file["betas"]
        percent[7] = np.nan
        file["betas"] = percent
    no_numbers = refused(*arguments)
    shutil.rmtree(tmp_path / "trials")
    second.write_bytes(whole[: len(whole) // 2])
    cut = refused(*arguments)
    shutil.rmtree(tmp_path / "trials")
    second.write_bytes(whole)
    subject = refused(*arguments, "--subject", "9")

    assert no_numbers == (
        f"{second}: betas [trial, voxel]: expected finite values, found another at "
        "[7, 0]"
    )
    assert cut.startswith(f"{second}: betas: expected a whole HDF5 file, found it cut")
    assert "subjectim: expected subject 9, found 8 subjects" in subject


def test_trials_without_a_stimulus_are_one_line_of_the_command_line(made, tmp_path):
    bids = shutil.copytree(made / "person", tmp_path / "bids")
    shown = open_stimuli(bids).ids[0]
    (bids / "stimuli" / f"{shown}.png").unlink()

    line = refused("prepare-bids", "--recording", bids, "--out", tmp_path / "trials")

    assert line == (
        f"{bids}/stimuli/{shown}: expected a picture, by stim_file or stim_id, found "
        "no file"
    )
