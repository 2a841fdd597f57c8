import json
import shutil
import sys
from pathlib import Path

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


def refusal(folder, runs=None, subject=None):
    with pytest.raises(RecordingError) as error:
        open_recording(folder, runs, subject=subject)
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


BOLD = "sub-01/func/sub-01_task-look_run-01_bold.nii.gz"


@pytest.mark.parametrize(
    ("stored", "kept"),
    [
        ("int16", "int16"),
        (">i2", "int16"),
        ("uint8", "int16"),
        ("uint16", "uint16"),
        ("int32", "int32"),
        ("uint32", "int32"),
        ("float32", "float32"),
        ("float64", "float32"),
    ],
)
def test_no_value_is_rounded_to_whole_numbers(bids, stored, kept):
    # Data scaled to between 0 and 10, as some pipelines leave it.
    values = np.random.default_rng(0).uniform(0, 10, (4, 3, 2, 6)).astype(stored)
    if values.dtype.itemsize == 4 and values.dtype.kind in "iu":
        values[0, 0, 0, 0] = 70_000
    write_image(bids / BOLD, values)

    found = open_recording(bids).runs[0].volumes()

    assert found.dtype == kept
    # The same but for a float64's last digits.
    np.testing.assert_array_equal(found, np.moveaxis(values, -1, 0).astype(kept))


def test_what_a_file_scales_comes_scaled(bids):
    values = np.random.default_rng(0).uniform(0, 10, (4, 3, 2, 6))
    image = nib.Nifti1Image(values, AFFINE)
    image.set_data_dtype(np.int16)
    nib.save(image, bids / BOLD)

    found = open_recording(bids).runs[0].volumes()

    assert nib.load(bids / BOLD).get_data_dtype() == np.int16
    assert found.dtype == np.float32
    # Half a step of 10 / 2^16 was lost in the file.
    np.testing.assert_allclose(found, np.moveaxis(values, -1, 0), atol=10 / 2**16)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.full((4, 3, 2, 6), 2**31, np.uint32), "integers from 2147483648 to"),
        (np.ones((4, 3, 2, 6), np.complex64), "complex64"),
    ],
)
def test_numbers_that_no_scanner_sends_are_refused(bids, values, found):
    write_image(bids / BOLD, values)

    with pytest.raises(RecordingError) as error:
        open_recording(bids).runs[0].volumes()

    assert str(error.value).startswith(
        f"{bids / BOLD}: expected real numbers, or integers within int32, found {found}"
    )


def test_what_is_not_finite_counts_in_the_mask_alone(bids):
    values = np.random.default_rng(0).uniform(0, 10, (4, 3, 2, 6)).astype(np.float32)
    values[mask_volume() == 0, 2] = np.nan
    write_image(bids / BOLD, values)
    found = open_recording(bids).runs[0].volumes()
    values[1, 2, 0, 4], values[3, 0, 1, 4] = np.nan, np.inf
    write_image(bids / BOLD, values)

    with pytest.raises(RecordingError) as error:
        open_recording(bids).runs[0].volumes()

    assert not found[2][mask_volume() == 0].any()
    wanted = np.moveaxis(np.nan_to_num(values, nan=0.0), -1, 0)
    np.testing.assert_array_equal(found[:4], wanted[:4])
    assert str(error.value) == (
        f"{bids / BOLD}: volume 4, voxel [1, 2, 0]: expected a finite value within the "
        "mask, found nan, and 1 more in this volume. Leave such voxels out of the "
        "mask, or mend the recording"
    )


def test_float_data_can_be_sent(bids):
    write_image(bids / BOLD, np.full((4, 3, 2, 6), 0.5, dtype=np.float64))

    run = open_recording(bids).runs[0]

    for volume in run:
        np.testing.assert_array_equal(open_recording(bids).mask.select(volume), 0.5)


def second_person(bids):
    for file in sorted((bids / "sub-01").rglob("*.*")):
        other = Path(str(file).replace("sub-01", "sub-02"))
        other.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, other)


def test_runs_of_two_people_are_never_pooled(bids):
    second_person(bids)
    several = (
        "REC: expected runs of one participant, found sub-01, sub-02. "
        "Name one with --subject"
    )
    own = np.ones((4, 3, 2), dtype=np.uint8)
    write_image(bids / "derivatives/masks/sub-02/mask.nii.gz", own)

    assert refusal(bids) == several
    assert (
        refusal(bids, subject="3")
        == "REC: expected runs of sub-3, found sub-01, sub-02"
    )
    for subject in ("02", "sub-02"):
        found = open_recording(bids, subject=subject)
        assert found.subject == "sub-02"
        assert [run.run_id for run in found.runs] == [
            "sub-02_task-look_run-01",
            "sub-02_task-look_run-02",
        ]
        assert found.mask.voxels == own.sum()
    named = open_recording(bids, ["sub-01_task-look_run-02"])
    assert (named.subject, named.mask.voxels) == ("sub-01", 2)
    assert refusal(bids, [run.run_id for run in (*named.runs, *found.runs)]) == several


def test_a_mask_counts_for_its_own_participant_or_for_everybody(bids):
    second_person(bids)
    assert refusal(bids, subject="02") == (
        "REC: expected one derivatives/masks/**/mask.nii.gz (or .nii) of sub-02, "
        "found 0"
    )
    shutil.move(bids / "derivatives/masks/sub-01", bids / "derivatives/masks/group")

    for subject in ("01", "02"):
        assert open_recording(bids, subject=subject).mask.voxels == 2


