"""A preparation that was interrupted goes on with the same inputs or is refused."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

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
from training.data import nsd_latents
from training.data import writer as writer_module
from training.data.nsd import open_nsd, prepare_nsd
from training.data.nsd_latents import latents_of_backbone
from training.data.store import open_trials
from training.visual.backbone import PatchDctBackbone

SUBJECT = 2
AFTER_PICTURES = 3
"""Three sessions, and some of the pictures."""


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


def stopped(nsd, out, stop_after=1):
    with pytest.raises(StoppedError):
        prepare(nsd, out, stop_after)


def refused(nsd, out):
    with pytest.raises(NeuroFlowError) as error:
        prepare(nsd, out)
    return str(error.value)


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


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (other_order, DESIGN),
        (other_betas, f"{BETAS}/betas_session02.hdf5"),
        (other_pictures, "nsd_stimuli.hdf5"),
    ],
)
def test_inputs_that_changed_in_between_are_named_and_nothing_is_mixed(
    nsd, tmp_path, change, name
):
    stopped(nsd, tmp_path / "out", AFTER_PICTURES)
    change(nsd)

    with pytest.raises(ArtifactError) as error:
        prepare(nsd, tmp_path / "out")

    # Another order of the experiment changes the pictures' list, too.
    assert str(error.value) in (
        f"{tmp_path / 'out' / 'progress.json'}: {name}: expected what the preparation "
        "that was interrupted has read, found it changed since. Choose another --out",
        f"{tmp_path / 'out' / 'progress.json'}: task: expected the preparation that "
        "was interrupted, found another one's arguments. Choose another --out",
    )


def test_a_session_that_was_damaged_is_copied_again_and_the_preparation_goes_on(
    nsd, tmp_path
):
    whole = prepare(nsd, tmp_path / "whole")
    file = nsd.root / BETAS / "betas_session02.hdf5"
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2])
    assert refused(nsd, tmp_path / "out").startswith(f"{file}: betas: expected a whole")
    file.write_bytes(good)

    assert prepare(nsd, tmp_path / "out") == whole


def test_pictures_whose_rest_was_damaged_are_copied_again_and_z_v_so_far_is_kept(
    nsd, tmp_path, monkeypatch
):
    eight = partial(nsd_latents.compute_latents, batch=8)
    monkeypatch.setattr(nsd_latents, "compute_latents", eight)
    whole = prepare(nsd, tmp_path / "whole")
    file = nsd.root / STIMULI
    file.unlink()
    with h5py.File(file, "w") as opened:
        shape = (1, *nsd.bricks.shape[1:])
        opened.create_dataset(
            "imgBrick", data=nsd.bricks, chunks=shape, fletcher32=True
        )
    good = file.read_bytes()
    # Of 15 pictures, the last is not among the first eight.
    last = int(open_nsd(nsd.root, SUBJECT).pictures[-1])
    with h5py.File(file) as opened:
        place = opened["imgBrick"].id.get_chunk_info_by_coord((last, 0, 0, 0))
    bad = bytearray(good)
    bad[place.byte_offset] ^= 0xFF
    file.write_bytes(bad)
    line = refused(nsd, tmp_path / "out")
    assert line.startswith(
        f"{file}: imgBrick: expected a whole HDF5 file, found it cut"
    )
    file.write_bytes(good)
    computed = []
    latents = PatchDctBackbone.latents
    monkeypatch.setattr(
        PatchDctBackbone,
        "latents",
        lambda self, some: computed.append(len(some)) or latents(self, some),
    )

    assert prepare(nsd, tmp_path / "out") == whole

    assert sum(computed) == len(whole.image_ids) - 8


def test_the_dataset_may_be_typed_in_another_way(nsd, tmp_path, monkeypatch):
    stopped(nsd, tmp_path / "out", AFTER_PICTURES)
    monkeypatch.chdir(tmp_path)

    assert prepare(replace(nsd, root=Path("nsd")), tmp_path / "out").files


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
