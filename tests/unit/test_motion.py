"""Motion of a run: what is read, what is said, and what happens when it goes wrong."""

import functools

import msgspec
import numpy as np
import pytest

from benchmarks.motion_phantom import Scanner
from runtime.errors import ConfigError, ScanError, TensorMismatchError
from runtime.preprocess import VoxelMask
from runtime.preprocess.motion import SUSTAINED, MotionCorrection
from runtime.preprocess.motion_report import AXES, NOT_REGISTERED
from runtime.preprocess.motion_settings import Motion
from runtime.preprocess.reference import Reference, reference_from_volumes
from runtime.preprocess.rigid import displacement_mm
from tests.moving_heads import LEVEL, SCANNER, TSNR, grid, poses, reference, scan

STILL = np.zeros(6)
FAR = np.array([4.0, -2.0, 1.0, 2.0, 1.0, -2.0])


@functools.cache
def mask():
    inner = np.zeros(SCANNER.shape, dtype=np.bool_)
    inner[10:30, 8:30, 5:15] = reference()[10:30, 8:30, 5:15] > 0.4 * LEVEL
    return VoxelMask.from_volume(inner)


def correction(scanner=SCANNER, **settings):
    whole = Reference(reference(), SCANNER.affine)
    return MotionCorrection(whole, grid(scanner), mask(), Motion(**settings))


def played(volumes, run=None):
    """Return each volume's motion and voxels."""
    run = correction() if run is None else run
    motions, rows = [], []
    for volume in volumes:
        row = np.empty(mask().voxels, dtype=np.float32)
        motions.append(run.correct(volume, row))
        rows.append(row)
    return motions, rows


def path(*steps):
    return [scan(pose, noise=number) for number, pose in enumerate(steps)]


def empty():
    return np.random.default_rng(0).normal(500, 100, SCANNER.shape).astype(np.int16)


def spread(rows):
    return float(np.std(np.array(rows) - mask().select(reference()), axis=0).mean())


def test_voxels_are_read_where_the_head_went():
    volumes = [scan(p, noise=number) for number, p in enumerate(poses(6))]

    motions, rows = played(volumes)

    uncorrected = spread([mask().select(volume) for volume in volumes])
    noise = LEVEL / TSNR
    assert uncorrected > 3 * noise
    assert spread(rows) < 1.2 * noise
    for motion, pose in zip(motions, poses(6), strict=True):
        np.testing.assert_allclose(motion.pose, pose, atol=0.1)
        assert motion.outside_voxels == 0


def test_a_head_that_lies_still_keeps_its_voxels():
    volume = scan(STILL, noise=5)

    _, rows = played([volume])

    # Half a tenth of a voxel away, an edge of the head differs by its slope.
    np.testing.assert_allclose(rows[0], mask().select(volume), atol=0.05 * LEVEL)


@pytest.mark.parametrize("interpolation", ["cubic", "linear"])
def test_another_field_of_view_gives_the_bundles_voxels_in_its_order(interpolation):
    other = Scanner((44, 46, 24), (3.5, 3.5, 4.4))
    run = correction(other, interpolation=interpolation)

    motions, rows = played([scan(FAR, scanner=other)], run)

    wanted = mask().select(scan(STILL))
    assert np.corrcoef(rows[0], wanted)[0, 1] > 0.98
    assert motions[0].overlap > 0.95
    np.testing.assert_allclose(motions[0].pose, FAR, atol=0.1)


def test_displacement_is_since_the_volume_before_and_a_spike_is_told():
    small, large = np.full(6, 0.05), np.full(6, 0.3)

    motions, _ = played(path(STILL, small, large, large))

    moved = [motion.framewise_displacement_mm for motion in motions]
    assert moved[0] is None
    wanted = [displacement_mm(STILL, small), displacement_mm(small, large), 0.0]
    np.testing.assert_allclose(moved[1:], wanted, atol=0.15)
    assert [motion.is_spike for motion in motions] == [False, False, True, False]


def test_a_new_position_is_told_once_it_has_stayed():
    motions, _ = played(path(STILL, *[FAR] * 5))

    told = [motion.is_repositioned for motion in motions]
    assert told == [number == SUSTAINED for number in range(6)]
    assert all(motion.is_registered for motion in motions)
    np.testing.assert_allclose(motions[1].pose, FAR, atol=0.1)


def test_a_jerk_and_slow_drift_are_no_new_position():
    slow = [np.array([0.4 * k, 0, 0, 0, 0, 0]) for k in range(12)]

    motions, _ = played(path(STILL, FAR, FAR, STILL, *slow))

    assert not any(motion.is_repositioned for motion in motions)
    assert motions[1].is_spike


def test_a_volume_without_a_head_keeps_the_pose_before_and_says_so():
    motions, rows = played([*path(STILL, np.full(6, 0.2)), empty(), scan(STILL)])

    before, lost, after = motions[1:]
    assert not lost.is_registered
    assert lost.degraded() == (NOT_REGISTERED,)
    assert lost.framewise_displacement_mm is None
    assert not lost.is_spike
    np.testing.assert_array_equal(lost.pose, before.pose)
    assert np.isfinite(rows[2]).all()
    assert after.is_registered
    assert after.degraded() == ()
    np.testing.assert_allclose(after.pose, STILL, atol=0.1)


