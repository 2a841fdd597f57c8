"""Registration beside SimpleITK's, on heads of known pose and on a recorded run."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from benchmarks.motion_oracles import SimpleItk
from runtime.preprocess.motion_settings import Motion
from runtime.preprocess.register import Grid, Registration
from runtime.preprocess.rigid import centre_of, pose_from_matrix
from tests.moving_heads import CENTRE_MM, SCANNER, poses, reference, scan

MOSAICS = Path(__file__).parents[3] / "shared" / "data" / "siemens_mosaic_tr1000"


def ours(image, grid, volumes):
    register = Registration(image, grid, grid, fwhm_mm=Motion().fwhm_mm)
    matrix, found = np.eye(4), []
    for volume in volumes:
        register.load(volume)
        matrix = register.align(matrix).matrix
        found.append(pose_from_matrix(matrix, centre_of(grid.affine, grid.shape)))
    return np.array(found)


def theirs(image, grid, volumes):
    oracle = SimpleItk(image, grid.affine, share=1.0)
    centre = centre_of(grid.affine, grid.shape)
    return np.array([pose_from_matrix(oracle.align(v), centre) for v in volumes])


def rms(error):
    return np.sqrt(np.mean(np.square(error), axis=0))


def test_no_worse_than_simpleitk_where_heads_move_within_volumes():
    truth, grid = poses(6, size=0.5), Grid(SCANNER.shape, SCANNER.affine)
    assert (centre_of(grid.affine, grid.shape) == CENTRE_MM).all()
    within = np.random.default_rng(1).normal(0, 0.15, (6, 6))
    volumes = [
        scan(pose, within=path, noise=number)
        for number, (pose, path) in enumerate(zip(truth, within, strict=True))
    ]

    found = rms(ours(reference(), grid, volumes) - truth)

    oracle = rms(theirs(reference(), grid, volumes) - truth)
    assert (found <= 0.1).all(), found
    for part in (slice(3), slice(3, 6)):
        # Millimetres, then degrees; .01 is what six volumes leave to chance.
        assert np.hypot.reduce(found[part]) <= np.hypot.reduce(oracle[part]) + 0.01


@pytest.mark.recording
@pytest.mark.skipif(not MOSAICS.is_dir(), reason="no recorded mosaics in shared/data")
def test_a_recorded_run_moves_as_simpleitk_says():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nibabel.nicom.dicomwrappers import wrapper_from_file

        mosaics = [wrapper_from_file(f) for f in sorted(MOSAICS.glob("*.dcm"))[::3]]
        volumes = [np.asarray(m.get_data()).astype(np.int16) for m in mosaics]
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ mosaics[0].affine
    grid, image = Grid(volumes[0].shape, affine), volumes[0].astype(np.float32)

    found, oracle = (each(image, grid, volumes[1:]) for each in (ours, theirs))

    # A head that moves by .05 mm: they differ by a part of that, and agree on the rest.
    assert rms(found - oracle).max() < 0.1
    largest = np.argmax(found.std(axis=0))
    assert np.corrcoef(found[:, largest], oracle[:, largest])[0, 1] > 0.8
