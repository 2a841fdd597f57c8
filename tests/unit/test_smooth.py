"""Smoothing within a mask, beside scipy's Gaussian filter."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from runtime.errors import ConfigError, TensorMismatchError
from runtime.preprocess import VoxelMask
from runtime.preprocess.smooth import SIGMAS_PER_FWHM, MaskSmoothing, voxel_sizes_mm

SIZES_MM = (2.0, 2.5, 3.0)


def ball(shape=(11, 9, 8)):
    x, y, z = np.indices(shape)
    inside = (x - 5) ** 2 + (y - 4) ** 2 + (z - 3.5) ** 2 < 14
    return VoxelMask.from_volume(inside)


def voxels_of(mask, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(500, 900, mask.voxels).astype(np.float32)


def test_it_is_scipys_filter_of_the_masked_volume_over_that_of_the_mask():
    mask, fwhm_mm = ball(), 5.0
    voxels = voxels_of(mask)
    sigmas = [fwhm_mm * SIGMAS_PER_FWHM / size for size in SIZES_MM]

    found = MaskSmoothing(mask, SIZES_MM, fwhm_mm)(voxels)

    inside = mask.volume()
    volume, weight = (
        gaussian_filter(v.astype(np.float64), sigmas, mode="constant", truncate=12)
        for v in (mask.scatter(voxels), inside)
    )
    np.testing.assert_allclose(found, (volume / np.where(inside, weight, 1))[inside])


def test_a_constant_stays_constant_to_the_masks_edge_and_a_narrow_kernel_does_nothing():
    mask = ball()
    constant = np.full(mask.voxels, 512, dtype=np.float32)

    np.testing.assert_array_equal(
        MaskSmoothing(mask, SIZES_MM, 6.0)(constant), constant
    )
    np.testing.assert_array_equal(
        MaskSmoothing(mask, SIZES_MM, 0.1)(voxels_of(mask)), voxels_of(mask)
    )


def test_an_impulse_has_the_width_that_was_asked_for():
    mask = VoxelMask.from_volume(np.ones((61, 3, 3), dtype=np.bool_))
    volume = np.zeros((61, 3, 3), dtype=np.float32)
    volume[30] = 1.0

    smoothed = MaskSmoothing(mask, (0.25, 2.0, 2.0), 4.0)(volume.reshape(-1))

    profile = smoothed.reshape(61, 3, 3)[:, 1, 1]
    # 8 voxels of a quarter of a millimetre on either side: half of the width. The ends
    # of the mask are four standard deviations away.
    assert profile[38] / profile[30] == pytest.approx(0.5, rel=1e-3)


def test_it_writes_where_it_reads_and_gives_the_same_bits_again():
    mask = ball()
    smoothing, voxels = MaskSmoothing(mask, SIZES_MM, 5.0), voxels_of(mask)
    first = smoothing(voxels)
    smoothing(voxels_of(mask, seed=1))

    again = smoothing(voxels, out=voxels)

    assert again is voxels
    assert again.tobytes() == first.tobytes()


def test_a_voxels_sides_are_those_of_a_turned_affine():
    turn = np.array([[0, -2.0, 0], [1.5, 0, 0], [0, 0, 3.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn

    assert voxel_sizes_mm(affine) == (1.5, 2.0, 3.0)


def test_lengths_that_are_none_and_other_voxels_are_refused():
    with pytest.raises(ConfigError) as width:
        MaskSmoothing(ball(), SIZES_MM, 0.0)
    with pytest.raises(ConfigError) as side:
        MaskSmoothing(ball(), (2.0, 0.0, 2.0), 4.0)
    with pytest.raises(TensorMismatchError) as voxels:
        MaskSmoothing(ball(), SIZES_MM, 4.0)(np.zeros(5, dtype=np.float32))

    assert (
        str(width.value) == "smoothing_fwhm_mm: expected a positive number, found 0.0"
    )
    assert str(side.value) == "voxel_mm: expected a positive number, found 0.0"
    assert str(voxels.value).startswith("voxels: expected float32 [")
