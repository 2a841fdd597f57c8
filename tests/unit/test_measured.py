"""A run that was never alive, or is another one again, is no data."""

import shutil
from dataclasses import replace

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
from training.measured import Measured
from training.visual.backbone import PatchDctBackbone

ESTIMATOR = BetaEstimator(decision_delay_s=9.0)


@pytest.fixture
def run():
    return open_recording(tiny_participant()).runs[0]


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(tiny_participant(), tmp_path / "bids")


def prepare(folder, out, betas="causal"):
    trials = open_bids(folder)
    return prepare_bids(trials, out, PatchDctBackbone(), ESTIMATOR, betas)


def with_still(run, voxels):
    """Return a run's volumes with some voxels of its mask at their first value."""
    volumes = run.volumes()
    rows = volumes.reshape(len(volumes), -1)
    rows[:, run.mask.indices[:voxels]] = rows[0, run.mask.indices[:voxels]]
    return volumes


@pytest.mark.parametrize("over", [0, 1])
def test_a_run_may_be_still_in_half_of_the_mask_and_no_voxel_more(run, over):
    voxels = run.mask.voxels
    still = voxels // 2 + over

    if not over:
        Measured().look(run, with_still(run, still))
        return
    with pytest.raises(RecordingError) as error:
        Measured().look(run, with_still(run, still))

    assert str(error.value) == (
        f"{run.file}: expected voxels that vary during the run, found {still} of "
        f"{voxels} in the mask that never do. Copy the image again, leave the run out, "
        "or give a mask of what was scanned"
    )


def test_what_lies_outside_the_mask_or_in_missing_volumes_does_not_vary_a_run(run):
    volumes = with_still(run, run.mask.voxels)
    volumes[:, ~run.mask.volume()] = np.arange(len(volumes))[:, None]
    volumes[3] += 7

    with pytest.raises(RecordingError, match="that never do"):
        Measured().look(replace(run, missing=frozenset({3})), volumes)
    Measured().look(run, volumes)
    Measured().look(replace(run, mask=None), volumes)
    Measured().look(replace(run, missing=frozenset(range(1, len(volumes)))), volumes)


def test_a_copy_in_the_mask_is_found_and_one_volume_makes_another_run(run):
    measured, volumes = Measured(), run.volumes()
    again = replace(run, run_id="again")
    measured.look(run, volumes)
    measured.look(run, volumes)
    other = volumes.copy()
    other.reshape(len(other), -1)[-1, run.mask.indices[0]] += 1
    measured.look(replace(run, run_id="other"), other)
    outside = np.where(run.mask.volume(), volumes, 0)

    with pytest.raises(RecordingError) as error:
        measured.look(again, outside)

    assert str(error.value) == (
        f"{run.file}: expected another measurement than in {run.run_id}, found the "
        "same voxels in every volume of again. Put the right image in its place, "
        "or leave one of the two out"
    )


@pytest.mark.parametrize("betas", ["causal", "offline"])
def test_a_dead_run_is_not_prepared(copy, tmp_path, betas):
    file = sorted(copy.glob("sub-*/**/func/*_bold.nii.gz"))[1]
    image = nib.load(file)
    flat = np.full(image.shape, 500, np.int16)
    nib.save(nib.Nifti1Image(flat, image.affine), file)
    voxels = open_recording(copy).mask.voxels

    with pytest.raises(RecordingError) as error:
        prepare(copy, tmp_path / "out", betas)

    assert str(error.value).startswith(
        f"{file}: expected voxels that vary during the run, found {voxels} of {voxels} "
    )


@pytest.mark.parametrize("betas", ["causal", "offline"])
def test_a_dead_run_without_a_trial_is_in_nobodys_way(copy, tmp_path, betas):
    run = next(r for r in open_recording(copy).runs if r.events[0].split == "train")
    image = nib.load(run.file)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.int16), image.affine), run.file)
    events = run.file.with_name(run.file.name.replace("_bold.nii.gz", "_events.tsv"))
    events.write_text(events.read_text().splitlines()[0] + "\n")

    prepare(copy, tmp_path / "out", betas)

    assert (tmp_path / "out" / "manifest.json").is_file()


@pytest.mark.parametrize("betas", ["causal", "offline"])
def test_a_copied_run_is_neither_prepared_nor_trained_on(copy, tmp_path, betas):
    runs = [run for run in open_recording(copy).runs if run.events[0].split == "train"]
    first, second = runs[:2]
    shutil.copy(first.file, second.file)

    with pytest.raises(RecordingError) as error:
        prepare(copy, tmp_path / "out", betas)

    line = (
        f"{second.file}: expected another measurement than in {first.run_id}, found "
        f"the same voxels in every volume of {second.run_id}. Put the right image "
        "in its place, or leave one of the two out"
    )
    assert str(error.value) == line
    with pytest.raises(RecordingError) as error:
        open_dataset(copy, ESTIMATOR, PatchDct())
    assert str(error.value) == line
