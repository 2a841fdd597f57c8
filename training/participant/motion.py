"""Head motion: poses of a run, and the fine anatomy seen from each of them.

A pose is (x, y, z) in millimetres and three rotations in radians about the grid's
centre, small enough that a rotation is a cross product (below .02 rad the error is
under .01 mm inside the head). Slices are acquired bottom up during the repetition
time, and the pose between two volumes is interpolated for each slice.

Approximation: the moving anatomy is resampled with cubic splines from the fine
phantom, and the functional signal of a grid voxel multiplies what is found there;
the pattern of activity does not move with the head.
"""

import math

import numpy as np
from jaxtyping import Float32, Float64
from scipy import ndimage

from training.participant.brain import Brain
from training.participant.parameters import ParticipantParameters

Poses = Float64[np.ndarray, "times 6"]
HEAD_RADIUS_MM = 50.0  # Power et al. (2012)


def draw_poses(
    n_volumes: int, p: ParticipantParameters, rng: np.random.Generator
) -> Poses:
    """Draw the poses of a run: offset, slow drift, small jitter and sudden spikes."""
    n = n_volumes
    moved = np.zeros((n, 6))
    shocks = rng.standard_normal((n, 6))
    for k in range(1, n):
        moved[k] = 0.7 * moved[k - 1] + shocks[k]
    moved += 0.3 * np.sin(2 * math.pi * 0.27 * p.tr_s * np.arange(n))[:, None]
    ramp = np.linspace(0, 1, n)[:, None]
    slow = p.pose_drift_mm * ramp * rng.standard_normal(6)
    target_mm = rng.uniform(*p.displacement_mm)
    # A volume shows the mean of the poses at its two ends, so that is what is scaled.
    shown = (moved[1:] + moved[:-1]) / 2
    steps_mm = np.abs(np.diff(shown, axis=0)).sum(axis=1)
    moved = moved * target_mm / steps_mm.mean() + slow
    moved += _spikes(n, p, rng) + p.run_pose_mm * rng.standard_normal(6)
    moved[:, 3:] /= HEAD_RADIUS_MM
    return np.asarray(moved)


def framewise_displacement(poses: Poses) -> Float64[np.ndarray, " steps"]:
    """Sum the absolute changes of a pose, in mm (Power et al. 2012)."""
    steps = np.abs(np.diff(poses, axis=0))
    steps[:, 3:] *= HEAD_RADIUS_MM
    return np.asarray(steps.sum(axis=1))


def moved_anatomy(
    brain: Brain, poses: Poses, voxel_mm: float
) -> Float32[np.ndarray, "times head"]:
    """Sample the fine anatomy at the head's voxels, slice by slice pose."""
    indices = brain.head_indices
    centre = (np.array(brain.head_mask.shape) - 1) / 2
    arm_mm = (indices - centre) * voxel_mm
    fraction = indices[:, 2] / brain.head_mask.shape[2]
    following = np.concatenate([poses[1:], poses[-1:]])
    out = np.empty((len(poses), len(indices)), dtype=np.float32)
    for k, (now, then) in enumerate(zip(poses, following, strict=True)):
        pose = now + fraction[:, None] * (then - now)
        shift_mm = pose[:, :3] + np.cross(pose[:, 3:], arm_mm)
        points = (indices + shift_mm / voxel_mm) * brain.fine_factor
        ndimage.map_coordinates(
            brain.fine_coefficients,
            (points + brain.fine_margin).T,
            output=out[k],
            order=3,
            mode="nearest",
            prefilter=False,
        )
    return out


def _spikes(
    n_volumes: int, p: ParticipantParameters, rng: np.random.Generator
) -> Float64[np.ndarray, "times 6"]:
    """Draw jumps that relax within a few volumes and leave a small rest."""
    moved = np.zeros((n_volumes, 6))
    wanted = p.spikes_per_run * n_volumes * p.tr_s / 400
    for _ in range(rng.poisson(wanted)):
        start = int(rng.integers(2, n_volumes - 2))
        direction = np.abs(rng.standard_normal(6))
        direction *= rng.choice((-1, 1), size=6) / direction.sum()
        decay = np.exp(-np.arange(n_volumes - start) * p.tr_s / 3.0)
        size_mm = rng.uniform(*p.spike_mm)
        moved[start:] += size_mm * (0.9 * decay + 0.1)[:, None] * direction
    return moved
