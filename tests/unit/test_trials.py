"""Trials in memory maps: what is read is let go of, what is checked is found."""

import mmap

import numpy as np
import pytest

from runtime.errors import TensorMismatchError
from training.trials import TrialSet, blocks, check_finite, let_go

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((24, 37)).astype(np.float32)
Z_V = RNG.standard_normal((8, 8, 12)).astype(np.float16)
IMAGE = np.arange(24) % 8


def test_letting_go_takes_pages_out_of_this_process_and_keeps_the_numbers(tmp_path):
    array = np.full((64, 65_536), 2.0, dtype=np.float32)
    np.save(tmp_path / "a.npy", array)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")

    assert float(mapped.sum()) == array.sum()
    before = resident_file_kib()
    let_go(mapped)

    # 16 MiB were mapped; other maps of this process may come and go.
    assert before - resident_file_kib() > 12 * 1024
    assert float(mapped[63].sum()) == 2.0 * 65_536


def test_an_epoch_of_batches_leaves_nothing_of_the_maps_in_this_process(tmp_path):
    np.save(tmp_path / "v.npy", np.ones((256, 16_384), dtype=np.float32))
    np.save(tmp_path / "z.npy", np.ones((256, 64, 512), dtype=np.float16))
    voxels, latents = (
        np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "vz"
    )
    trials = TrialSet(voxels, np.arange(256)[::-1].copy(), latents).centred()
    before = resident_file_kib()

    for first in range(0, 256, 32):
        chosen = np.arange(first, first + 32)
        assert trials.voxel_rows(chosen).all()
        assert not trials.z_v(chosen).any()

    # 32 MiB were read; other maps of this process may come and go.
    assert resident_file_kib() - before < 4 * 1024


def resident_file_kib():
    with open("/proc/self/status") as file:
        return next(int(x.split()[1]) for x in file if x.startswith("RssFile"))


def test_letting_go_leaves_other_arrays_alone(tmp_path):
    plain = ROWS.copy()
    np.save(tmp_path / "a.npy", plain)
    changed = np.load(tmp_path / "a.npy", mmap_mode="c")
    changed[0, 0] = 5

    let_go(plain)
    let_go(changed)

    assert changed[0, 0] == 5
    assert hasattr(mmap, "MADV_DONTNEED")
    np.testing.assert_array_equal(plain, ROWS)


@pytest.mark.parametrize("shape", [(1, 3), (1000, 7), (3, 2_000_000), (0, 4)])
def test_blocks_cover_every_row_once(shape):
    array = np.broadcast_to(np.float64(0), shape)

    rows = [i for block in blocks(array) for i in range(block.start, block.stop)]

    assert rows == list(range(shape[0]))


def test_the_place_of_a_bad_value_is_counted_over_all_blocks():
    array = np.zeros((5, 1_000_000), dtype=np.float64)
    array[4, 17] = np.nan

    with pytest.raises(TensorMismatchError, match=r"found another at \[4, 17\]"):
        check_finite("rows", array)


def test_float16_latents_of_trials_are_cast_and_stay_as_they_are():
    trials = TrialSet(ROWS, IMAGE, Z_V)

    assert trials.latents is Z_V
    assert trials.z_v(np.array([1])).dtype == np.float32
    with pytest.raises(TensorMismatchError, match="float32 or float16 with 3 axes"):
        TrialSet(ROWS, IMAGE, Z_V.astype(np.float64))


def test_a_mean_of_another_shape_is_refused():
    with pytest.raises(TensorMismatchError, match=r"trials.centre: expected shape"):
        TrialSet(ROWS, IMAGE, Z_V, centre=np.zeros((3, 3), np.float32))
