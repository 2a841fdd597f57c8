import tracemalloc

import numpy as np
import pytest

from runtime.errors import ConfigError, TensorMismatchError, UsageError
from runtime.preprocess import IncrementalTrialGlm, LateTrialError
from runtime.preprocess.design import PIVOT_TOLERANCE

TR_S = 1.5
VOLUMES = 90
# Every 4 s for 3 s, as in NSD, so that responses overlap.
TRIALS = [(f"trial-{k}", 9.0 + 4.0 * k, 3.0) for k in range(24)]


def recorded_run(voxels=7, seed=0):
    rng = np.random.default_rng(seed)
    drift = np.cumsum(rng.standard_normal((VOLUMES, voxels)), axis=0)
    level = rng.uniform(500, 1500, voxels)
    noise = rng.standard_normal((VOLUMES, voxels))
    return (level + drift + noise).astype(np.float32)


def new_glm(voxels=7, **changes):
    arguments = {"tr_s": TR_S, "expected_volumes": VOLUMES, "max_trials": 30}
    return IncrementalTrialGlm(voxels, **(arguments | changes))


def kept_columns(X):
    """The documented rule, by projections from lstsq rather than an own basis."""
    kept = []
    for column in range(X.shape[1]):
        if len(kept) + 1 >= X.shape[0]:
            break
        x = X[:, column]
        rest = x
        if kept:
            rest = x - X[:, kept] @ np.linalg.lstsq(X[:, kept], x, rcond=None)[0]
        if x @ x > 0 and rest @ rest > PIVOT_TOLERANCE * (x @ x):
            kept.append(column)
    return kept


def batch(glm, trial_id, run, rows):
    X = glm.design(trial_id)[rows]
    Y = run[rows].astype(np.float64)
    kept = kept_columns(X)
    if 1 not in kept:
        return np.zeros(run.shape[1]), np.full(run.shape[1], np.inf)
    X = X[:, kept]
    beta = np.linalg.lstsq(X, Y, rcond=None)[0]
    squares = np.square(Y - X @ beta).sum(axis=0)
    place = kept.index(1)
    unscaled = np.linalg.inv(X.T @ X)[place, place]
    return beta[place], np.sqrt(squares / (len(rows) - len(kept)) * unscaled)


def test_every_estimate_of_a_growing_run_equals_the_batch_solution_of_the_rows_seen():
    run, glm, rows = recorded_run(), new_glm(), []
    for volume in range(VOLUMES):
        for trial in TRIALS:
            if volume * TR_S <= trial[1] < (volume + 1) * TR_S:
                glm.add_trial(*trial)
        if volume in {3, 4, 31}:
            continue
        glm.update(volume, run[volume])
        rows.append(volume)
        for trial_id in glm.trial_ids[-6::2]:
            beta, error = glm._solve(glm._row(trial_id))
            wanted, wanted_error = batch(glm, trial_id, run, rows)
            # Scale: the largest voxel, as a beta near zero has no digits of its own.
            scale = np.abs(wanted).max() or 1.0
            np.testing.assert_allclose(beta, wanted, rtol=1e-8, atol=1e-8 * scale)
            # With one degree of freedom the residual itself cancels.
            np.testing.assert_allclose(error, wanted_error, rtol=1e-6)


def test_an_answer_is_the_float32_of_the_solution_and_says_what_it_rests_on():
    run, glm = recorded_run(), new_glm()
    glm.add_trial(*TRIALS[0])
    for volume in (0, 1, 2, 5, 6, 7, 8, 9, 11):
        glm.update(volume, run[volume])

    answer = glm.estimate("trial-0")

    exact, error = glm._solve(0)
    assert answer.beta.tolist() == exact.astype(np.float32).tolist()
    assert answer.standard_error.tolist() == error.astype(np.float32).tolist()
    assert (answer.volumes_used, answer.last_volume_index) == (9, 11)
    assert answer.delay_s == pytest.approx(12 * TR_S - 9.0)
    assert answer.is_identified


def test_an_answer_is_not_written_again():
    run, glm = recorded_run(), new_glm()
    for trial in TRIALS[:4]:
        glm.add_trial(*trial)
    for volume in range(20):
        glm.update(volume, run[volume])
    answer = glm.estimate("trial-0")
    kept = answer.beta.copy(), answer.standard_error.copy()

    glm.update(20, run[20])
    other = glm.estimate("trial-1")

    assert not np.array_equal(other.beta, answer.beta)
    np.testing.assert_array_equal((answer.beta, answer.standard_error), kept)
    assert answer.beta.base is answer.standard_error.base is None


def test_an_estimate_takes_little_memory_but_for_its_answer():
    voxels = 100_000
    glm, volume = new_glm(voxels, max_trials=2), np.ones(voxels, np.float32)
    for trial in TRIALS[:2]:
        glm.add_trial(*trial)
    for index in range(20):
        glm.update(index, volume)
    tracemalloc.start()
    try:
        answer = glm.estimate("trial-0")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert answer.is_identified
    assert most < 2 * 8 * voxels


def test_a_trial_without_effect_yet_is_zero_with_infinite_error():
    glm = new_glm()
    glm.add_trial(*TRIALS[0])
    for volume in range(4):
        glm.update(volume, recorded_run()[volume])

    answer = glm.estimate("trial-0")

    assert not answer.is_identified
    assert np.isinf(answer.standard_error).all()
    assert not answer.beta.any()


