"""What of a BIDS folder is refused, or told: splits, spaces, places, room."""

import io
import shutil
from collections import namedtuple

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from runtime.errors import ArtifactError, RecordingError, UsageError
from runtime.estimator import BetaEstimator
from runtime.patch_dct import PatchDct
from runtime.recording import open_recording, regions_file
from tests.participants import tiny_participant
from training.config import config_from_preset
from training.data import bids as bids_module
from training.data import writer as writer_module
from training.data.bids import open_bids, prepare_bids
from training.data.bids_splits import is_within
from training.data.regions import read_regions, recorded_volumes
from training.data.store import open_trials
from training.dataset import open_dataset
from training.shown import shown_pictures
from training.visual.backbone import PatchDctBackbone
from training.visual.stored import StoredLatents
from verbs.prepare_bids import prepare_bids_trials
from verbs.prepare_nsd import check_backbone, named_backbone, prepare_nsd_trials
from verbs.prepared import said_of_trials
from verbs.progress import Screen
from verbs.split_trials import said_of_shared
from verbs.train import read_dataset

ESTIMATOR = BetaEstimator(decision_delay_s=9.0)
NEEDED = {
    prepare_nsd_trials: {"normalisation": "train"},
    prepare_bids_trials: {
        "betas": "causal", "delay": None, "estimator_file": None, "test_runs": (),
    },
}  # fmt: skip
"""What the two verbs cannot be called without, beside a backbone."""


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(tiny_participant(), tmp_path / "bids")


def events_files(folder):
    return sorted(folder.glob("sub-*/**/func/*_events.tsv"))


def change(file, column, value, row=0):
    head, *lines = file.read_text().splitlines()
    cells = lines[row].split("\t")
    cells[head.split("\t").index(column)] = value
    lines[row] = "\t".join(cells)
    file.write_text("\n".join([head, *lines]) + "\n")


def prepare(folder, out, betas="causal", **changes):
    said = []
    trials = open_bids(folder, **changes)
    prepare_bids(trials, out, PatchDctBackbone(), ESTIMATOR, betas, say=said.append)
    return open_trials(out), said


@pytest.mark.parametrize("name", ["tset", "Test", "test "])
def test_a_split_that_nothing_looks_at_is_refused(copy, name):
    change(events_files(copy)[0], "split", name)

    with pytest.raises(RecordingError) as error:
        open_bids(copy)

    run = open_recording(copy).runs[0]
    assert str(error.value) == (
        f"{copy}: {run.run_id}: trial {run.events[0].trial_id}: split: expected one of "
        f"train, calibration, test, live, found {name!r}"
    )


def test_a_run_without_splits_among_others_with_them_is_refused(copy):
    file = events_files(copy)[1]
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    column = lines[0].index("split")
    kept = ["\t".join(c for i, c in enumerate(cells) if i != column) for cells in lines]
    file.write_text("\n".join(kept) + "\n")

    with pytest.raises(
        RecordingError, match=r"split: .* found none, unlike other runs"
    ):
        open_bids(copy)


def test_a_test_that_was_trained_on_is_refused_or_asked_for_and_told(copy, tmp_path):
    run = open_recording(copy).runs[0].run_id

    with pytest.raises(RecordingError) as error:
        open_bids(copy, [run])
    prepared, _ = prepare(copy, tmp_path / "out", test_runs=[run], allow_shared=True)

    assert "split: expected test pictures that no training trial shows, found " in str(
        error.value
    )
    learned, judged = (
        set(prepared.arrays["image"][prepared.rows(name)].tolist())
        for name in ("train", "test")
    )
    assert said_of_trials(prepared, "test") == (
        f"WARNING: {len(learned & judged)} of {len(judged)} pictures of split test "
        "were trained on: these figures are not those of new pictures"
    )
    assert said_of_trials(prepared, "train") == ""


