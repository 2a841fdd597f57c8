"""Poses: what six numbers mean, held against SimpleITK and SciPy."""

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from runtime.errors import ConfigError
from runtime.preprocess.rigid import (
    centre_of,
    displacement_mm,
    matrix_from_pose,
    pose_from_matrix,
    voxel_sizes,
)

POSES = arrays(np.float64, 6, elements=st.floats(-80, 80))
POINTS = arrays(np.float64, 3, elements=st.floats(-150, 150))
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@given(POSES, POINTS)
def test_a_pose_is_the_pose_of_its_matrix(pose, centre):
    matrix = matrix_from_pose(pose, centre)

    np.testing.assert_allclose(pose_from_matrix(matrix, centre), pose, atol=1e-9)


@given(POSES, POINTS, POINTS)
def test_a_point_goes_where_simpleitks_euler_transform_puts_it(pose, centre, point):
    # LPS+ turns the first two axes round, and with them the sense of turning.
    oracle = SimpleITK.Euler3DTransform()
    oracle.SetComputeZYX(True)
    oracle.SetCenter([float(x) for x in LPS[:3, :3] @ centre])
    turns = np.deg2rad(pose[3:]) * [-1, -1, 1]
    oracle.SetRotation(*(float(turn) for turn in turns))
    oracle.SetTranslation([float(x) for x in LPS[:3, :3] @ pose[:3]])

    moved = matrix_from_pose(pose, centre) @ [*point, 1.0]

    wanted = oracle.TransformPoint([float(x) for x in LPS[:3, :3] @ point])
    np.testing.assert_allclose(LPS[:3, :3] @ moved[:3], wanted, atol=1e-9)


@given(POSES)
def test_rotations_follow_x_then_y_then_z_about_fixed_axes(pose):
    wanted = Rotation.from_euler("xyz", pose[3:], degrees=True).as_matrix()

    found = matrix_from_pose(pose, np.zeros(3))[:3, :3]

    np.testing.assert_allclose(found, wanted, atol=1e-12)


@given(POINTS)
def test_the_centre_only_shifts(centre):
    pose = np.array([1.0, -2.0, 3.0, 20.0, -10.0, 30.0])

    moved = matrix_from_pose(pose, centre) @ [*centre, 1.0]

    np.testing.assert_allclose(moved[:3], centre + pose[:3], atol=1e-9)


@given(POSES, POSES, POSES)
def test_displacement_is_a_distance(a, b, c):
    assert displacement_mm(a, a) == 0.0
    assert displacement_mm(a, b) == displacement_mm(b, a)
    longer = displacement_mm(a, b) + displacement_mm(b, c)
    assert displacement_mm(a, c) <= longer + 1e-9


def test_displacement_counts_a_degree_as_its_arc_at_50_mm():
    still, moved = np.zeros(6), np.array([0.1, -0.2, 0.3, 1.0, -1.0, 0.0])

    assert displacement_mm(still, moved) == pytest.approx(0.6 + np.pi / 180 * 100)


def test_a_shear_is_no_pose():
    matrix = np.eye(4)
    matrix[0, 1] = 0.1

    with pytest.raises(ConfigError, match="pose: expected a rotation"):
        pose_from_matrix(matrix, np.zeros(3))


def test_grids_have_a_centre_and_sizes_whatever_their_axes():
    affine = np.array(
        [[0.0, 3.0, 0.0, -9.0], [-2.0, 0.0, 0.0, 4.0], [0, 0, 4.0, 1.0], [0, 0, 0, 1.0]]
    )

    assert voxel_sizes(affine).tolist() == [2.0, 3.0, 4.0]
    assert centre_of(affine, (5, 3, 9)).tolist() == [-6.0, 0.0, 17.0]
    with pytest.raises(ConfigError, match="affine: expected one with an inverse"):
        voxel_sizes(np.diag([1.0, 0.0, 1.0, 1.0]))
