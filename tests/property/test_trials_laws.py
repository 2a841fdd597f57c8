"""Laws of prepared trials: scaling can be undone, rows are rows wherever they lie."""

import math
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.preprocess.mask import VoxelMask
from training.data.nsd_betas import x_fastest
from training.data.scoring import session_statistics, z_score
from training.trials import mean_of_rows, take_rows

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(2, 40), st.integers(0, 20), st.sampled_from([1.0, 300.0]))
def test_scaling_standardises_the_trials_that_it_saw_and_can_be_undone(
    seed, seen, unseen, scale
):
    rng = np.random.default_rng(seed)
    betas = rng.integers(-3000, 3000, (seen + unseen, 7)).astype(np.int16)
    betas[:, 2] = 5
    fitted = rng.permutation(np.arange(seen + unseen) < seen)

    mean, std = session_statistics(betas, fitted, scale)
    scored = z_score(betas, mean, std, scale)

    varies = std > 0
    assert not varies[2]
    assert not scored[:, ~varies].any()
    level = scored[fitted].astype(float)
    # Statistics are rounded to float32: a mean of 10 percent by 1e-6, and a deviation
    # can be as small as one step of int16.
    np.testing.assert_allclose(level.mean(axis=0)[varies], 0, atol=1e-3)
    np.testing.assert_allclose(level.std(axis=0)[varies], 1, atol=1e-3)
    back = scored * std.astype(float) + mean
    truth = betas / scale
    reach = np.abs(truth).max() + 1
    # Voxels that the fitted trials hold still come back as their mean.
    np.testing.assert_allclose(
        back[:, varies], truth[:, varies], atol=1e-6 * reach, rtol=1e-6
    )


@given(SEEDS)
def test_trials_that_may_not_be_seen_do_not_move_the_statistics(seed):
    rng = np.random.default_rng(seed)
    betas = rng.standard_normal((30, 5)).astype(np.float32)
    fitted = np.arange(30) < 20
    changed = betas.copy()
    changed[~fitted] = 1e6 * rng.standard_normal((10, 5))

    one = session_statistics(betas, fitted, 1.0)
    other = session_statistics(changed, fitted, 1.0)

    np.testing.assert_array_equal(one, other)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 50), st.integers(1, 5000), st.data())
def test_rows_of_a_map_are_those_of_the_array(seed, count, width, data):
    rng = np.random.default_rng(seed)
    array = rng.standard_normal((count, width)).astype(np.float32)
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first + 1, count))
    rows = rng.integers(0, last - first, data.draw(st.integers(0, 20)))
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "a.npy", array)
        mapped = np.load(Path(folder) / "a.npy", mmap_mode="r")[first:last]

        for _ in range(2):
            taken = take_rows(mapped, rows)
            np.testing.assert_array_equal(taken, array[first:last][rows])
        assert not isinstance(taken, np.memmap)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([np.float16, np.float32]), st.integers(1, 300))
def test_the_mean_of_rows_does_not_depend_on_blocks(seed, dtype, images):
    rng = np.random.default_rng(seed)
    # Rows of 128 KiB and more, so that many images are several blocks.
    array = rng.standard_normal((images, 4, 16_384)).astype(dtype)
    rows = np.flatnonzero(rng.random(images) < 0.6)
    rows = rows if len(rows) else np.array([0])

    found = mean_of_rows(array, rows)

    wanted = array[rows].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


@given(SEEDS, st.integers(2, 60))
def test_the_mean_of_rows_does_not_depend_on_their_order(seed, images):
    rng = np.random.default_rng(seed)
    # As pixels are: few values, of very different sizes, whose means are often ties.
    coarse = rng.integers(-255, 256, (images, 8, 16)) * 2.0 ** rng.integers(-9, 1, 16)
    array = (coarse / 7).astype(np.float32)
    order = rng.permutation(images)

    one = mean_of_rows(array, np.arange(images))

    np.testing.assert_array_equal(mean_of_rows(array, order), one)
    exact = [
        math.fsum(column) / images
        for column in array.astype(float).reshape(images, -1).T
    ]
    np.testing.assert_array_equal(one.ravel(), np.float32(exact))


@given(SEEDS, st.tuples(*3 * [st.integers(1, 6)]))
def test_the_mask_selects_the_same_voxels_where_x_runs_fastest(seed, shape):
    rng = np.random.default_rng(seed)
    volume = rng.random(shape)
    chosen = volume < 0.5
    chosen.flat[int(rng.integers(chosen.size))] = True
    mask = VoxelMask.from_volume(chosen)

    np.testing.assert_array_equal(
        volume.ravel(order="F")[x_fastest(mask)], volume[chosen]
    )
