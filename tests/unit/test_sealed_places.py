"""No verb writes into a folder that lists its files: nobody could open it then."""

import inspect
from pathlib import Path

import msgspec
import pytest

import neuroflow
from runtime.errors import ArtifactError, NeuroFlowError
from runtime.manifest import FileSpec
from verbs.ending import exit_status

NONE = Path("/nowhere")
"""Of all inputs: whoever reads one of them first says so."""

VERBS = {
    "demo": {},
    "simulate": {},
    "train": {"stage": "vae", "trials": NONE},
    "import_checkpoint": {"neurovae": NONE, "xfm": NONE, "subject": 1},
    "export_recording": {"recording": NONE, "format": "nifti"},
    "evaluate": {"bundle": NONE, "trials": NONE},
    "prepare_nsd": {"nsd": NONE, "subject": 1, "latents": NONE},
    "prepare_bids": {"recording": NONE, "latents": NONE},
    "prepare_calibration": {"bundle": NONE, "gallery": NONE},
    "calibrate": {"bundle": NONE, "gallery": NONE, "recording": NONE},
}
FILLED = {
    "train": VERBS["train"],
    "evaluate": VERBS["evaluate"],
    "combine": {"combine": (NONE, NONE)},
    "prepare_calibration": VERBS["prepare_calibration"],
}
"""Of these verbs' folders, what is there already stays there."""


def call(name, given, out):
    verb = getattr(neuroflow, {"combine": "evaluate"}.get(name, name))
    kinds = {k: p.kind for k, p in inspect.signature(verb).parameters.items()}
    placed = [one for one in given if kinds[one] is inspect.Parameter.POSITIONAL_ONLY]
    named = {key: value for key, value in given.items() if key not in placed}
    verb(*(given[key] for key in placed), **named, out=out)


def seal(folder):
    file = FileSpec(path="a.onnx", size=3, sha256="0" * 64)
    folder.mkdir()
    (folder / "manifest.json").write_bytes(
        msgspec.json.encode({"schema_version": 2, "files": [file]})
    )
    return folder


def test_trials_are_not_trained_into_themselves(tmp_path):
    listed = {"bytes": 3, "sha256": "0" * 64, "sampled_sha256": "1" * 64}
    manifest = {"schema": 1, "files": {"voxels.npy": listed}}
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(manifest))

    with pytest.raises(ArtifactError, match=r"manifest\.json lists\. Name another"):
        call("train", {"stage": "vae", "trials": tmp_path}, tmp_path)


def test_these_are_all_the_verbs_with_a_folder_to_write():
    with_out = {
        name
        for name, one in vars(neuroflow).items()
        if inspect.isfunction(one) and "out" in inspect.signature(one).parameters
    }

    # An export looks itself, at what it writes in that folder: tests of its verb.
    assert with_out - {"export"} == set(VERBS)


@pytest.mark.parametrize("name", [*VERBS, "combine", "runs"])
def test_nothing_is_put_into_a_folder_that_lists_its_files(tmp_path, name):
    bundle = seal(tmp_path / "bundle")
    runs = {"recording": NONE, "leave_one_run_out": True}
    given = {**VERBS, **FILLED, "runs": runs}[name]

    with pytest.raises(ArtifactError) as caught:
        call({"runs": "evaluate"}.get(name, name), given, bundle / "x")

    assert str(caught.value) == (
        f"{bundle / 'x'}: expected a place outside of {bundle}, which holds exactly "
        "the files that its manifest.json lists, found one inside. Name another."
    )
    assert [file.name for file in bundle.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("name", FILLED)
def test_nor_is_such_a_folder_filled_up_itself(tmp_path, name):
    bundle = seal(tmp_path / "bundle")

    with pytest.raises(ArtifactError) as caught:
        call(name, FILLED[name], bundle)

    assert str(caught.value) == (
        f"{bundle}: expected a folder that takes other files, found one that holds "
        "exactly those that its manifest.json lists. Name another."
    )


# The two that take no input would begin.
@pytest.mark.parametrize("name", sorted(VERBS.keys() - {"demo", "simulate"}))
def test_any_other_folder_is_in_nobodys_way(tmp_path, name):
    with pytest.raises(NeuroFlowError) as caught:
        call(name, VERBS[name], tmp_path / "x")

    assert "manifest.json lists" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(FILLED.keys() | {"simulate"}))
def test_a_link_to_itself_is_one_line(tmp_path, name, capsys):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    given = {**VERBS, **FILLED}[name]

    assert exit_status(lambda: call(name, given, loop)) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1