@pytest.mark.parametrize("betas", ["causal", "offline"])
def test_onsets_outside_their_run_are_counted_and_change_no_other_trial(
    copy, tmp_path, betas
):
    for folder in events_files(copy)[2:]:
        stem = folder.name.removesuffix("_events.tsv")
        for file in folder.parent.glob(f"{stem}_*"):
            file.unlink()
    whole, before = prepare(copy, tmp_path / "whole", betas)
    last = len(events_files(copy)[0].read_text().splitlines()) - 2
    for row, onset in ((last, "99999"), (last - 1, "-500"), (last - 2, "1e300")):
        change(events_files(copy)[0], "onset", onset, row)

    prepared, said = prepare(copy, tmp_path / "out", betas)

    run = open_recording(copy).runs[0]
    assert sum(not is_within(event, run) for event in run.events) == 3
    assert "3 with an onset outside their run" in said[0]
    assert "outside" not in before[0]
    names = prepared.manifest.splits
    assert said[-1] == "splits: " + ", ".join(
        f"{name} {names[name].trials}" for name in names
    )
    assert len(prepared.arrays["voxels"]) < len(whole.arrays["voxels"])


def moved(file, affine):
    image = nib.load(file)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), affine), file)


@pytest.mark.parametrize("what", ["mirrored", "shifted", "of_no_number"])
@pytest.mark.parametrize("which", ["mask", "bold"])
def test_a_mask_and_runs_are_of_one_space(copy, what, which):
    pattern = {"mask": "derivatives/**/mask.nii.gz", "bold": "sub-*/**/*_bold.nii.gz"}
    file = sorted(copy.glob(pattern[which]))[-1]
    affine = nib.load(file).affine.copy()
    if what == "mirrored":
        affine[0] *= -1
    elif what == "shifted":
        affine[0, 3] += 500
    else:
        affine[0, 3] = np.nan
    moved(file, affine)

    with pytest.raises(RecordingError, match=r"affine: expected the space of .*mask"):
        open_recording(copy)


def test_what_headers_round_is_the_same_space(copy):
    file = next(copy.glob("derivatives/**/mask.nii.gz"))
    moved(file, nib.load(file).affine * (1 + 1e-5))

    assert open_recording(copy).runs


def never(*_args, **_kwargs):
    raise AssertionError("expected a refusal before any beta")


def refuse_early(monkeypatch):
    for name in ("trial_betas", "reference_of", "choose_responses"):
        monkeypatch.setattr(bids_module, name, never)


@pytest.mark.parametrize("what", ["a file", "prepared", "another"])
def test_a_place_that_cannot_be_is_refused_before_any_beta(tmp_path, monkeypatch, what):
    refuse_early(monkeypatch)
    out = tmp_path / "out"
    if what == "a file":
        out.write_text("")
    else:
        out.mkdir()
        (out / ("manifest.json" if what == "prepared" else "letter.txt")).write_text("")

    with pytest.raises(ArtifactError, match=r"Choose another --out"):
        prepare_bids_trials(
            tiny_participant(), out, betas="causal", delay=None, estimator_file=None,
            test_runs=(), latents=None, backbone="patch_dct", weights=None,
            device="cpu",
        )  # fmt: skip


def test_a_disk_without_room_is_refused_before_any_beta(tmp_path, monkeypatch):
    refuse_early(monkeypatch)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(writer_module.shutil, "disk_usage", lambda _: usage(1000))

    with pytest.raises(ArtifactError, match=r"expected room for .* found 1,000"):
        prepare(tiny_participant(), tmp_path / "new" / "out")

    assert not (tmp_path / "new").exists()


def test_latents_that_are_no_numbers_are_refused_before_any_beta(tmp_path, monkeypatch):
    refuse_early(monkeypatch)
    trials = open_bids(tiny_participant())
    latents = np.zeros((len(trials.pictures), 2, 3), dtype=np.float32)
    latents[5, 1, 2] = np.nan
    np.save(tmp_path / "z.npy", latents)
    stored = StoredLatents(tmp_path / "z.npy", trials.pictures)

    with pytest.raises(RecordingError) as error:
        prepare_bids(trials, tmp_path / "out", stored, ESTIMATOR)

    assert str(error.value) == (
        f"{tmp_path / 'z.npy'}: latents: expected finite values, found another at "
        "[5, 1, 2]"
    )


