import json
import sys

import nibabel as nib
import numpy as np
import pytest

from runtime.errors import BackendError, RecordingError
from runtime.recording import open_recording

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
EVENTS = (
    "onset\tduration\ttrial_type\ttrial_id\tstim_id\tsplit\n"
    "3.0\t3.0\timage\tt1\tnsd-7\ttrain\n"
    "7.0\t3.0\timage\tt2\tn/a\ttest\n"
)


def write_image(file, data):
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, AFFINE), file)


def images(volumes=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(-5, 900, (4, 3, 2, volumes), dtype=np.int16)


def mask_volume():
    mask = np.zeros((4, 3, 2), dtype=np.uint8)
    mask[1, 2, 0] = mask[3, 0, 1] = 1
    return mask


@pytest.fixture
def bids(tmp_path):
    func = tmp_path / "sub-01" / "func"
    for run in (1, 2):
        stem = f"sub-01_task-look_run-{run:02}"
        write_image(func / f"{stem}_bold.nii.gz", images(seed=run))
        (func / f"{stem}_bold.json").write_text(json.dumps({"RepetitionTime": 1.5}))
        (func / f"{stem}_events.tsv").write_text(EVENTS)
    write_image(tmp_path / "derivatives/masks/sub-01/mask.nii.gz", mask_volume())
    return tmp_path


@pytest.fixture
def haxby(tmp_path):
    write_image(tmp_path / "bold.nii.gz", images(8))
    write_image(tmp_path / "mask.nii.gz", mask_volume())
    lines = ["0 0", "5 0", "5 0", "0 0", "0 1", "0 1", "2 1", "3 1"]
    (tmp_path / "attributes.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def refusal(folder, runs=None):
    with pytest.raises(RecordingError) as error:
        open_recording(folder, runs)
    return str(error.value).replace(f"{folder}", "REC")


def test_a_bids_folder_gives_back_what_nibabel_wrote(bids):
    recording = open_recording(bids)

    names = ["sub-01_task-look_run-01", "sub-01_task-look_run-02"]
    assert [run.run_id for run in recording.runs] == names
    for seed, run in enumerate(recording.runs, start=1):
        written = np.moveaxis(images(seed=seed), -1, 0)
        assert run.volumes().dtype == np.int16
        np.testing.assert_array_equal(run.volumes(), written)
        np.testing.assert_array_equal(list(run), written)
        np.testing.assert_array_equal(run.affine, AFFINE)
        assert (run.tr_s, run.shape, run.labels) == (1.5, (4, 3, 2), (None,) * 6)
        assert run.volume_count == 6
    np.testing.assert_array_equal(recording.mask.indices, np.flatnonzero(mask_volume()))


def test_bids_events_keep_their_columns_and_unknown_is_empty(bids):
    first, second = open_recording(bids).runs[0].events

    assert (first.onset_s, first.duration_s, first.trial_id) == (3.0, 3.0, "t1")
    assert (first.stimulus_id, first.trial_type, first.split) == (
        "nsd-7",
        "image",
        "train",
    )
    assert (second.stimulus_id, second.split) == ("", "test")


def test_runs_are_chosen_by_name_and_an_unknown_one_is_refused(bids):
    chosen = open_recording(bids, ["sub-01_task-look_run-02"])

    assert [run.run_id for run in chosen.runs] == ["sub-01_task-look_run-02"]
    assert refusal(bids, ["run-09"]) == (
        "REC: expected run run-09, found sub-01_task-look_run-01, "
        "sub-01_task-look_run-02"
    )


def test_float_images_are_rounded_and_values_beyond_int16_refused(bids):
    file = bids / "sub-01/func/sub-01_task-look_run-01_bold.nii.gz"
    write_image(file, np.full((4, 3, 2, 6), 1.6, dtype=np.float32))
    rounded = open_recording(bids).runs[0].volumes()
    write_image(file, np.full((4, 3, 2, 6), 40000.0, dtype=np.float32))

    assert (rounded == 2).all()
    with pytest.raises(RecordingError, match="expected values within int16"):
        open_recording(bids).runs[0].volumes()


def test_a_haxby_folder_is_cut_into_runs_with_labels_and_blocks(haxby):
    first, second = open_recording(haxby).runs

    assert (first.run_id, second.run_id) == ("run-00", "run-01")
    assert first.labels == (0, 5, 5, 0)
    assert second.labels == (0, 0, 2, 3)
    written = np.moveaxis(images(8), -1, 0)
    np.testing.assert_array_equal(first.volumes(), written[:4])
    np.testing.assert_array_equal(second.volumes(), written[4:])
    (block,) = first.events
    assert (block.onset_s, block.duration_s) == (2.5, 5.0)
    assert [event.trial_type for event in second.events] == ["category-2", "category-3"]


def test_what_is_missing_is_named(bids, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    assert refusal(empty) == (
        "REC: expected sub-*/func/*_bold.nii.gz or attributes.txt, found no runs"
    )
    assert refusal(empty / "x") == "REC: expected a folder, found none"
    events = bids / "sub-01/func/sub-01_task-look_run-02_events.tsv"
    events.unlink()
    assert refusal(bids) == (
        "REC/sub-01/func/sub-01_task-look_run-02_events.tsv: "
        "expected a file, found none"
    )
    events.write_text(EVENTS)
    (bids / "derivatives/masks/sub-01/mask.nii.gz").unlink()
    assert refusal(bids) == (
        "REC: expected one derivatives/masks/**/mask.nii.gz, found 0"
    )


def test_a_haxby_folder_without_mask_or_with_other_lines_is_refused(haxby):
    (haxby / "mask.nii.gz").unlink()
    assert refusal(haxby) == "REC/mask.nii.gz: expected a file, found none"
    (haxby / "attributes.txt").write_text("0 0\n")
    assert refusal(haxby) == (
        "REC/attributes.txt: expected 8 lines, one a volume, found 1"
    )
    (haxby / "attributes.txt").write_text("9 0\n" * 8)
    assert refusal(haxby) == "REC/attributes.txt: expected labels 0 to 8, found 9"
    (haxby / "attributes.txt").write_text("face 0\n" * 8)
    assert refusal(haxby).startswith(
        "REC/attributes.txt: expected a label and a run a line, found"
    )


def test_a_torn_image_is_a_recording_error_that_names_the_file(bids):
    file = bids / "sub-01/func/sub-01_task-look_run-01_bold.nii.gz"
    # Long enough that opening, which reads ahead, does not meet the tear yet.
    write_image(file, images(volumes=8000))
    whole = file.read_bytes()
    file.write_bytes(whole[:-600])
    torn = open_recording(bids).runs[0]

    with pytest.raises(RecordingError) as error:
        torn.volumes()

    assert str(error.value).startswith(
        f"{file}: expected 8000 whole volumes, found a torn or damaged file ("
    )
    assert str(error.value).endswith("). Copy it again")
    for stump in (b"", whole[:20], b"not gzip at all"):
        file.write_bytes(stump)
        assert "found a torn or damaged file" in refusal(bids)


def test_a_sidecar_without_repetition_time_and_events_without_onset_are_refused(bids):
    sidecar = bids / "sub-01/func/sub-01_task-look_run-01_bold.json"
    sidecar.write_text("{}")
    assert refusal(bids) == (
        "REC/sub-01/func/sub-01_task-look_run-01_bold.json: expected a JSON object "
        "with RepetitionTime in seconds, "
        "found: Object missing required field `RepetitionTime`"
    )
    sidecar.write_text('{"RepetitionTime": 0}')
    assert refusal(bids).endswith("expected a positive RepetitionTime, found 0.0")
    sidecar.write_text('{"RepetitionTime": 2}')
    events = bids / "sub-01/func/sub-01_task-look_run-01_events.tsv"
    events.write_text("onset\tduration\n1\tsoon\n")
    assert "expected onset and duration in line 2" in refusal(bids)
    events.write_text("onset\tduration\ttrial_id\n1\t1\ta\n2\t1\ta\n")
    assert refusal(bids).endswith("expected each trial_id once, found a twice")


def test_a_mask_of_another_shape_or_without_voxels_is_refused(bids):
    file = bids / "derivatives/masks/sub-01/mask.nii.gz"
    write_image(file, np.zeros((4, 3, 2), dtype=np.uint8))
    assert refusal(bids).endswith("expected at least one voxel above 0, found none")
    write_image(file, np.ones((4, 3, 3), dtype=np.uint8))
    assert refusal(bids).endswith(
        "expected volumes of [4, 3, 3] as in the mask, found [4, 3, 2]"
    )


def test_a_missing_nibabel_names_the_extra(bids, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)

    with pytest.raises(BackendError) as error:
        open_recording(bids)

    assert str(error.value) == (
        "nibabel: expected the extra scanner, found it missing. "
        "Install neuroflow-rt[scanner]"
    )


@pytest.mark.parametrize(
    ("direction", "wanted"), [("k", (0.0, 0.7)), ("k-", (0.7, 0.0)), ("j", ())]
)
def test_slice_times_are_told_along_z(bids, direction, wanted):
    sidecar = bids / "sub-01/func/sub-01_task-look_run-01_bold.json"
    said = {"SliceTiming": [0.0, 0.7], "SliceEncodingDirection": direction}
    sidecar.write_text(json.dumps({"RepetitionTime": 1.5} | said))

    run, other = open_recording(bids).runs

    assert run.slice_times_s == wanted
    assert other.slice_times_s == ()


def test_confounds_are_read_by_name_a_line_a_volume(bids):
    run = open_recording(bids).runs[0]
    file = bids / "sub-01/func/sub-01_task-look_run-01_desc-confounds_timeseries.tsv"
    lines = [f"{k}\t{-k / 8}\t{k}" for k in range(6)]
    file.write_text("\n".join(["breath\ttrans_x\tother", *lines]) + "\n")

    assert run.confounds(()) == ({},) * 6
    assert run.confounds(("trans_x", "breath"))[2] == {"trans_x": -0.25, "breath": 2.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "expected a file, found none"),
        ("fd\n" + "1\n" * 5, "expected 6 lines, one a volume, found 5"),
        (
            "fd\nn/a\n" + "1\n" * 5,
            "expected a number for fd in line 2, found 'n/a'",
        ),
        (
            "dvars\n" + "1\n" * 6,
            "expected a number for fd in line 2, found no such column",
        ),
        (
            "fd\n" + "1\n" * 5 + "inf\n",
            "expected a number for fd in line 7, found 'inf'",
        ),
    ],
)
def test_confounds_that_are_not_there_are_refused(bids, text, message):
    run = open_recording(bids).runs[0]
    file = bids / "sub-01/func/sub-01_task-look_run-01_desc-confounds_timeseries.tsv"
    if text is not None:
        file.write_text(text)

    with pytest.raises(RecordingError) as error:
        run.confounds(("fd",))

    assert str(error.value) == f"{file}: {message}"