def test_a_first_volume_without_the_head_is_refused_and_the_next_is_the_first():
    run, out = correction(), np.empty(mask().voxels, dtype=np.float32)
    with pytest.raises(ScanError) as error:
        run.correct(empty(), out)

    found = str(error.value).rsplit("found ", 1)[1]
    assert str(error.value) == (
        "motion: expected the bundle's reference volume in this one, with a "
        f"correlation of at least 0.7, found {found}"
    )
    assert found.endswith(". Check participant and sequence")
    assert run.correct(scan(STILL), out).framewise_displacement_mm is None


def test_slices_that_miss_the_mask_are_refused():
    low = np.array([0.0, 0.0, 45.0, 0.0, 0.0, 0.0])
    out = np.empty(mask().voxels, dtype=np.float32)

    with pytest.raises(ScanError) as error:
        correction(min_overlap=0.95).correct(scan(low), out)

    assert str(error.value).startswith("motion: expected at least 95% of the mask's")
    assert str(error.value).endswith("in the field of view). Move the slices")


def test_voxels_beyond_the_field_of_view_are_told_and_finite():
    low = np.array([0.0, 0.0, 45.0, 0.0, 0.0, 0.0])
    run = correction(min_overlap=0.1)

    motions, rows = played([scan(low)], run)

    assert motions[0].outside_voxels == run.is_outside.sum() > 0
    assert motions[0].overlap < 1.0
    assert np.isfinite(rows[0]).all()


def test_a_run_goes_on_bit_for_bit_where_its_state_was_taken():
    volumes = [scan(p, noise=number) for number, p in enumerate(poses(6))]
    volumes[4] = empty()
    whole, resumed = correction(), correction()
    motions, rows = played(volumes, whole)
    started = correction()
    played(volumes[:3], started)

    resumed.resume(started.state())
    later, later_rows = played(volumes[3:], resumed)

    np.testing.assert_array_equal(later_rows, rows[3:])
    for one, other in zip(later, motions[3:], strict=True):
        assert one.quality() == other.quality()


def test_a_state_of_another_version_or_size_is_refused():
    run = correction()
    state = run.state()

    for change, message in (
        ({"version": 2}, "motion state: expected version 1, found 2"),
        ({"pose": np.zeros(5)}, "motion state: expected two poses"),
    ):
        with pytest.raises((ConfigError, TensorMismatchError), match=message):
            run.resume(state | change)
    del state["away"]
    with pytest.raises(ConfigError, match="expected 'away', found none"):
        run.resume(state)


def test_values_that_are_not_finite_are_refused_and_change_nothing():
    run, twin = correction(), correction()
    broken = scan(STILL).astype(np.float32)
    broken[3, 3, 3] = np.nan
    for one in (run, twin):
        played([scan(STILL)], one)

    with pytest.raises(TensorMismatchError, match="volume: expected finite values"):
        played([broken], run)

    ours, theirs = (played([scan(FAR)], one)[0][0] for one in (run, twin))
    assert ours.quality() == theirs.quality()


def test_a_single_slice_has_no_motion():
    thin = Reference(np.ones((40, 20, 1), dtype=np.float32), np.eye(4))
    flat = VoxelMask.from_volume(np.ones((40, 20, 1), dtype=np.bool_))

    with pytest.raises(ConfigError) as error:
        MotionCorrection(thin, thin.grid, flat, Motion())

    assert str(error.value) == (
        "motion: reference: expected at least 4 voxels along every axis, found "
        "[40, 20, 1]. Leave motion unset"
    )


def test_quality_names_every_number_of_the_pose():
    motions, _ = played(path(STILL, np.full(6, 0.1)))

    quality = motions[1].quality()
    assert [quality[f"motion_{axis}"] for axis in AXES] == motions[1].pose.tolist()
    assert quality["framewise_displacement_mm"] > 0
    assert "framewise_displacement_mm" not in motions[0].quality()
    assert msgspec.json.decode(msgspec.json.encode(quality)) == quality


def test_the_reference_is_the_mean_of_aligned_volumes():
    volumes = np.stack(path(STILL, *poses(5)))

    mean = reference_from_volumes(volumes, grid(), Motion()).volume

    # One noisy volume is held against: its own noise is what must be left.
    inner = np.s_[5:-5, 5:-5, 3:-3]
    left = (mean - reference())[inner].std()
    unaligned = (volumes.mean(axis=0) - reference())[inner].std()
    assert left < 1.2 * LEVEL / TSNR
    assert left < 0.7 * unaligned
    again = reference_from_volumes(volumes, grid(), Motion()).volume
    np.testing.assert_array_equal(mean, again)


def test_a_reference_of_two_heads_is_refused():
    volumes = np.stack([scan(STILL), empty()])

    with pytest.raises(ScanError, match="reference: expected volumes of one head"):
        reference_from_volumes(volumes, grid(), Motion())