def test_the_sessions_of_one_participant_are_one_recording(bids):
    func = bids / "sub-01" / "func"
    for number in (1, 2):
        place = bids / "sub-01" / f"ses-{number}" / "func"
        place.mkdir(parents=True)
        for file in sorted(func.glob(f"*run-{number:02}*")):
            name = file.name.replace("_task", f"_ses-{number}_task")
            file.rename(place / name)

    recording = open_recording(bids)

    assert recording.subject == "sub-01"
    assert [run.run_id for run in recording.runs] == [
        "sub-01_ses-1_task-look_run-01",
        "sub-01_ses-2_task-look_run-02",
    ]
    assert all(len(run.events) == 2 for run in recording.runs)


def test_a_file_of_another_participant_is_refused(bids):
    file = bids / BOLD
    strange = file.with_name(file.name.replace("sub-01", "sub-03"))
    file.rename(strange)

    assert refusal(bids) == (
        f"REC/sub-01/func/{strange.name}: expected a name that begins with sub-01_ as "
        f"its folder, found {strange.name}"
    )


def sidecars(bids, **texts):
    """Take each run's own sidecar away, and write others: ``place__name=content``."""
    for file in sorted((bids / "sub-01" / "func").glob("*_bold.json")):
        file.unlink()
    for name, said in texts.items():
        (bids / f"{name.replace('__', '/')}_bold.json").write_text(json.dumps(said))


def test_what_is_said_further_up_holds_unless_said_again_nearer(bids):
    sidecars(
        bids,
        **{
            "task-look": {"RepetitionTime": 2.0, "SliceTiming": [0.0, 1.0]},
            "task-other": {"RepetitionTime": 9.0},
            "sub-01__sub-01_run-02": {"RepetitionTime": 1.25},
        },
    )
    events = bids / "sub-01/func/sub-01_task-look_run-02_events.tsv"
    events.rename(bids / "task-look_events.tsv")
    (bids / "sub-01/func/sub-01_task-look_run-01_events.tsv").write_text(
        "onset\tduration\tstim_id\n1.0\t1.0\tdog\n"
    )

    first, second = open_recording(bids).runs

    assert (first.tr_s, second.tr_s) == (2.0, 1.25)
    assert first.slice_times_s == second.slice_times_s == (0.0, 1.0)
    assert [event.stimulus_id for event in first.events] == ["dog"]
    assert [event.stimulus_id for event in second.events] == ["nsd-7", ""]


def test_two_sidecars_of_the_same_rank_are_refused(bids):
    sidecars(
        bids, **{"task-look": {"RepetitionTime": 2}, "run-01": {"RepetitionTime": 3}}
    )

    assert refusal(bids) == (
        "REC/task-look_bold.json: expected one bold.json for "
        "sub-01_task-look_run-01_bold.nii.gz in this folder, found run-01_bold.json "
        "beside it"
    )


def test_a_sidecar_that_is_nowhere_is_asked_for_beside_the_run(bids):
    sidecars(bids)

    assert refusal(bids) == (
        "REC/sub-01/func/sub-01_task-look_run-01_bold.json: expected it here or "
        "further up, found none"
    )


def test_plain_images_are_read_as_compressed_ones(bids):
    wanted = open_recording(bids)
    for file in sorted(bids.rglob("*.nii.gz")):
        nib.save(nib.load(file), file.with_suffix(""))
    assert refusal(bids) == (
        "REC/sub-01/func/sub-01_task-look_run-01_bold.nii: expected one file of this "
        "image, found sub-01_task-look_run-01_bold.nii.gz beside it. Remove one of the "
        "two"
    )
    volumes = [run.volumes() for run in wanted.runs]
    for file in sorted(bids.rglob("*.nii.gz")):
        file.unlink()

    found = open_recording(bids)

    assert [run.run_id for run in found.runs] == [run.run_id for run in wanted.runs]
    assert found.mask.sha256 == wanted.mask.sha256
    for run, whole in zip(found.runs, volumes, strict=True):
        np.testing.assert_array_equal(run.volumes(), whole)
    run = found.runs[0]
    table = run.file.with_name("sub-01_task-look_run-01_desc-confounds_timeseries.tsv")
    table.write_text("fd\n" + "1\n" * 6)
    assert run.confounds(("fd",)) == ({"fd": 1.0},) * 6


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
        "REC: expected sub-*/func/*_bold.nii.gz (or .nii) or attributes.txt, "
        "found no runs"
    )
    assert refusal(empty / "x") == "REC: expected a folder, found none"
    events = bids / "sub-01/func/sub-01_task-look_run-02_events.tsv"
    events.unlink()
    assert refusal(bids) == (
        "REC/sub-01/func/sub-01_task-look_run-02_events.tsv: "
        "expected it here or further up, found none"
    )
    events.write_text(EVENTS)
    (bids / "derivatives/masks/sub-01/mask.nii.gz").unlink()
    assert refusal(bids) == (
        "REC: expected one derivatives/masks/**/mask.nii.gz (or .nii) of sub-01, "
        "found 0"
    )


def test_a_haxby_folder_has_no_participant_to_choose(haxby):
    assert refusal(haxby, subject="01") == (
        "REC: subject: expected none in a folder with attributes.txt, which holds one "
        "participant, found 01"
    )
    assert [run.run_id for run in open_recording(haxby, ["run-01"]).runs] == ["run-01"]
    assert refusal(haxby, ["run-07"]) == (
        "REC: expected run run-07, found run-00, run-01"
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
    assert refusal(bids).endswith(
        "line 2: expected onset and duration in seconds, found duration 'soon'"
    )
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
