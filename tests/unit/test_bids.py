"""Recorded runs and pictures to trials: as a server would have them, or offline."""

import functools
import shutil
import sys
from pathlib import Path

import msgspec
import nibabel
import numpy as np
import pytest
from PIL import Image

from runtime.errors import BackendError, ConfigError, RecordingError
from runtime.estimator import BetaEstimator
from runtime.patch_dct import PatchDct
from runtime.preprocess import Hrf, VoxelMask, register
from runtime.preprocess.motion_settings import Motion
from runtime.recording import open_recording
from tests.participants import tiny_participant, with_buttons
from training.data.bids import open_bids, prepare_bids
from training.data.regions import read_regions, recorded_volumes
from training.data.store import open_trials
from training.dataset import open_dataset
from training.features import trial_betas
from training.stimuli import open_stimuli
from training.visual.backbone import PatchDctBackbone
from verbs.prepared import ingredients_from

ESTIMATOR = BetaEstimator(decision_delay_s=9.0)
LIBRARY = (Hrf(), Hrf(peak_s=5.0))


def tiny_participant_name():
    return next(tiny_participant().glob("sub-*")).name


def prepare(folder, out, betas="causal", estimator=ESTIMATOR, test_runs=()):
    # A run made the test shows pictures of others in the simulated participant.
    trials = open_bids(folder, test_runs, allow_shared=bool(test_runs))
    regions = read_regions(
        recorded_volumes(trials.recording).values(), trials.recording.mask
    )
    prepare_bids(trials, out, PatchDctBackbone(), estimator, betas, regions=regions)
    return open_trials(out, whole=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tiny_participant(), tmp_path_factory.mktemp("bids") / "trials")


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(tiny_participant(), tmp_path / "bids")


def test_causal_trials_are_those_that_training_makes_of_the_recording(prepared):
    splits = ("train", "calibration")
    dataset = open_dataset(tiny_participant(), ESTIMATOR, PatchDct(), splits=splits)

    for split in splits:
        ours, wanted = prepared.split(split), dataset.split(split)
        np.testing.assert_array_equal(ours.voxels, wanted.voxels)
        rows = np.arange(len(ours))
        np.testing.assert_array_equal(ours.z_v(rows), wanted.z_v(rows))
    # Sums of the same numbers in another order.
    np.testing.assert_allclose(
        prepared.split("train").latent_mean(), dataset.latent_mean(), atol=1e-6
    )


def test_the_manifest_says_how_the_betas_came_about(prepared):
    manifest = prepared.manifest

    assert (manifest.source, manifest.betas) == ("bids", "causal")
    assert manifest.estimator == ESTIMATOR
    assert manifest.normalisation == "pooled-train"
    assert manifest.subject == tiny_participant_name()
    assert manifest.voxels == open_recording(tiny_participant()).mask.voxels
    assert set(manifest.splits) == {"train", "calibration", "test", "live"}


def test_the_manifest_holds_all_that_a_bundle_and_its_gallery_need(prepared):
    recording, stimuli = (
        open_recording(tiny_participant()),
        open_stimuli(tiny_participant()),
    )
    manifest = prepared.manifest

    wanted = [stimuli.ids[row] for row in stimuli.gallery_rows()]
    assert list(manifest.gallery) == wanted
    # Some of a gallery's pictures were never shown.
    assert len(manifest.image_ids) > len(np.unique(prepared.arrays["image"]))
    for name, label in zip(manifest.image_ids, manifest.labels, strict=True):
        assert label == stimuli.labels[stimuli.row(name)]
    mask = VoxelMask.from_volume(np.array(prepared.arrays["mask"]))
    assert mask.sha256 == recording.mask.sha256
    np.testing.assert_array_equal(manifest.affine, recording.runs[0].affine)


def test_a_folder_without_a_table_of_pictures_has_no_gallery(copy, tmp_path):
    (copy / "stimuli" / "gallery.tsv").unlink()

    opened = prepare(copy, tmp_path / "out")

    assert (opened.manifest.gallery, opened.manifest.labels) == ((), ())
    assert len(opened.manifest.image_ids) == len(np.unique(opened.arrays["image"]))


def test_regions_beside_the_mask_are_kept(prepared):
    place = tiny_participant() / "derivatives" / "masks" / tiny_participant_name()
    labels, mask = (
        np.asarray(nibabel.load(place / f"{name}.nii.gz").dataobj)
        for name in ("rois", "mask")
    )
    table = (place / "rois.tsv").read_text().splitlines()[1:]

    names = [line.split("\t")[1] for line in table]
    assert list(prepared.manifest.regions) == names
    for row, line in zip(prepared.arrays["regions"], table, strict=True):
        number = int(line.split("\t")[0])
        np.testing.assert_array_equal(row, labels[mask > 0] == number)