def test_a_trial_announced_late_but_remembered_gives_the_same_answer():
    run, early, late = recorded_run(), new_glm(), new_glm()
    early.add_trial(*TRIALS[0])
    early.add_trial(*TRIALS[1])
    late.add_trial(*TRIALS[0])
    for volume in range(60):
        early.update(volume, run[volume])
        late.update(volume, run[volume])
    late.add_trial(*TRIALS[1])

    for trial in TRIALS[:2]:
        row = early._row(trial[0])
        np.testing.assert_allclose(early._solve(row), late._solve(row), rtol=1e-8)


def test_a_trial_announced_after_its_volumes_are_forgotten_is_refused_unchanged():
    run, glm = recorded_run(), new_glm()
    for volume in range(80):
        glm.update(volume, run[volume])
    before = glm.state()

    with pytest.raises(LateTrialError) as error:
        glm.add_trial("trial-0", 9.0, 3.0)

    assert str(error.value) == (
        "trial trial-0: expected its announcement within 64 volumes of volume 6, "
        "found volume 79 taken. Send events when the stimulus is shown"
    )
    assert_states_equal(before, glm.state())


def assert_states_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        if isinstance(left[name], np.ndarray):
            assert left[name].dtype == right[name].dtype
            assert left[name].tobytes() == right[name].tobytes(), name
        else:
            assert left[name] == right[name], name


def test_a_resumed_glm_goes_on_bit_for_bit():
    run, glm = recorded_run(), new_glm()
    for trial in TRIALS[:9]:
        glm.add_trial(*trial)
    for volume in range(40):
        glm.update(volume, run[volume])

    resumed = IncrementalTrialGlm.from_state(glm.state())

    assert_states_equal(glm.state(), resumed.state())
    for volume in range(40, 60):
        glm.update(volume, run[volume])
        resumed.update(volume, run[volume])
    assert_states_equal(glm.state(), resumed.state())
    for left, right in zip(glm._solve(5), resumed._solve(5), strict=True):
        assert left.tobytes() == right.tobytes()


def test_a_state_survives_safetensors():
    from safetensors.numpy import load, save

    glm = new_glm()
    glm.add_trial("ünï", 1.0, 2.0)
    glm.update(0, recorded_run()[0])
    state = glm.state()
    arrays = {k: v for k, v in state.items() if isinstance(v, np.ndarray)}

    back = state | load(save(arrays))

    assert IncrementalTrialGlm.from_state(back).trial_ids == ("ünï",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"version": 1},
            "GLM state: expected version 2, found 1. Restart the run's GLM",
        ),
        (
            {"squares": np.zeros(7, dtype=np.float32)},
            "GLM state squares: expected float64 [7], found float32 [7]",
        ),
    ],
)
def test_a_foreign_state_is_refused(change, message):
    with pytest.raises((ConfigError, TensorMismatchError)) as error:
        IncrementalTrialGlm.from_state(new_glm().state() | change)

    assert str(error.value) == message


def test_a_state_that_lacks_an_entry_is_refused():
    state = new_glm().state()
    del state["ring"]

    with pytest.raises(ConfigError, match="expected 'ring', found nothing"):
        IncrementalTrialGlm.from_state(state)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (0, "volume_index: expected 0 to 89, each once, found 0"),
        (90, "volume_index: expected 0 to 89, each once, found 90"),
        (-1, "volume_index: expected 0 to 89, each once, found -1"),
    ],
)
def test_a_volume_twice_or_outside_the_run_is_refused_unchanged(index, message):
    glm = new_glm()
    glm.update(0, recorded_run()[0])
    before = glm.state()

    with pytest.raises(TensorMismatchError) as error:
        glm.update(index, recorded_run()[1])

    assert str(error.value) == message
    assert_states_equal(before, glm.state())


def test_a_volume_that_is_not_finite_is_refused_unchanged():
    glm, voxels = new_glm(), recorded_run()[0].copy()
    voxels[2] = np.nan
    before = glm.state()

    with pytest.raises(TensorMismatchError) as error:
        glm.update(0, voxels)

    assert str(error.value) == "voxels: expected finite values, found 1 that are not"
    assert_states_equal(before, glm.state())


def test_a_trial_twice_one_too_many_and_one_unknown_are_refused():
    glm = new_glm(max_trials=1)
    glm.add_trial("a", 3.0, 3.0)

    with pytest.raises(UsageError) as twice:
        glm.add_trial("a", 9.0, 3.0)
    with pytest.raises(UsageError) as full:
        glm.add_trial("b", 9.0, 3.0)
    with pytest.raises(UsageError) as unknown:
        glm.estimate("c")

    assert str(twice.value) == (
        "trial a: expected a new trial among at most 1, found 1 announced, "
        "itself one of them"
    )
    assert str(full.value) == (
        "trial b: expected a new trial among at most 1, found 1 announced"
    )
    assert str(unknown.value) == (
        "trial c: expected an announced trial, found 1 others"
    )


def test_noise_alone_gives_t_values_of_unit_spread():
    rng = np.random.default_rng(1)
    glm = new_glm(voxels=4000)
    for trial in TRIALS:
        glm.add_trial(*trial)
    for volume in range(VOLUMES):
        glm.update(volume, rng.standard_normal(4000, dtype=np.float32))

    answer = glm.estimate("trial-11")

    # 4000 draws: the standard deviation's own error is 1.1 %.
    assert np.std(answer.beta / answer.standard_error) == pytest.approx(1.0, abs=0.05)
