"""Where an export may write is known first, and a half never bars the next one."""

from pathlib import Path

import msgspec
import pytest

import verbs.export
from runtime.errors import BackendError
from tests import in_process
from training.data.manifest import StoredArray
from verbs.export import _both_or_none
from verbs.pipeline import Built


def said(out):
    """What an export says whose checkpoints and trials are nowhere."""
    return in_process.said(
        "export", "--vae", out / "x", "--flow", out / "x", "--trials", out / "x",
        "--out", out,
    )  # fmt: skip


@pytest.mark.parametrize("taken", ["bundle", "gallery"])
def test_a_place_that_is_taken_is_refused_before_anything_is_read(tmp_path, taken):
    (tmp_path / taken).mkdir()

    assert said(tmp_path) == (
        1,
        "",
        f"neuroflow: {tmp_path / taken}: expected no such folder yet, found one. Move "
        "it away, or name another --out.\n",
    )


def test_a_link_that_leads_nowhere_is_something_as_well(tmp_path):
    (tmp_path / "gallery").symlink_to(tmp_path / "none")

    assert "/gallery: expected no such folder yet, found one" in said(tmp_path)[2]


def test_a_checkpoint_is_no_place_for_a_bundle(tmp_path):
    for name in ("config.json", "weights.safetensors"):
        (tmp_path / name).touch()

    assert said(tmp_path) == (
        1,
        "",
        f"neuroflow: {tmp_path}: expected a folder for bundle and gallery, found a "
        "checkpoint. Name another --out.\n",
    )


def test_prepared_trials_are_no_place_for_a_bundle(tmp_path):
    array = StoredArray(
        dtype="bool", shape=(3,), bytes=3, sha256="0" * 64, sampled_sha256="1" * 64
    )
    (tmp_path / "manifest.json").write_bytes(
        msgspec.json.encode({"schema": 1, "files": {"mask.npy": array}})
    )

    assert said(tmp_path) == (
        1,
        "",
        f"neuroflow: {tmp_path}/bundle: expected a place outside of {tmp_path}, which "
        "holds exactly the files that its manifest.json lists, found one inside. Name "
        "another.\n",
    )


@pytest.mark.parametrize("below", ["", "/new/newer"])
def test_a_file_is_no_place_for_a_bundle(tmp_path, below):
    file = tmp_path / "a"
    file.touch()

    assert said(Path(f"{file}{below}")) == (
        1,
        "",
        f"neuroflow: {file}{below}: expected a folder that can be made and written, "
        f"found at {file}: Not a directory. Name another --out.\n",
    )


def test_a_folder_in_which_nothing_can_be_made_is_no_place_for_a_bundle():
    # Of no use to root either.
    assert said(Path("/proc/nowhere")) == (
        1,
        "",
        "neuroflow: /proc/nowhere: expected a folder that can be made and written, "
        "found at /proc: No such file or directory. Name another --out.\n",
    )


def test_a_place_is_looked_at_and_left_as_it_was(tmp_path):
    out = tmp_path / "new/newer"

    assert "expected a checkpoint folder" in said(out)[2]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("why", [BackendError("gone"), KeyboardInterrupt()])
def test_what_ends_before_the_gallery_is_there_leaves_no_bundle(
    monkeypatch, tmp_path, why
):
    built = Built(
        tmp_path / "vae", tmp_path / "flow", tmp_path / "bundle", tmp_path / "gallery"
    )

    def exported(_dataset, built, **_):
        (built.bundle / "graphs").mkdir(parents=True)

    def calibrated(_dataset, built, **_):
        built.gallery.mkdir()
        raise why

    for name in ("read_dataset", "known_subject", "noted_subject", "_check_origin"):
        monkeypatch.setattr(verbs.export, name, lambda *_: None)
    monkeypatch.setattr(verbs.export, "read_estimator", lambda *_: None)
    monkeypatch.setattr(verbs.export.LearnedFrom, "of_dataset", lambda *_: None)
    monkeypatch.setattr(verbs.export, "export_built", exported)
    monkeypatch.setattr(verbs.export, "calibrate", calibrated)
    with verbs.export.screen() as shown, pytest.raises(type(why)):
        verbs.export._from_recording(
            tmp_path,
            type("Noted", (), {"config": None}),
            built,
            solver="rotation",
            steps=2,
            backend="ort",
            precisions=("f32",),
            shown=shown,
        )

    assert list(tmp_path.iterdir()) == []


def test_what_is_finished_stays(tmp_path):
    built = Built(tmp_path, tmp_path, tmp_path / "bundle", tmp_path / "gallery")
    with _both_or_none(built):
        built.bundle.mkdir()

    assert built.bundle.is_dir()