@pytest.mark.parametrize(
    ("latents", "name", "weights", "device", "line"),
    [
        (
            None, "patch_dct", "w.pt", "cpu",
            "--weights: expected with --backbone open_clip alone, found it with "
            "patch_dct, which is computed without it. Leave it out.",
        ),
        (
            None, "patch_dct", None, "cuda",
            "--device: expected with --backbone open_clip alone, found it with "
            "patch_dct, which is computed without it. Leave it out.",
        ),
        (
            "z.npy", "open_clip", "w.pt", "cpu",
            "--weights: expected with --backbone open_clip alone, found it with "
            "--latents, which are computed without it. Leave it out.",
        ),
    ],
)  # fmt: skip
def test_options_of_a_backbone_that_has_none_are_refused(
    latents, name, weights, device, line
):
    with pytest.raises(UsageError) as error:
        check_backbone(latents, name, weights, device)

    assert str(error.value) == line


@pytest.mark.parametrize(
    ("prepare_trials", "place"),
    [(prepare_nsd_trials, (2,)), (prepare_bids_trials, ())],
    ids=["nsd", "bids"],
)
@pytest.mark.parametrize("name", ["open_clip", "patch_dct"])
def test_a_backbone_beside_latents_would_have_no_effect_and_is_refused(
    prepare_trials, place, name, tmp_path
):
    with pytest.raises(UsageError) as error:
        prepare_trials(
            tmp_path, *place, tmp_path / "out", latents=tmp_path / "z.npy",
            backbone=name, weights=None, device="cpu",
            **NEEDED[prepare_trials],
        )  # fmt: skip

    assert str(error.value) == (
        "--backbone: expected without --latents, which are computed already, found "
        "both. Leave one out."
    )


@pytest.mark.parametrize("default", ["open_clip", "patch_dct"])
def test_a_backbone_that_was_not_asked_for_is_the_verbs_default(default):
    assert named_backbone(None, None, default) == default
    assert named_backbone("z.npy", None, default) == default
    assert named_backbone(None, "patch_dct", default) == "patch_dct"


def test_trials_that_are_a_file_are_said_to_be_one(tmp_path):
    (tmp_path / "trials").write_text("")

    with pytest.raises(ArtifactError, match="expected a folder, found a file"):
        open_trials(tmp_path / "trials")


def test_a_recording_whose_test_was_trained_on_says_how_much_of_it(copy):
    whole = shown_pictures(open_recording(copy))
    learned = sorted(whole.of("train") - whole.of("test"))
    file = next(f for f in events_files(copy) if "\ttest" in f.read_text())
    judged = whole.of("test")
    change(file, "stim_id", learned[0])
    change(file, "stim_file", f"{learned[0]}.png")

    dataset = open_dataset(copy, ESTIMATOR, PatchDct(image_size=32, patch=4))

    now = shown_pictures(dataset.recording)
    assert dataset.shared == 1
    after = shown_pictures(open_recording(copy))
    assert now.of("test") == set()
    assert said_of_shared(after.of("train"), after.of("test"), "test") == (
        f"WARNING: 1 of {len(after.of('test'))} pictures of split test were trained "
        "on: these figures are not those of new pictures"
    )
    assert not judged & whole.of("train")


def test_a_training_says_that_pictures_of_the_test_are_among_its_own(copy):
    whole = shown_pictures(open_recording(copy))
    learned = sorted(whole.of("train") - whole.of("test"))
    file = next(f for f in events_files(copy) if "\ttest" in f.read_text())
    change(file, "stim_id", learned[0])
    change(file, "stim_file", f"{learned[0]}.png")
    config = config_from_preset("demo", voxels=whole.recording.mask.voxels)
    console = Console(file=io.StringIO(), width=200)

    read_dataset(copy, ESTIMATOR, config, Screen(console))

    lines = [line.strip() for line in console.file.getvalue().splitlines()]
    assert lines[-1] == (
        "WARNING: 1 pictures of the test are trained on: its figures will not be those "
        "of new pictures"
    )


def test_regions_in_another_space_are_refused(copy):
    whole = open_recording(copy)
    file = regions_file(whole)

    read_regions(recorded_volumes(whole).values(), whole.mask, whole)
    affine = nib.load(file).affine.copy()
    affine[0, 3] += 2
    moved(file, affine)

    with pytest.raises(RecordingError, match=r"affine: expected the space of .* 2 mm"):
        read_regions(recorded_volumes(whole).values(), whole.mask, whole)
