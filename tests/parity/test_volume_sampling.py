"""Filters and samples of volumes against `scipy.ndimage`, in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from runtime.errors import TensorMismatchError
from runtime.preprocess.axis_filter import (
    AxisFilter,
    cubic_coefficients,
    gaussian,
    slope,
)
from runtime.preprocess.sample import CHUNK, PointSampler

SHAPES = st.tuples(*[st.integers(4, 12)] * 3)
SEEDS = st.integers(0, 2**32 - 1)
# Sums of a few hundred products of values up to 1000, rounded to float32.
ATOL = 2e-3


def volume_of(shape, seed):
    return np.random.default_rng(seed).uniform(-1000, 1000, shape).astype(np.float32)


def points_of(shape, seed, count=200, reach=0.0):
    rng = np.random.default_rng(seed)
    last = np.array(shape)[:, None] - 1
    return rng.uniform(-reach, last + reach, (3, count))


def coefficients_of(volume):
    return AxisFilter(*(cubic_coefficients(n) for n in volume.shape))(volume)


@settings(max_examples=30)
@given(SHAPES, SEEDS, st.sampled_from([1, 3]))
def test_samples_are_those_of_map_coordinates(shape, seed, order):
    volume, points = volume_of(shape, seed), points_of(shape, seed)
    source = coefficients_of(volume) if order == 3 else volume

    found = PointSampler(shape, 200, order).at(source, points)

    wanted = ndimage.map_coordinates(
        volume.astype(np.float64), points, order=order, mode="mirror"
    )
    np.testing.assert_allclose(found, wanted, atol=ATOL)


@settings(max_examples=30)
@given(SHAPES, SEEDS, st.sampled_from([1, 3]))
def test_samples_at_voxels_are_the_voxels(shape, seed, order):
    volume = volume_of(shape, seed)
    source = coefficients_of(volume) if order == 3 else volume
    points = np.indices(shape).reshape(3, -1).astype(np.float64)

    found = PointSampler(shape, points.shape[1], order).at(source, points)

    np.testing.assert_allclose(found, volume.ravel(), atol=ATOL)


@settings(max_examples=30)
@given(SHAPES, SEEDS)
def test_points_beyond_the_grid_get_its_surface_and_are_told_apart(shape, seed):
    volume, points = volume_of(shape, seed), points_of(shape, seed, reach=3.0)
    held = np.clip(points, 0, np.array(shape)[:, None] - 1)
    sampler = PointSampler(shape, 200, 1)

    found = sampler.at(volume, points)

    wanted = ndimage.map_coordinates(volume.astype(np.float64), held, order=1)
    np.testing.assert_allclose(found, wanted, atol=ATOL)
    beyond = np.abs(points - held).max(axis=0)
    np.testing.assert_array_equal(sampler.is_inside, beyond <= 0.5)


@settings(max_examples=5)
@given(SEEDS)
def test_more_points_than_a_chunk_are_as_fewer(seed):
    shape = (9, 8, 7)
    volume, points = volume_of(shape, seed), points_of(shape, seed, CHUNK + 77)
    source = coefficients_of(volume)

    at_once = PointSampler(shape, CHUNK + 77, 3).at(source, points)

    tail = PointSampler(shape, 77, 3).at(source, points[:, CHUNK:])
    np.testing.assert_array_equal(at_once[CHUNK:], tail)


@settings(max_examples=30)
@given(SHAPES, SEEDS, st.floats(0.3, 3.0))
def test_smoothing_is_scipys(shape, seed, sigma):
    volume = volume_of(shape, seed)

    found = AxisFilter(*(gaussian(n, sigma) for n in shape))(volume)

    # scipy's radius is rounded; beyond 4 sigma a Gaussian holds 6e-5 of its weight.
    wanted = ndimage.gaussian_filter(
        volume.astype(np.float64), sigma, mode="mirror", truncate=6.0
    )
    np.testing.assert_allclose(found, wanted, atol=0.5)


@settings(max_examples=30)
@given(SHAPES, SEEDS)
def test_a_slope_is_that_of_the_spline_between_two_near_points(shape, seed):
    volume = volume_of(shape, seed)
    matrices = [slope(shape[0]), *(gaussian(n, 0.0) for n in shape[1:])]

    found = AxisFilter(*matrices)(volume)

    inner = np.indices(shape)[:, 1:-1].reshape(3, -1).astype(np.float64)
    step = np.array([[1e-4], [0.0], [0.0]])
    after, before = (
        ndimage.map_coordinates(
            volume.astype(np.float64), inner + s * step, order=3, mode="mirror"
        )
        for s in (1, -1)
    )
    wanted = (after - before).reshape(np.array(shape) - [2, 0, 0]) / 2e-4
    np.testing.assert_allclose(found[1:-1], wanted, atol=0.05)


@pytest.mark.parametrize("kind", ["<i2", ">i2", "<u2", "<i4", "<f4"])
def test_a_volume_of_any_kind_and_order_is_filtered(kind):
    volume = np.rint(volume_of((5, 6, 7), 1) + 1000).astype(kind)
    smooth = AxisFilter(*(gaussian(n, 1.0) for n in volume.shape))

    wanted = smooth(volume.astype(np.float32)).copy()

    np.testing.assert_array_equal(smooth(volume), wanted)
    np.testing.assert_array_equal(smooth(np.asfortranarray(volume)), wanted)


def test_another_shape_is_refused():
    with pytest.raises(TensorMismatchError, match=r"volume: expected \[4, 5, 6\]"):
        AxisFilter(*(gaussian(n, 1.0) for n in (4, 5, 6)))(np.zeros((4, 5, 7)))
