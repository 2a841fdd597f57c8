"""Files of the dataset that are whole and wrong: z_v of others, holes, copies."""

import shutil

import h5py
import numpy as np
import pytest

import neuroflow
from runtime.errors import RecordingError
from tests.nsd_folder import (
    BETAS,
    PER_SESSION,
    PICTURES,
    SHAPE,
    STIMULI,
    write_nsd,
    write_session,
)
from training.data.nsd import open_nsd
from training.data.nsd_betas import read_session, require_distinct
from training.data.nsd_latents import brick_length, latents_of_file

SUBJECT = 2


@pytest.fixture
def nsd(tmp_path):
    return write_nsd(tmp_path / "nsd")


@pytest.fixture
def shown(nsd):
    return open_nsd(nsd.root, SUBJECT).pictures


def z_v(rows):
    return np.random.default_rng(0).standard_normal((rows, 2, 3)).astype(np.float16)


@pytest.mark.parametrize("rows", [PICTURES - 1, PICTURES + 1, 7])
def test_z_v_has_a_row_a_picture_of_the_dataset_or_of_the_design(
    nsd, shown, tmp_path, rows
):
    file = tmp_path / "z_v.npy"
    np.save(file, z_v(rows))
    bricks = brick_length(nsd.root / STIMULI, shown)

    with pytest.raises(RecordingError) as caught:
        latents_of_file(file, shown, bricks)

    assert str(caught.value) == (
        f"{file}: rows: expected 60, one per picture of imgBrick, or {len(shown)}, one "
        "per picture shown (training pictures by number, then test pictures), "
        f"found {rows}"
    )


def test_without_the_pictures_there_are_as_many_as_were_published(nsd, shown):
    stimuli = nsd.root / STIMULI

    assert brick_length(stimuli, shown) == PICTURES
    stimuli.unlink()
    assert brick_length(stimuli, shown) == 73_000


def test_fewer_pictures_than_were_shown_are_blamed_and_not_z_v(nsd, shown):
    stimuli = nsd.root / STIMULI
    with h5py.File(stimuli, "w") as file:
        file["imgBrick"] = nsd.bricks[:3]

    with pytest.raises(RecordingError) as caught:
        brick_length(stimuli, shown)

    assert str(caught.value) == (
        f"{stimuli}: imgBrick: expected pictures up to {shown.max()}, found shape "
        "(3, 16, 16, 3)"
    )


def prepare(nsd, out, latents):
    neuroflow.prepare_nsd(nsd=nsd.root, subject=SUBJECT, out=out, latents=latents)


@pytest.mark.parametrize("is_brick", [True, False])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_z_v_that_is_not_finite_is_named_before_a_session_is_read(
    nsd, shown, tmp_path, monkeypatch, is_brick, wrong
):
    file, out = tmp_path / "z_v.npy", tmp_path / "out"
    whole = z_v(PICTURES if is_brick else len(shown))
    row = int(shown[5]) if is_brick else 5
    harmed = whole.copy()
    harmed[row, 1, 2] = wrong
    np.save(file, harmed)

    with monkeypatch.context() as patched:
        patched.setattr("training.data.nsd.read_session", None)
        with pytest.raises(RecordingError) as caught:
            prepare(nsd, out, file)

    assert str(caught.value) == (
        f"{file}: row {row}, from 0: expected finite values, found another at [1, 2]. "
        "Compute its z_v again"
    )
    # Nothing was begun with it: the file that takes its place is taken.
    assert not out.exists()
    np.save(file, whole)
    prepare(nsd, out, file)


def test_z_v_of_pictures_that_nobody_was_shown_may_be_anything(nsd, shown, tmp_path):
    array = z_v(PICTURES)
    array[np.setdiff1d(np.arange(PICTURES), shown)] = np.nan
    np.save(tmp_path / "z_v.npy", array)

    prepare(nsd, tmp_path / "out", tmp_path / "z_v.npy")


@pytest.mark.parametrize("end", ["hdf5", "nii.gz"])
@pytest.mark.parametrize("level", [0, 7])
def test_a_session_that_hardly_varies_has_a_hole(nsd, tmp_path, end, level):
    trials = open_nsd(nsd.root, SUBJECT)
    file = tmp_path / f"betas_session01.{end}"
    betas = nsd.betas[0].copy()
    # Of the 31 or so voxels in the mask, from the first on in its order.
    chosen = np.flatnonzero(nsd.mask)
    half = len(chosen) // 2
    flat = betas.reshape(PER_SESSION, -1)
    flat[:, chosen[: half + 1]] = level
    write_session(file, betas)

    with pytest.raises(RecordingError) as caught:
        read_session(file, trials.mask, trials.mask_file, PER_SESSION)

    assert str(caught.value) == (
        f"{file}: betas: expected voxels that vary from trial to trial, found "
        f"{half + 1} of {len(chosen)} in the mask that never do. It has a hole, or is "
        "not all there; copy it again"
    )


def test_voxels_at_the_edge_may_be_still(nsd, tmp_path):
    trials = open_nsd(nsd.root, SUBJECT)
    file = tmp_path / "betas_session01.hdf5"
    chosen = np.flatnonzero(nsd.mask)
    betas = nsd.betas[0].copy().reshape(PER_SESSION, -1)
    betas[:, chosen[1 : len(chosen) // 2]] = 0
    write_session(file, betas.reshape(PER_SESSION, *SHAPE))

    read_session(file, trials.mask, trials.mask_file, PER_SESSION)


def test_of_a_session_in_two_formats_hdf5_is_read_and_the_screen_says_so(
    nsd, shown, tmp_path, capsys
):
    # As who has downloaded all of the dataset has them.
    folder = nsd.root / BETAS
    for session in (1, 3):
        file = folder / f"betas_session{session:02}.hdf5"
        write_session(file, nsd.betas[session - 1])
    np.save(tmp_path / "z_v.npy", z_v(PICTURES))

    prepare(nsd, tmp_path / "out", tmp_path / "z_v.npy")

    trials = open_nsd(nsd.root, SUBJECT)
    assert [file.suffix for file in trials.sessions] == [".hdf5"] * 3
    said = "there in another format, not read: betas_session01.nii.gz and 1 more\n"
    assert said in capsys.readouterr().err


def test_a_copy_of_another_session_is_no_session(nsd):
    folder = nsd.root / BETAS
    shutil.copy(folder / "betas_session01.nii.gz", folder / "betas_session03.nii.gz")

    with pytest.raises(RecordingError) as caught:
        open_nsd(nsd.root, SUBJECT)

    assert str(caught.value) == (
        f"{folder / 'betas_session03.nii.gz'}: expected betas of a session of its own, "
        "found a copy of betas_session01.nii.gz. Copy the right file"
    )


def test_sessions_that_differ_outside_of_the_sample_are_two(tmp_path, monkeypatch):
    # 64 windows of a byte: most of the file is in none.
    monkeypatch.setattr("training.data.files.WINDOW_BYTES", 1)
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(bytes(10_000))
    two.write_bytes(bytes(100) + b"\x01" + bytes(9_899))

    require_distinct([one, two])
