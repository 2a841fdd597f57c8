from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.preprocess import IncrementalTrialGlm, decision_volume, end_s
from runtime.recording import open_recording

HAXBY = Path(__file__).parents[3] / "shared" / "data" / "haxby2001"


def glm_of(order, run):
    glm = IncrementalTrialGlm(3, tr_s=2.0, expected_volumes=40, max_trials=4)
    for trial, onset_s in enumerate((4.0, 9.0, 20.0)):
        glm.add_trial(f"{trial}", onset_s, 3.0)
    for volume in order:
        glm.update(volume, run[volume])
    return glm


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 39), min_size=12, unique=True), st.integers(0, 2))
def test_an_estimate_depends_on_which_volumes_came_and_not_on_their_order(order, trial):
    rng = np.random.default_rng(0)
    run = (700 + rng.standard_normal((40, 3))).astype(np.float32)

    shuffled, sorted_ = (glm_of(o, run)._solve(trial) for o in (order, sorted(order)))

    np.testing.assert_allclose(shuffled[0], sorted_[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(shuffled[1], sorted_[1], rtol=1e-5)


@given(st.floats(-20, 600), st.floats(0, 30), st.floats(0.3, 3, allow_subnormal=False))
def test_a_due_volume_is_the_first_that_ends_late_enough(onset_s, delay_s, tr_s):
    volume = decision_volume(onset_s, delay_s, tr_s)
    slack_s = 1e-8 * tr_s

    assert end_s(volume, tr_s) >= onset_s + delay_s - slack_s
    assert volume == 0 or end_s(volume - 1, tr_s) < onset_s + delay_s + slack_s


@pytest.mark.recording
def test_the_haxby_recording_has_twelve_runs_of_eight_blocks():
    if not HAXBY.is_dir():
        pytest.skip(f"no recorded data at {HAXBY.name}")

    recording = open_recording(HAXBY)

    assert recording.mask.voxels == 530
    assert len(recording.runs) == 12
    assert {run.volume_count for run in recording.runs} == {121}
    assert {len(run.events) for run in recording.runs} == {8}
    assert recording.runs[11].volumes().shape == (121, 40, 20, 1)
