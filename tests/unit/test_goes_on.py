"""A preparation that was interrupted goes on with the same inputs or is refused."""

import os

import h5py
import nibabel as nib
import numpy as np
import pytest

from runtime.errors import ArtifactError, NeuroFlowError
from tests.nsd_folder import (
    BETAS,
    DESIGN,
    MASK,
    SHAPE,
    STIMULI,
    write_design,
    write_nsd,
    write_session,
)
from training.data import writer as writer_module
from training.data.nsd import open_nsd, prepare_nsd
from training.data.nsd_latents import latents_of_backbone
from training.data.store import open_trials
from training.visual.backbone import PatchDctBackbone

SUBJECT = 2


class StoppedError(Exception):
    pass


@pytest.fixture
def nsd(tmp_path):
    return write_nsd(tmp_path / "nsd")


def prepare(nsd, out, stop_after=None):
    calls = iter(range(10**6))

    def count(_done, _all):
        if next(calls) == stop_after:
            raise StoppedError

    latents = latents_of_backbone(PatchDctBackbone(), nsd.root / STIMULI)
    trials = open_nsd(nsd.root, SUBJECT)
    return prepare_nsd(trials, SUBJECT, out, "train", latents, count=count)


def stopped(nsd, out):
    with pytest.raises(StoppedError):
        prepare(nsd, out, stop_after=1)


def other_order(nsd):
    write_design(nsd.root / DESIGN, np.roll(nsd.order, 40), nsd.subjectim)
    return nsd.root / DESIGN


def other_betas(nsd):
    file = nsd.root / BETAS / "betas_session02.hdf5"
    write_session(file, nsd.betas[1][::-1])
    return file


def other_pictures(nsd):
    with h5py.File(nsd.root / STIMULI, "r+") as file:
        file["imgBrick"][:] = nsd.bricks[::-1]
    return nsd.root / STIMULI


@pytest.mark.parametrize("change", [other_order, other_betas, other_pictures])
def test_inputs_that_changed_in_between_are_named_and_nothing_is_mixed(
    nsd, tmp_path, change
):
    stopped(nsd, tmp_path / "out")
    file = change(nsd)

    with pytest.raises(ArtifactError) as error:
        prepare(nsd, tmp_path / "out")

    # Another order of the experiment changes the pictures' list, too.
    assert str(error.value) in (
        f"{tmp_path / 'out' / 'progress.json'}: {file}: expected what the preparation "
        "that was interrupted has read, found it changed since. Choose another --out",
        f"{tmp_path / 'out' / 'progress.json'}: task: expected the preparation that "
        "was interrupted, found another one's arguments. Choose another --out",
    )


@pytest.mark.parametrize("name", ["voxels", "mean", "latents"])
@pytest.mark.parametrize("left", [0, 4, 0.5])
def test_an_array_that_was_cut_is_not_filled_up_with_zeros(nsd, tmp_path, name, left):
    stopped(nsd, tmp_path / "out")
    file = tmp_path / "out" / f"{name}.npy"
    size = file.stat().st_size
    os.truncate(file, size - left if left == 4 else int(size * left))

    with pytest.raises(ArtifactError) as error:
        prepare(nsd, tmp_path / "out")

    assert str(error.value).startswith(f"{file}: expected ")
    assert "\n" not in str(error.value)


def test_a_disk_that_was_full_and_has_room_again_goes_on(nsd, tmp_path, monkeypatch):
    whole = prepare(nsd, tmp_path / "whole")
    made = writer_module.create_array
    rooms = iter([True, True, False])

    def full(file, dtype, shape):
        if not next(rooms):
            raise ArtifactError(f"{file}: expected room, found none")
        return made(file, dtype, shape)

    with monkeypatch.context() as patched:
        patched.setattr(writer_module, "create_array", full)
        with pytest.raises(ArtifactError, match="expected room"):
            prepare(nsd, tmp_path / "out")

    assert prepare(nsd, tmp_path / "out") == whole
    assert open_trials(tmp_path / "out", whole=True).manifest == whole


def test_a_file_is_no_folder_to_write_into(nsd, tmp_path):
    (tmp_path / "out").write_text("")

    with pytest.raises(ArtifactError, match=r"found a file\. Choose another --out"):
        prepare(nsd, tmp_path / "out")


def group_of_betas(nsd):
    file = nsd.root / BETAS / "betas_session02.hdf5"
    with h5py.File(file, "w") as opened:
        opened.create_group("betas")
    return file, "betas: expected a data set, found ['betas']"


def group_of_pictures(nsd):
    with h5py.File(nsd.root / STIMULI, "w") as opened:
        opened.create_group("imgBrick")
    return nsd.root / STIMULI, "imgBrick: expected a data set, found none"


def real_pictures(nsd):
    with h5py.File(nsd.root / STIMULI, "w") as opened:
        opened["imgBrick"] = nsd.bricks.astype(np.float32)
    found = f"float32 {list(nsd.bricks.shape)}"
    return nsd.root / STIMULI, (
        f"imgBrick: expected uint8 [picture, row, column, 3], found {found}"
    )


def mask_image(nsd, values, affine):
    nib.save(nib.Nifti1Image(values.astype(np.float32), affine), nsd.root / MASK)
    return nsd.root / MASK


def mask_of_other_voxels(nsd):
    return mask_image(nsd, nsd.mask, 7 * np.eye(4)), (
        "affine: expected voxels of 1 x 1 x 1 mm as in betas_session01.nii.gz, "
        "found 7 x 7 x 7"
    )


def mask_without_a_number(nsd):
    values = nsd.mask.astype(np.float32)
    values[1, 2, 0] = np.nan
    return mask_image(nsd, values, np.eye(4)), (
        "expected finite values, found nan at voxel [1, 2, 0], and 0 more"
    )


def mask_of_another_shape(nsd):
    return mask_image(nsd, np.ones((5, 4, 4)), np.eye(4)), (
        f"shape: expected {SHAPE} as in betas_session01.nii.gz, found (5, 4, 4)"
    )


@pytest.mark.parametrize(
    "harm",
    [
        group_of_betas,
        group_of_pictures,
        real_pictures,
        mask_of_other_voxels,
        mask_without_a_number,
    ],
)
def test_what_is_no_input_is_one_line_with_its_file(nsd, tmp_path, harm):
    file, line = harm(nsd)

    with pytest.raises(NeuroFlowError) as error:
        prepare(nsd, tmp_path / "out")

    assert str(error.value) == f"{file}: {line}"
    assert error.value.exit_status == 1


def test_a_mask_of_another_shape_is_blamed_before_regions_are_read(nsd):
    file, line = mask_of_another_shape(nsd)

    with pytest.raises(NeuroFlowError) as error:
        open_nsd(nsd.root, SUBJECT)

    assert str(error.value) == f"{file}: {line}"
