"""Small moving heads for tests: exact volumes of a head in any pose."""

import functools

import numpy as np

from benchmarks.motion_phantom import Scanner, acquired, head_of
from runtime.preprocess.register import Grid
from runtime.preprocess.rigid import matrix_from_pose

SCANNER = Scanner((40, 40, 20), (4.0, 4.0, 5.0))
CENTRE_MM = np.zeros(3)
LEVEL = 1000.0
TSNR = 70.0


def grid(scanner=SCANNER):
    return Grid(scanner.shape, scanner.affine)


@functools.cache
def head(seed=0):
    return head_of(np.random.default_rng(seed), 400, (130.0, 150.0, 130.0))


@functools.cache
def _unit(seed):
    return LEVEL / np.percentile(acquired(head(seed), SCANNER, np.eye(4)), 98)


def scan(pose, *, scanner=SCANNER, within=None, noise=0, seed=0, gain=1.0):
    """A volume of the head in a pose, as int16; slices moved by `within` in all."""
    share = np.linspace(-0.5, 0.5, scanner.shape[2])
    path = np.zeros(6) if within is None else np.asarray(within)
    maps = [matrix_from_pose(np.asarray(pose) + s * path, CENTRE_MM) for s in share]
    clean = acquired(head(seed), scanner, np.stack(maps)) * _unit(seed) * gain
    rng = np.random.default_rng(noise)
    return np.rint(clean + rng.normal(0, LEVEL / TSNR, clean.shape)).astype(np.int16)


@functools.cache
def reference():
    image = scan(np.zeros(6), noise=2**20).astype(np.float32)
    image.flags.writeable = False
    return image


def poses(count, size=0.8, seed=0):
    return np.random.default_rng(seed).normal(0, size, (count, 6))
