"""Which voxels share a regressor, and what cannot be grouped."""

import numpy as np
import pytest

from runtime.errors import ConfigError, TensorMismatchError
from runtime.preprocess import CANONICAL, Hrf, IncrementalTrialGlm, Responses
from runtime.preprocess.responses import voxel_slice_times_s
from tests.participants import mask

FAST = Hrf(peak_s=4.5)


def test_voxels_are_grouped_by_response_and_slice_time():
    responses = Responses.of(
        4,
        (CANONICAL, FAST),
        hrf_index=np.array([1, 0, 1, 1]),
        slice_times_s=np.array([0.5, 0.0, 0.0, 0.5]),
    )

    found = [(responses.hrfs[k].peak_s, responses.sample_s[k]) for k in responses.group]

    assert found == [(4.5, 0.5), (6.0, 0.0), (4.5, 0.0), (4.5, 0.5)]
    assert len(responses.hrfs) == 3


def test_slice_times_of_half_a_volume_are_the_middle_of_it():
    rng = np.random.default_rng(0)
    middle = Responses.of(3, (CANONICAL,), slice_times_s=np.full(3, 0.75))
    glms = [
        IncrementalTrialGlm(
            3, tr_s=1.5, expected_volumes=40, max_trials=2, responses=responses
        )
        for responses in (middle, Responses.shared(3))
    ]
    run = rng.uniform(500, 600, (40, 3)).astype(np.float32)
    for glm in glms:
        glm.add_trial("a", 6.1, 2.0)
        for volume in range(40):
            glm.update(volume, run[volume])

    np.testing.assert_array_equal(*[glm.estimate("a").beta for glm in glms])


def test_a_voxel_has_the_time_of_its_slice():
    chosen = mask()
    z = np.nonzero(chosen.volume())[2]

    times_s = voxel_slice_times_s(chosen, (0.0, 1.0, 0.5), 1.5)

    np.testing.assert_array_equal(times_s, np.array([0.0, 1.0, 0.5])[z])


@pytest.mark.parametrize(
    ("times_s", "message"),
    [
        ((0.0, 1.0), "slice times: expected 3, one a slice, found 2"),
        (
            (0.0, 1.0, 720.0),
            "slice times: expected seconds from 0 to the TR of 1.5, found 0 to 720",
        ),
        (
            (0.0, 1.0, np.nan),
            "slice times: expected seconds from 0 to the TR of 1.5, found nan to nan",
        ),
    ],
)
def test_slice_times_that_are_none_of_this_run_are_refused(times_s, message):
    with pytest.raises(ConfigError) as error:
        voxel_slice_times_s(mask(), times_s, 1.5)

    assert str(error.value) == message


def test_an_index_outside_the_responses_and_too_many_groups_are_refused():
    with pytest.raises(TensorMismatchError) as outside:
        Responses.of(2, (CANONICAL,), hrf_index=np.array([0, 1]))
    with pytest.raises(TensorMismatchError) as short:
        Responses.of(2, (CANONICAL,), hrf_index=np.array([0]))
    with pytest.raises(ConfigError) as many:
        Responses.of(300, (CANONICAL,), slice_times_s=np.arange(300) / 300)

    assert str(outside.value) == "hrf_index: expected 0 to 0, found 0 to 1"
    assert str(short.value) == "hrf_index: expected [2], found [1]"
    assert str(many.value) == (
        "responses: expected 1 to 256 groups of voxels that share response and slice "
        "time, found 300. Use fewer responses"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "confounds: expected 2, as announced at the run's start, found 0"),
        (
            np.zeros(3),
            "confounds: expected 2, as announced at the run's start, found 3",
        ),
        (
            np.array([0.0, np.nan]),
            "confounds: expected finite values, found 1 that are not",
        ),
    ],
)
def test_confounds_that_were_not_announced_so_are_refused_unchanged(values, message):
    glm = IncrementalTrialGlm(
        3, tr_s=1.5, expected_volumes=40, max_trials=2, confounds=2
    )

    with pytest.raises(TensorMismatchError) as error:
        glm.update(0, np.ones(3, dtype=np.float32), values)

    assert str(error.value) == message
    assert not glm.state()["is_seen"].any()


def test_a_constant_voxel_has_a_beta_of_zero_with_an_error_of_zero():
    rng = np.random.default_rng(0)
    run = rng.uniform(500, 600, (40, 3)).astype(np.float32)
    run[:, 1] = 512.0
    glm = IncrementalTrialGlm(3, tr_s=1.5, expected_volumes=40, max_trials=2)
    glm.add_trial("a", 6.0, 2.0)
    for volume in range(40):
        glm.update(volume, run[volume])

    answer = glm.estimate("a")

    assert (answer.beta[1], answer.standard_error[1]) == (0.0, 0.0)
    assert answer.beta[[0, 2]].all()