def test_betas_come_back_in_percent(prepared):
    whole = trial_betas(open_recording(tiny_participant()), ESTIMATOR)
    rows = np.arange(len(whole))

    units = prepared.in_units(prepared.arrays["voxels"], rows)

    # float32 through a division and a product.
    wanted = whole.betas[prepared.arrays["position"]]
    np.testing.assert_allclose(units, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_offline_betas_are_named_so_and_agree_with_late_causal_ones(prepared, tmp_path):
    offline = prepare(tiny_participant(), tmp_path / "offline", "offline")

    assert offline.manifest.betas == "offline"
    assert offline.manifest.estimator is None
    assert "nilearn" in offline.manifest.betas_detail
    events = sum(len(run.events) for run in open_recording(tiny_participant()).runs)
    assert len(offline.arrays["voxels"]) == events
    early = prepare(
        tiny_participant(),
        tmp_path / "early",
        estimator=BetaEstimator(decision_delay_s=5.0),
    )
    late = prepare(
        tiny_participant(),
        tmp_path / "late",
        estimator=BetaEstimator(decision_delay_s=16.0),
    )

    assert mean_correlation(offline, late) > 0.6
    assert mean_correlation(offline, late) > mean_correlation(offline, early) + 0.1


def mean_correlation(one, other):
    """Over training trials that both have, voxel by voxel."""
    tables = []
    for opened in (one, other):
        rows = opened.rows("train")
        run = opened.arrays["run"][rows]
        # The order of a run's trials is the same in both; late ones may be missing.
        count = np.array([np.sum(run[:i] == r) for i, r in enumerate(run)])
        keys = zip(run.tolist(), count.tolist(), strict=True)
        tables.append(dict(zip(keys, opened.arrays["voxels"][rows], strict=True)))
    both = sorted(set(tables[0]) & set(tables[1]))
    a, b = (np.stack([table[key] for key in both]).astype(float) for table in tables)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return float(((a * b).sum(axis=0) / scale).mean())


def test_nilearn_that_is_missing_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "nilearn.glm", None)

    with pytest.raises(BackendError, match="nilearn: expected it for --betas offline"):
        prepare(tiny_participant(), tmp_path / "out", "offline")


def test_runs_can_be_made_the_test(tmp_path):
    runs = [run.run_id for run in open_recording(tiny_participant()).runs]

    found = prepare(tiny_participant(), tmp_path / "out", test_runs=runs[:1])

    test = found.arrays["run"][found.rows("test")]
    assert 0 in test
    assert 0 not in found.arrays["run"][found.rows("train")]
    with pytest.raises(RecordingError, match="runs: expected nowhere, found sub-"):
        open_bids(tiny_participant(), ["nowhere"])


def test_pictures_of_several_sizes_are_resized_one_by_one(copy, tmp_path):
    files = sorted((copy / "stimuli").glob("*.png"))
    with Image.open(files[0]) as picture:
        picture.resize((48, 40)).save(files[0])

    opened = prepare(copy, tmp_path / "out")

    assert "stimuli" not in opened.arrays
    assert opened.arrays["latents"].shape[1:] == PatchDctBackbone().shape


def test_pictures_of_one_size_are_kept(prepared):
    stimuli = open_bids(tiny_participant()).pictures

    for row, name in enumerate(prepared.manifest.image_ids):
        with Image.open(stimuli[name]) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        np.testing.assert_array_equal(prepared.arrays["stimuli"][row], pixels)


def test_whitening_that_cannot_be_undone_is_refused(tmp_path):
    whitened = msgspec.structs.replace(ESTIMATOR, noise_shrinkage=0.4)

    with pytest.raises(ConfigError, match=r"noise_shrinkage: expected null, .* 0\.4"):
        prepare(tiny_participant(), tmp_path / "out", estimator=whitened)


@pytest.mark.parametrize(
    "option",
    [
        {"smoothing_fwhm_mm": 4.0},
        {"spike_ratio": 1.5},
        {"has_slice_times": True},
        {"hrf_library": LIBRARY},
        {"confounds": ("breath",)},
        {"motion": Motion()},
    ],
)
def test_an_option_that_offline_betas_do_not_have_is_refused(tmp_path, option):
    estimator = msgspec.structs.replace(ESTIMATOR, **option)
    (name,) = option

    with pytest.raises(ConfigError) as error:
        prepare(tiny_participant(), tmp_path / "out", "offline", estimator)

    assert str(error.value) == (
        f"estimator.{name}: expected none with offline betas, which take the drift "
        "cutoff alone, found it set. Leave it out, or use causal betas"
    )
    assert not (tmp_path / "out").exists()


def test_what_motion_is_told_against_and_each_voxels_response_are_kept(
    copy, tmp_path, monkeypatch
):
    # The tiny participant's head is tiny, too.
    monkeypatch.setattr(register, "MIN_POINTS", 10)
    for file in sorted(copy.glob("sub-*/**/func/*_bold.nii.gz"))[1:]:
        file.unlink()
    estimator = msgspec.structs.replace(ESTIMATOR, hrf_library=LIBRARY, motion=Motion())

    prepared = prepare(copy, tmp_path / "out", estimator=estimator)
    dataset = open_dataset(copy, estimator, PatchDct(), splits=("train",))

    # Either way to train gives the same bundle.
    parts = ingredients_from(prepared).preprocessing
    np.testing.assert_array_equal(parts.reference, dataset.reference.volume)
    np.testing.assert_array_equal(parts.hrf_index, dataset.hrf_index)
    assert set(dataset.hrf_index) == {0, 1}
    ours, wanted = prepared.split("train"), dataset.split("train")
    np.testing.assert_array_equal(ours.voxels, wanted.voxels)


