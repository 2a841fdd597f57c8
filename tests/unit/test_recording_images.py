"""Of what was acquired once, one image is a run: the magnitude of the first echo."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from runtime.errors import RecordingError
from runtime.recording import open_recording
from training.shown import shown_pictures

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
EVENTS = "onset\tduration\tstim_id\n3.0\t2.0\tcat\n"
SHAPE = (4, 3, 2)


def write_image(file, shape):
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ones(shape, dtype=np.int16), AFFINE), file)


@pytest.fixture
def folder(tmp_path):
    """A dataset without runs; each has its events from the task's file at the top."""
    write_image(tmp_path / "derivatives/masks/sub-01/mask.nii.gz", SHAPE)
    (tmp_path / "task-look_events.tsv").write_text(EVENTS)
    for task in ("look", "rest"):
        said = json.dumps({"RepetitionTime": 1.5})
        (tmp_path / f"task-{task}_bold.json").write_text(said)
    return tmp_path


def image(folder, *names, shape=SHAPE):
    for name in names:
        file = folder / "sub-01" / "func" / f"sub-01_task-{name}_bold.nii.gz"
        write_image(file, (*shape, 6))


def taken(folder, **asked):
    recording = open_recording(folder, **asked)
    names = [run.run_id.removeprefix("sub-01_task-") for run in recording.runs]
    return names, recording.left_out


def refusal(folder, **asked):
    with pytest.raises(RecordingError) as error:
        open_recording(folder, **asked)
    assert error.value.exit_status == 1
    return str(error.value).replace(f"{folder}", "REC").replace("REC/sub-01/func/", "")


def test_of_several_echoes_the_first_is_a_run_and_the_others_are_counted(folder):
    for run in ("01", "02"):
        image(folder, *(f"look_run-{run}_echo-{echo}" for echo in (1, 2, 10)))

    assert taken(folder) == (
        ["look_run-01_echo-1", "look_run-02_echo-1"],
        "images left out: 4 of a further echo (such as "
        "sub-01_task-look_run-01_echo-10_bold.nii.gz)",
    )


def test_an_echo_that_is_kept_alone_is_a_run(folder):
    image(folder, "look_run-01_echo-2")

    assert taken(folder) == (["look_run-01_echo-2"], "")


def test_phase_is_never_learned_from(folder):
    image(folder, "look_run-01", "look_run-01_part-phase")
    image(folder, *(f"look_run-02_part-{part}" for part in ("mag", "real", "imag")))

    assert taken(folder) == (
        ["look_run-01", "look_run-02_part-mag"],
        "images left out: 3 of phase or another part of complex values (such as "
        "sub-01_task-look_run-01_part-phase_bold.nii.gz)",
    )
    (folder / "sub-01/func/sub-01_task-look_run-01_bold.nii.gz").unlink()
    assert refusal(folder) == (
        "sub-01_task-look_run-01_part-phase_bold.nii.gz: expected the magnitude of "
        "this run beside it, found none. Take it out of the folder, or add the "
        "magnitude"
    )


def test_what_is_left_out_for_several_reasons_is_one_line(folder):
    kinds = ("echo-1_part-mag", "echo-1_part-phase", "echo-2_part-mag")
    image(folder, *(f"look_run-01_{kind}" for kind in kinds))

    names, left_out = taken(folder)

    assert names == ["look_run-01_echo-1_part-mag"]
    assert left_out == (
        "images left out: 1 of phase or another part of complex values (such as "
        "sub-01_task-look_run-01_echo-1_part-phase_bold.nii.gz), 1 of a further echo "
        "(such as sub-01_task-look_run-01_echo-2_part-mag_bold.nii.gz)"
    )
    # Where training and preparation say what is no trial, too.
    assert shown_pictures(open_recording(folder)).left_out() == left_out


