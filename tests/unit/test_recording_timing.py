"""A recording's clock: what contradicts its sidecar, or cannot be in seconds."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from runtime.errors import RecordingError
from runtime.estimator import BetaEstimator
from runtime.patch_dct import PatchDct
from runtime.recording import open_recording
from tests.participants import tiny_participant
from training.data.bids import open_bids, prepare_bids
from training.dataset import open_dataset
from training.visual.backbone import PatchDctBackbone

ESTIMATOR = BetaEstimator(decision_delay_s=9.0)


def write_run(folder, tr_s, step, unit):
    """Write one run of which sidecar and header tell the time between volumes."""
    func, masks = folder / "sub-01" / "func", folder / "derivatives" / "masks"
    for place in (func, masks):
        place.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.ones((2, 2, 2, 4), np.int16), np.eye(4))
    image.header["pixdim"][4] = step
    image.header["xyzt_units"] = unit
    nib.save(image, func / "sub-01_task-look_bold.nii.gz")
    said = json.dumps({"RepetitionTime": tr_s})
    (func / "sub-01_task-look_bold.json").write_text(said)
    (func / "sub-01_task-look_events.tsv").write_text("onset\tduration\n")
    mask = nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4))
    nib.save(mask, masks / "mask.nii.gz")
    return func


SECONDS, MILLISECONDS, MICROSECONDS, HERTZ, NOT_OF_NIFTI = 8, 16, 24, 32, 56


@pytest.mark.parametrize(
    ("tr_s", "step", "unit"),
    [
        (0.8, 0.8, SECONDS),
        (0.8, 0.8, SECONDS | 2),
        (0.8, 800, MILLISECONDS),
        (0.8, 8e5, MICROSECONDS),
        # Two decimals, to the very tolerance.
        (1.325, 1.33, SECONDS),
        (0.735, 0.74, SECONDS),
        (2.0, 1.99, SECONDS),
        # What tells nothing, and what joining programs leave.
        (0.8, 1.0, SECONDS),
        (2.0, 1000, MILLISECONDS),
        (0.8, 1.0, 0),
        (0.8, 1.0, 2),
        (0.8, 1.0, HERTZ),
        (0.8, 1.0, NOT_OF_NIFTI),
        (0.8, 0.0, SECONDS),
        (0.8, np.nan, SECONDS),
        (0.8, np.inf, SECONDS),
    ],
)
def test_a_header_that_agrees_or_tells_nothing_is_taken(tmp_path, tr_s, step, unit):
    write_run(tmp_path, tr_s, step, unit)

    assert open_recording(tmp_path).runs[0].tr_s == tr_s


@pytest.mark.parametrize(
    ("tr_s", "step", "unit", "found"),
    [
        (0.8, 1.2, SECONDS | 2, "1.2"),
        (2.0, 1.989, SECONDS, "1.989"),
        (0.735, 0.7402, SECONDS, "0.7402"),
        (0.8, 1200, MILLISECONDS, "1.2"),
        (0.8, 0.8, MILLISECONDS, "0.0008"),
        (2.0, 2.5e6, MICROSECONDS, "2.5"),
    ],
)
def test_a_header_that_tells_another_time_is_refused(tmp_path, tr_s, step, unit, found):
    func = write_run(tmp_path, tr_s, step, unit)

    with pytest.raises(RecordingError) as error:
        open_recording(tmp_path)

    assert str(error.value) == (
        f"{func / 'sub-01_task-look_bold.nii.gz'}: expected {tr_s:g} s between volumes "
        f"as RepetitionTime says, found {found} s in its header (pixdim[4]). Mend the "
        "one that is wrong"
    )


def test_a_repetition_time_in_milliseconds_is_refused(tmp_path):
    func = write_run(tmp_path, 1000, 1.0, 0)

    with pytest.raises(RecordingError) as error:
        open_recording(tmp_path)

    assert str(error.value) == (
        f"{func / 'sub-01_task-look_bold.json'}: RepetitionTime: expected seconds, up "
        "to 60, found 1000. Divide what is in milliseconds by 1000"
    )
    write_run(tmp_path, 60, 1.0, 0)
    assert open_recording(tmp_path).runs[0].tr_s == 60


@pytest.fixture
def in_milliseconds(tmp_path):
    folder = shutil.copytree(tiny_participant(), tmp_path / "bids")
    for file in folder.glob("sub-*/**/func/*_events.tsv"):
        head, *rows = file.read_text().splitlines()
        cells = [row.split("\t") for row in rows]
        lines = [
            "\t".join([f"{1000 * float(onset):g}", *rest]) for onset, *rest in cells
        ]
        file.write_text("\n".join([head, *lines]) + "\n")
    return folder


def test_onsets_in_milliseconds_are_counted_where_no_trial_is_left(
    in_milliseconds, tmp_path
):
    runs = open_recording(in_milliseconds).runs
    count = sum(len(run.events) for run in runs)
    asked = [r for r in runs if r.events[0].split in ("train", "calibration")]
    told = (
        "events with an onset outside their run. Onsets are in seconds after its start"
    )

    for betas, place in (
        ("causal", "trials that end 9 s before their run does"),
        ("offline", "trials that begin in their run and 9 s before it ends"),
    ):
        with pytest.raises(RecordingError) as error:
            prepare_bids(
                open_bids(in_milliseconds),
                tmp_path / betas,
                PatchDctBackbone(),
                ESTIMATOR,
                betas,
            )
        assert str(error.value) == (
            f"{in_milliseconds}: expected {place}, found {count} of {count} {told}"
        )
    with pytest.raises(RecordingError) as error:
        open_dataset(in_milliseconds, ESTIMATOR, PatchDct())
    of = sum(len(run.events) for run in asked)
    assert str(error.value).endswith(f"found {of} of {of} {told}")


def test_onsets_of_which_one_is_in_its_run_are_counted_too(in_milliseconds, tmp_path):
    runs = open_recording(in_milliseconds).runs
    count = sum(len(run.events) for run in runs)
    name = next(run.run_id for run in runs if run.events[0].split == "train")
    file = next(in_milliseconds.glob(f"**/{name}_events.tsv"))
    head, first, *rest = file.read_text().splitlines()
    cells = "\t".join(["30", *first.split("\t")[1:]])
    file.write_text("\n".join([head, cells, *rest]) + "\n")

    with pytest.raises(RecordingError) as error:
        prepare_bids(
            open_bids(in_milliseconds), tmp_path / "out", PatchDctBackbone(), ESTIMATOR
        )

    assert str(error.value) == (
        f"{in_milliseconds}: split: expected at least 2 trials of train, found 1, and "
        f"{count - 1} of {count} events with an onset outside their run. Onsets are in "
        "seconds after its start"
    )
