"""Registration: known poses are found again, and nothing else counts."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.motion_phantom import Scanner
from runtime.errors import TensorMismatchError
from runtime.preprocess.register import Registration
from runtime.preprocess.rigid import displacement_mm, pose_from_matrix
from runtime.preprocess.search import Search
from tests.moving_heads import CENTRE_MM, SCANNER, grid, poses, reference, scan

FWHM_MM = 5.0
ROOT = Path(__file__).parents[2]


def registration(scanner=SCANNER, image=None):
    image = reference() if image is None else image
    return Registration(image, grid(), grid(scanner), fwhm_mm=FWHM_MM)


def found(register, volume, start=None):
    register.load(volume)
    alignment = register.align(np.eye(4) if start is None else start)
    return alignment, pose_from_matrix(alignment.matrix, CENTRE_MM)


def test_poses_are_found_to_a_tenth_of_a_millimetre_and_degree():
    register, errors = registration(), []

    for number, pose in enumerate(poses(8)):
        within = np.random.default_rng(number).normal(0, 0.15, 6)
        volume = scan(pose, within=within, noise=number)
        alignment, estimate = found(register, volume)
        assert alignment.is_converged
        assert alignment.correlation > 0.99
        errors.append(estimate - pose)

    rms = np.sqrt(np.mean(np.square(errors), axis=0))
    assert (rms <= 0.1).all(), rms


@pytest.mark.parametrize("gain", [0.6, 1.7])
def test_gain_and_offset_of_the_receiver_move_nothing(gain):
    pose, register = poses(1)[0], registration()

    _, one = found(register, scan(pose, noise=1))
    _, other = found(register, scan(pose, noise=1, gain=gain) + 300)

    assert displacement_mm(one, other) < 0.05


def test_tissue_that_brightens_moves_nothing_much():
    pose, register = poses(1)[0], registration()
    volume = scan(pose, noise=1)
    active = volume.copy()
    active[10:16, 10:16, 8:12] = active[10:16, 10:16, 8:12] * 1.5

    _, one = found(register, volume)
    _, other = found(register, active)

    assert displacement_mm(one, other) < 0.05


def test_the_same_volume_gives_the_same_bits():
    volume, one, other = scan(poses(1)[0]), registration(), registration()
    found(one, scan(poses(2)[1]))

    np.testing.assert_array_equal(found(one, volume)[1], found(other, volume)[1])
    np.testing.assert_array_equal(found(one, volume)[1], found(other, volume)[1])


def test_volumes_on_another_grid_are_registered():
    pose = np.array([3.0, -2.0, 1.0, 2.0, -3.0, 1.5])
    other = Scanner((48, 48, 26), (3.5, 3.5, 4.0))

    alignment, estimate = found(registration(other), scan(pose, scanner=other))

    assert alignment.is_converged
    np.testing.assert_allclose(estimate, pose, atol=0.1)


@pytest.mark.parametrize("kind", ["zeros", "noise"])
def test_a_volume_without_a_head_is_not_found(kind):
    volume = np.zeros(SCANNER.shape, dtype=np.int16)
    if kind == "noise":
        volume = np.random.default_rng(0).normal(500, 100, SCANNER.shape)
        volume = volume.astype(np.int16)

    alignment, _ = found(registration(), volume)

    assert not alignment.is_converged or alignment.correlation < 0.5


def test_a_reference_without_a_head_is_refused():
    with pytest.raises(TensorMismatchError, match="reference: expected a head of"):
        registration(image=np.zeros(SCANNER.shape, dtype=np.float32))


@pytest.mark.parametrize("seed", range(4))
def test_a_head_that_lies_anew_is_found_from_scratch(seed):
    rng = np.random.default_rng(seed)
    pose = rng.normal(0, 1, 6) * [12, 12, 8, 8, 8, 8]
    volume, register = scan(pose, gain=0.8), registration()

    place = Search(reference(), grid(), grid()).find(volume, np.eye(4))
    _, estimate = found(register, volume, place.matrix)

    assert displacement_mm(pose_from_matrix(place.matrix, CENTRE_MM), pose) < 1.0
    assert displacement_mm(estimate, pose) < 0.15


def test_the_number_of_threads_changes_no_bit():
    code = (
        "import numpy as np\n"
        "from benchmarks.motion_phantom import Scanner\n"
        "from tests.moving_heads import grid, poses, reference, scan\n"
        "from runtime.preprocess.register import Registration\n"
        "large = Scanner((104, 104, 24), (1.6, 1.6, 4.0))\n"
        "register = Registration(reference(), grid(), grid(large), fwhm_mm=5.0)\n"
        "register.load(scan(poses(1)[0], scanner=large))\n"
        "print(register.align(np.eye(4)).matrix.tobytes().hex())\n"
    )

    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"OPENBLAS_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
        ).stdout
        for threads in ("1", "4")
    }

    assert len(said) == 1
    assert len(said.pop()) > 200