def test_what_is_learned_once_comes_from_no_run_that_is_to_test():
    recording = open_recording(tiny_participant())
    names = [run.run_id for run in recording.runs]

    open_shared = functools.partial(open_bids, tiny_participant(), allow_shared=True)
    first = open_shared(names[:1]).runs_of("train", "calibration")[0]
    with pytest.raises(RecordingError) as error:
        open_shared(names).runs_of("train")

    assert first.run_id == names[1]
    assert str(error.value) == (
        f"{tiny_participant()}: split: expected trials of train, found none"
    )


def events_of(folder):
    return sorted(folder.glob("sub-*/**/func/*_events.tsv"))[0]


def change_stimulus(folder, value):
    file = events_of(folder)
    head, first, *rest = file.read_text().splitlines()
    cells = first.split("\t")
    for name in {"stim_id", "stim_file"} & set(head.split("\t")):
        cells[head.split("\t").index(name)] = value
    file.write_text("\n".join([head, "\t".join(cells), *rest]) + "\n")


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("nothing", "stimuli/nothing: expected a picture, by stim_file or stim_id"),
        ("../../etc/secret", "stim_file or stim_id: expected a file of this folder"),
    ],
)
def test_a_trial_whose_picture_is_missing_is_named(copy, value, line):
    change_stimulus(copy, value)

    with pytest.raises(RecordingError, match=line):
        open_bids(copy)


def test_events_without_a_picture_are_no_trials_and_are_counted(
    copy, prepared, tmp_path
):
    pressed = with_buttons(copy)

    trials = open_bids(copy)
    found = prepare(copy, tmp_path / "out")
    dataset = open_dataset(copy, ESTIMATOR, PatchDct())

    assert trials.shown.left_out() == f"events left out: {pressed} without a picture"
    assert dataset.left_out == trials.shown.left_out()
    # To the bit what is prepared of the recording without presses, either way.
    for split in ("train", "calibration"):
        wanted = prepared.split(split).voxels
        np.testing.assert_array_equal(found.split(split).voxels, wanted)
        np.testing.assert_array_equal(dataset.split(split).voxels, wanted)


def test_trials_are_chosen_by_their_type(copy):
    with_buttons(copy)
    events = [e for run in open_recording(copy).runs for e in run.events]
    kind = next(e.trial_type for e in events if e.stimulus_id)
    wanted = sum(e.trial_type == kind for e in events)

    trials = open_bids(copy, trial_types=(kind,))

    assert sum(len(run.events) for run in trials.recording.runs) == wanted
    assert trials.shown.left_out() == (
        f"events left out: {len(events) - wanted} of another trial_type"
    )
    with pytest.raises(RecordingError) as error:
        open_bids(copy, trial_types=(kind, "sneeze"))
    assert str(error.value).startswith(
        f"{copy}: trial_type: expected events of sneeze, found "
    )
    with pytest.raises(RecordingError) as error:
        open_bids(copy, trial_types=("button",))
    assert str(error.value) == (
        f"{copy}: stim_id or stim_file: expected a picture for some of the "
        f"{sum(e.trial_type == 'button' for e in events)} events, found none"
    )


def second_person(folder):
    """Give a folder a second participant with the first one's files."""
    first = tiny_participant_name()
    for file in sorted((folder / first).rglob("*.*")):
        other = Path(str(file).replace(first, "sub-two"))
        other.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, other)
    masks = folder / "derivatives" / "masks"
    shutil.copytree(masks / first, masks / "sub-two")


def test_two_participants_are_prepared_one_at_a_time(copy, prepared, tmp_path):
    second_person(copy)

    for read in (open_bids, lambda folder: open_dataset(folder, ESTIMATOR, PatchDct())):
        with pytest.raises(RecordingError, match="expected runs of one participant, "):
            read(copy)
    trials = open_bids(copy, subject="two")
    manifest = prepare_bids(trials, tmp_path / "out", PatchDctBackbone(), ESTIMATOR)

    assert manifest.subject == "sub-two"
    assert len(manifest.runs) == len(prepared.manifest.runs)
    ours = open_trials(tmp_path / "out").arrays["voxels"]
    np.testing.assert_array_equal(ours, prepared.arrays["voxels"])
    dataset = open_dataset(copy, ESTIMATOR, PatchDct(), subject="sub-two")
    assert dataset.subject == "sub-two"


def test_a_picture_that_is_none_is_named(copy, tmp_path):
    shown = open_bids(copy).pictures.values()
    file = next(iter(shown))
    file.write_text("no picture")

    with pytest.raises(RecordingError, match="expected a picture, found") as caught:
        prepare(copy, tmp_path / "out")

    assert str(file) in str(caught.value)