def test_a_reconstruction_beside_the_scanners_own_is_left_out(folder):
    image(folder, "look_run-01", "look_rec-moco_run-01")

    assert taken(folder) == (
        ["look_run-01"],
        "images left out: 1 of a further reconstruction (such as "
        "sub-01_task-look_rec-moco_run-01_bold.nii.gz)",
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("look_rec-a_run-01", "look_rec-b_run-01"),
        ("look_run-01", "look_run-01_part-mag"),
        # It may be made of the echoes, or be another acquisition's.
        ("look_run-01", "look_run-01_echo-1"),
        ("look_run-01_echo-1", "look_run-01_echo-one"),
    ],
)
def test_where_it_cannot_be_told_which_image_is_the_run_it_is_refused(
    folder, one, other
):
    image(folder, one, other)

    assert refusal(folder) == (
        f"sub-01_task-{other}_bold.nii.gz: expected one image of a run, found "
        f"sub-01_task-{one}_bold.nii.gz beside it, of the same acquisition. Take one "
        "of the two out of the folder"
    )
    # Whoever names it says which.
    assert taken(folder, runs=[f"sub-01_task-{other}"]) == ([other], "")


def test_two_images_of_one_run_that_are_named_are_not_two_runs(folder):
    names = ("look_run-01_echo-1", "look_run-01_echo-2")
    image(folder, *names)

    assert refusal(folder, runs=[f"sub-01_task-{name}" for name in names]) == (
        "REC: expected runs that are not the same one, found "
        "sub-01_task-look_run-01_echo-2_bold.nii.gz, which is one of a further echo"
    )


def test_other_acquisitions_are_other_runs(folder):
    names = ["look_acq-fast_run-01", "look_acq-slow_run-01", "look_dir-AP_run-01"]
    image(folder, *names, "look_run-01")

    assert taken(folder) == ([*names, "look_run-01"], "")


def test_what_differs_in_a_word_unknown_to_the_standard_has_events_of_its_own(folder):
    one, other = "look_run-01_space-MNI", "look_run-01_space-T1w"
    image(folder, one, other)

    assert refusal(folder) == (
        f"sub-01_task-{other}_bold.nii.gz: expected events of its own, or another run- "
        f"in its name, found task-look_events.tsv for sub-01_task-{one}_bold.nii.gz "
        "too, which may be the same run. Take one of the two out of the folder"
    )
    (folder / f"sub-01/func/sub-01_task-{other}_events.tsv").write_text(EVENTS)
    assert taken(folder) == ([one, other], "")


def test_a_task_without_events_is_left_out_and_one_run_without_is_asked_for(folder):
    image(folder, "look_run-01", "look_run-02", "rest", shape=SHAPE)

    assert taken(folder) == (
        ["look_run-01", "look_run-02"],
        "images left out: 1 of a task without events (such as "
        "sub-01_task-rest_bold.nii.gz)",
    )
    lost = "sub-01_task-rest_events.tsv: expected it here or further up, found none"
    assert refusal(folder, runs=["sub-01_task-rest"]) == lost
    assert refusal(folder, task="rest") == lost
    events = folder / "task-look_events.tsv"
    shutil.move(events, folder / "sub-01/func/sub-01_task-look_run-01_events.tsv")
    assert refusal(folder) == lost.replace("rest", "look_run-02")


def test_a_task_is_chosen_and_one_of_another_grid_says_how(folder):
    image(folder, "look_run-01")
    image(folder, "rest", shape=(5, 3, 2))
    (folder / "task-rest_events.tsv").write_text(EVENTS)

    assert refusal(folder) == (
        "sub-01_task-rest_bold.nii.gz: expected volumes of [4, 3, 2] as in the mask, "
        "found [5, 3, 2]. Take the runs of one task: by --task where there is that, "
        "or by name"
    )
    for task in ("look", "task-look"):
        assert taken(folder, task=task) == (["look_run-01"], "")
    assert refusal(folder, task="rest").endswith("found [5, 3, 2]")
    assert refusal(folder, task="sleep") == (
        "REC: expected runs of task-sleep, found task-look, task-rest"
    )
