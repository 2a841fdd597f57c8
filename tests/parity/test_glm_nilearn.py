"""Our regressors, drift and estimates against nilearn's.

It is imported by the tests: all processes collect them, and one runs them.
"""

import numpy as np
import pytest

from runtime.preprocess import (
    CANONICAL,
    Hrf,
    IncrementalTrialGlm,
    Responses,
    cosine_drift,
    middles_s,
    trial_regressor,
)


@pytest.mark.parametrize(
    ("onset_s", "duration_s"), [(6.0, 3.0), (13.1, 1.0), (0.0, 20.0)]
)
def test_a_regressor_is_nilearns_up_to_its_sampling_grid(onset_s, duration_s):
    from nilearn.glm.first_level import compute_regressor

    tr_s, volumes = 1.5, 60

    ours = trial_regressor(onset_s, duration_s, tr_s, volumes)

    # nilearn convolves on a grid of tr_s / oversampling and shifts by one step.
    condition = np.array([[onset_s], [duration_s], [1.0]])
    theirs, _ = compute_regressor(
        condition, "spm", middles_s(volumes, tr_s), oversampling=400
    )
    assert np.abs(ours - theirs[:, 0]).max() < 5e-3 * ours.max()


@pytest.mark.parametrize(("volumes", "columns"), [(60, 2), (150, 5), (288, 9)])
def test_the_drift_basis_is_nilearns_up_to_scale(volumes, columns):
    from nilearn.glm.first_level.design_matrix import create_cosine_drift

    tr_s, cutoff_s = 1.5, 100.0

    ours = cosine_drift(volumes, tr_s, cutoff_s)

    theirs = create_cosine_drift(1 / cutoff_s, middles_s(volumes, tr_s))
    assert ours.shape == (volumes, columns)
    np.testing.assert_allclose(ours[:, 0], theirs[:, -1])
    np.testing.assert_allclose(
        ours[:, 1:] / np.sqrt(volumes), theirs[:, :-1], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("volumes", [40, 90])
def test_beta_and_error_are_nilearns_least_squares_of_the_same_design(volumes):
    from nilearn.glm.first_level import run_glm

    rng = np.random.default_rng(0)
    run = (1000 + rng.standard_normal((volumes, 6)).cumsum(axis=0)).astype(np.float32)
    glm = IncrementalTrialGlm(
        6, tr_s=1.5, expected_volumes=90, max_trials=8, drift_cutoff_s=128.0
    )
    for trial in range(6):
        glm.add_trial(f"t{trial}", 6.0 + 4.0 * trial, 3.0)
    for volume in range(volumes):
        glm.update(volume, run[volume])

    beta, error = glm._solve(2)

    design = glm.design("t2")[:volumes]
    labels, results = run_glm(run.astype(np.float64), design, noise_model="ols")
    (result,) = (results[label] for label in np.unique(labels))
    contrast = result.Tcontrast(np.eye(design.shape[1])[1])
    np.testing.assert_allclose(beta, np.squeeze(contrast.effect), rtol=1e-6)
    np.testing.assert_allclose(error, np.squeeze(contrast.sd), rtol=1e-6)


def test_with_confounds_slice_times_and_responses_it_is_nilearns_of_each_design():
    from nilearn.glm.first_level import run_glm

    rng, volumes, voxels = np.random.default_rng(1), 80, 6
    run = (1000 + rng.standard_normal((volumes, voxels)).cumsum(axis=0)).astype(
        np.float32
    )
    motion = 3.0 + 0.1 * rng.standard_normal((volumes, 6)).cumsum(axis=0)
    responses = Responses.of(
        voxels,
        (CANONICAL, Hrf(peak_s=4.5)),
        hrf_index=np.array([0, 1, 0, 1, 0, 1]),
        slice_times_s=np.array([0.0, 0.0, 0.7, 0.7, 1.4, 1.4]),
    )
    glm = IncrementalTrialGlm(
        voxels,
        tr_s=1.5,
        expected_volumes=90,
        max_trials=8,
        confounds=6,
        responses=responses,
    )
    for trial in range(6):
        glm.add_trial(f"t{trial}", 6.0 + 7.0 * trial, 3.0)
    for volume in range(volumes):
        glm.update(volume, run[volume], motion[volume])

    beta, error = glm._solve(2)

    for voxel in range(voxels):
        design = glm.design("t2", voxel)[:volumes]
        signal = run[:, voxel : voxel + 1].astype(np.float64)
        labels, results = run_glm(signal, design, noise_model="ols")
        contrast = results[labels[0]].Tcontrast(np.eye(design.shape[1])[1])
        assert beta[voxel] == pytest.approx(float(np.squeeze(contrast.effect)), 1e-6)
        assert error[voxel] == pytest.approx(float(np.squeeze(contrast.sd)), 1e-6)
