"""Raw files to a checkpoint by the command line, and what goes wrong on the way."""

import json

import numpy as np
import pytest

from tests.in_process import said
from tests.nsd_folder import BETAS, MASK, PICTURES, write_mask, write_nsd
from tests.participants import tiny_participant
from training.checkpoint import load_flow, load_neurovae
from training.config import config_from_preset
from training.data.store import open_trials

# Two stages are trained.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nsd(tmp_path_factory):
    return write_nsd(tmp_path_factory.mktemp("nsd"))


def test_a_model_is_trained_on_the_datasets_files_from_end_to_end(nsd, tmp_path):
    config = config_from_preset("tiny")
    latents = tmp_path / "z_v.npy"
    rng = np.random.default_rng(0)
    shape = (PICTURES, config.vae.tokens, config.vae.width)
    np.save(latents, rng.standard_normal(shape).astype(np.float16))
    trials, vae, flow = (tmp_path / name for name in ("trials", "vae", "flow"))

    prepared = said(
        *("prepare-nsd", "--nsd", nsd.root, "--subject", 2, "--out", trials),
        *("--latents", latents),
    )
    assert prepared[:2] == (0, f"{trials}\n"), prepared
    assert "30 trials" in prepared[2]
    for stage, out, more in (("vae", vae, ()), ("flow", flow, ("--vae", vae))):
        status, _, error = said(
            *("train", stage, "--trials", trials, "--preset", "tiny", "--out", out),
            *more,
        )
        assert status == 0, error

    assert load_neurovae(vae)[1].config.vae.voxels == nsd.mask.sum()
    load_flow(flow)
    # Released betas have seen whole sessions: no estimator, nothing to serve with.
    assert not (vae / "estimator.json").exists()


def test_causal_betas_leave_the_estimator_beside_the_checkpoint(tmp_path):
    trials, vae = tmp_path / "trials", tmp_path / "vae"

    status, _, error = said(
        *("prepare-bids", "--recording", tiny_participant(), "--out", trials),
        *("--delay", 8),
    )
    assert status == 0, error
    opened = open_trials(trials)
    assert opened.manifest.estimator.decision_delay_s == 8
    status, _, error = said(
        *("train", "vae", "--trials", trials, "--out", vae, "--dry-run")
    )
    assert status == 0, error
    assert not vae.exists()


def test_a_mask_that_does_not_fit_is_one_line_and_status_1(tmp_path):
    root = write_nsd(tmp_path / "nsd").root
    write_mask(root / MASK, np.ones((5, 4, 4), bool))
    np.save(tmp_path / "z_v.npy", np.zeros((PICTURES, 2, 3), np.float32))

    status, _, error = said(
        *("prepare-nsd", "--nsd", root, "--subject", 2, "--out", tmp_path / "out"),
        *("--latents", tmp_path / "z_v.npy"),
    )

    assert status == 1
    last = error.splitlines()[-1]
    assert last == (
        f"neuroflow: {root / MASK}: shape: expected (5, 4, 3) as in "
        "betas_session01.nii.gz, found (5, 4, 4)"
    )


def test_weights_that_are_not_there_are_one_line(nsd, tmp_path):
    arguments = ("prepare-nsd", "--nsd", nsd.root, "--subject", 2)
    out = ("--out", tmp_path / "out")

    status, _, error = said(*arguments, *out)
    assert status == 2
    assert "expected --weights FILE (nothing is downloaded)" in error.splitlines()[-1]

    status, _, error = said(*arguments, *out, "--weights", tmp_path / "none")
    assert status == 1
    assert (
        "expected the weights of ViT-bigG-14, found no file" in error.splitlines()[-1]
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "train vae: expected either --recording or --trials, found neither"),
        (
            ("--recording", "x", "--trials", "x"),
            "train vae: expected either --recording or --trials, found both",
        ),
        (
            ("--trials", "x", "--estimator", "x"),
            "--estimator: expected with --recording alone, found it with --trials",
        ),
    ],
)
def test_training_takes_one_source_of_trials(arguments, line, tmp_path):
    status, _, error = said("train", "vae", "--out", tmp_path / "out", *arguments)

    assert status == 2
    assert error.startswith(f"neuroflow: {line}")


@pytest.mark.parametrize("exists", [True, False])
def test_a_first_stage_that_is_no_checkpoint_is_named_as_one(exists, tmp_path):
    vae = tmp_path / "vae"
    if exists:
        vae.mkdir()

    status, _, error = said(
        *("train", "flow", "--recording", tiny_participant(), "--vae", vae),
        *("--out", tmp_path / "flow"),
    )

    assert status == 1
    found = "no config.json" if exists else "no folder"
    assert error == (
        f"neuroflow: {vae}: expected a checkpoint folder with weights.safetensors and "
        f"config.json, found {found}\n"
    )


def test_a_subject_belongs_to_a_recording(tmp_path):
    status, _, error = said(
        *("train", "vae", "--trials", "x", "--subject", "01", "--out", tmp_path)
    )

    assert status == 2
    assert error.startswith("neuroflow: --subject: expected with --recording alone, ")


def test_a_preparation_that_was_stopped_is_no_source(nsd, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "progress.json").write_text(json.dumps({}))

    status, _, error = said(
        "train", "vae", "--out", tmp_path / "vae", "--trials", tmp_path / "out"
    )

    assert status == 1
    assert "expected a finished preparation, found an interrupted one" in error
    assert (nsd.root / BETAS).is_dir()
