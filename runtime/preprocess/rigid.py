"""Rigid poses of a head: six numbers, the matrix that they stand for, and distances.

A pose says where the head is in a volume, against the reference. It is
``(x, y, z, pitch, roll, yaw)``: three translations in millimetres along the axes of
RAS+ (to the right, to the front, upwards) and three rotations in degrees about the
axes x, y and z through a stated centre, by the right-hand rule, x first, then y, then
z. A point of the reference at ``p`` millimetres is found in the volume at

    T(p) = Rz Ry Rx (p - centre) + centre + (x, y, z).

Positive x: the head has moved to the right. SimpleITK's Euler3DTransform with
`SetComputeZYX(True)` is the same map, in its LPS+ millimetres. Pure.
"""

import math
from typing import Final

import numpy as np

from runtime.arrays import Float64
from runtime.errors import ConfigError

Pose = Float64[np.ndarray, "6"]
Matrix = Float64[np.ndarray, "4 4"]
Point = Float64[np.ndarray, "3"]

HEAD_RADIUS_MM: Final = 50.0
"""Power et al. (2012): a rotation counts as its arc on a sphere of this radius."""


def matrix_from_pose(pose: Pose, centre_mm: Point) -> Matrix:
    """Return the map from the reference's millimetres to the volume's."""
    cosines, sines = np.cos(np.deg2rad(pose[3:])), np.sin(np.deg2rad(pose[3:]))
    (cx, cy, cz), (sx, sy, sz) = cosines, sines
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]])
    about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    about_z = np.array([[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_z @ about_y @ about_x
    matrix[:3, 3] = centre_mm + pose[:3] - matrix[:3, :3] @ centre_mm
    return matrix


def pose_from_matrix(matrix: Matrix, centre_mm: Point) -> Pose:
    """Undo `matrix_from_pose`, for rotations about y of less than 90 degrees.

    Raises:
        ConfigError: The matrix is not a rotation and a translation.
    """
    turn = matrix[:3, :3]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-6) or np.linalg.det(turn) < 0:
        raise ConfigError(
            f"pose: expected a rotation and a translation, found {matrix.tolist()}"
        )
    pitch = math.atan2(turn[2, 1], turn[2, 2])
    roll = math.atan2(-turn[2, 0], math.hypot(turn[2, 1], turn[2, 2]))
    yaw = math.atan2(turn[1, 0], turn[0, 0])
    shift = matrix[:3, 3] - centre_mm + turn @ centre_mm
    return np.array([*shift, *(math.degrees(angle) for angle in (pitch, roll, yaw))])


def displacement_mm(pose: Pose, other: Pose) -> float:
    """Return the framewise displacement between two poses (Power et al. 2012).

    The sum of the absolute changes of all six numbers, rotations as arcs on a sphere
    of `HEAD_RADIUS_MM`.
    """
    change = np.abs(pose - other)
    arc = np.deg2rad(change[3:].sum()) * HEAD_RADIUS_MM
    return float(change[:3].sum() + arc)


def centre_of(affine: Matrix, shape: tuple[int, int, int]) -> Point:
    """Return the middle of a grid in millimetres; poses turn about it."""
    middle = (np.array(shape, dtype=np.float64) - 1.0) / 2.0
    return np.asarray(affine[:3, :3] @ middle + affine[:3, 3])


def voxel_sizes(affine: Matrix) -> Point:
    """Return the edges of a voxel in millimetres.

    Raises:
        ConfigError: The affine has no inverse.
    """
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3]))
    if not np.isfinite(affine).all() or not volume > 1e-6 * sizes.prod():
        raise ConfigError(
            f"affine: expected one with an inverse, found {affine.tolist()}"
        )
    return np.asarray(sizes)
