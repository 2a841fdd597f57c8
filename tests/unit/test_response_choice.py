"""Voxels' responses from training runs, beside brute force."""

import nibabel
import numpy as np
import pytest
from msgspec import UNSET

from runtime.errors import RecordingError
from runtime.estimator import BetaEstimator
from runtime.preprocess import CANONICAL, VoxelMask, cosine_drift, trial_regressor
from runtime.preprocess.hrf import LIBRARY
from runtime.recording import RecordedEvent, RecordedRun
from training.responses import choose_responses

TR_S, VOLUMES, SHAPE = 1.5, 120, (3, 2, 2)
EVENTS = tuple(
    RecordedEvent(6.0 + 9.7 * k, 2.0, f"t{k}", f"image-{k}", "", "train")
    for k in range(16)
)
ESTIMATOR = BetaEstimator(hrf_library=LIBRARY, drift_cutoff_s=60.0)
MASK = VoxelMask.from_volume(np.ones(SHAPE, dtype=np.bool_))


def recorded(folder, seed=0, noise=3.0, events=EVENTS):
    """Voxel k answers every trial with response k of the library, modulo its length."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(MASK.voxels) % len(LIBRARY)
    signal = np.zeros((VOLUMES, MASK.voxels))
    for voxel, kind in enumerate(kinds):
        for event in EVENTS:
            x = trial_regressor(event.onset_s, 2.0, TR_S, VOLUMES, LIBRARY[kind])
            signal[:, voxel] += rng.uniform(40, 90) * x
    run = 1000 + signal + noise * rng.standard_normal(signal.shape)
    volumes = np.rint(run).astype(np.int16).reshape(VOLUMES, *SHAPE)
    file = folder / f"run-{seed}_bold.nii.gz"
    image = nibabel.Nifti1Image(np.moveaxis(volumes, 0, -1), np.eye(4))
    nibabel.save(image, file)
    labels = (None,) * VOLUMES
    run = RecordedRun(f"r{seed}", TR_S, SHAPE, np.eye(4), events, labels, file)
    return run, kinds, volumes.reshape(VOLUMES, -1)


def test_the_canonical_response_is_in_the_library_once_and_all_differ():
    assert LIBRARY.count(CANONICAL) == 1
    assert len(set(LIBRARY)) == len(LIBRARY)


def test_each_voxel_gets_the_response_that_it_has(tmp_path):
    runs = [recorded(tmp_path, seed)[0] for seed in (0, 1)]
    kinds = recorded(tmp_path)[1]

    np.testing.assert_array_equal(choose_responses(runs, MASK, ESTIMATOR), kinds)


def test_the_choice_is_the_least_residual_of_lstsq(tmp_path):
    run, _, volumes = recorded(tmp_path, seed=3, noise=25.0)
    drift = cosine_drift(VOLUMES, TR_S, 60.0)
    left = []
    for hrf in LIBRARY:
        trials = [trial_regressor(e.onset_s, 2.0, TR_S, VOLUMES, hrf) for e in EVENTS]
        X = np.column_stack((drift, *trials))
        Y = volumes.astype(np.float64)
        left.append(np.square(Y - X @ np.linalg.lstsq(X, Y, rcond=None)[0]).sum(axis=0))

    chosen = choose_responses([run], MASK, ESTIMATOR)

    np.testing.assert_array_equal(chosen, np.argmin(left, axis=0))


def test_without_a_library_nothing_is_chosen_and_without_events_nothing_can_be(
    tmp_path,
):
    silent, *_ = recorded(tmp_path, events=())

    assert choose_responses([], MASK, BetaEstimator(hrf_library=UNSET)) is None
    with pytest.raises(RecordingError) as error:
        choose_responses([silent], MASK, ESTIMATOR)
    assert str(error.value) == (
        "hrf_library: expected training runs with events, found none"
    )


def test_more_columns_than_volumes_are_refused(tmp_path):
    many = tuple(
        RecordedEvent(1.1 * k, 1.0, f"t{k}", "", "", "train") for k in range(130)
    )
    run, *_ = recorded(tmp_path, events=many)

    with pytest.raises(RecordingError, match="hrf_library: expected fewer trials"):
        choose_responses([run], MASK, ESTIMATOR)
