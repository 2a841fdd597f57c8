"""The growing GLM, with everything that it can be told, is least squares at all times.

The oracle is float64 lstsq on the columns that `tests.lss` keeps, voxel by voxel, with
regressors that `tests.lss` integrates numerically.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.preprocess import Hrf, IncrementalTrialGlm, Responses
from runtime.preprocess.hrf import CANONICAL
from tests.lss import kept_columns

TR_S, VOXELS = 1.2, 6
HRFS = (CANONICAL, Hrf(peak_s=4.5, undershoot_s=14.0), Hrf(peak_s=7.0))


@st.composite
def runs(draw):
    volumes = draw(st.integers(14, 48))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    missing = draw(st.sets(st.integers(0, volumes - 1), max_size=volumes // 4))
    tenths = draw(
        st.lists(
            st.integers(0, int(volumes * TR_S * 10)),
            min_size=1,
            max_size=6,
            unique=True,
        )
    )
    confounds = draw(st.integers(0, 7))
    slices = draw(st.booleans())
    responses = Responses.of(
        VOXELS,
        HRFS,
        hrf_index=rng.integers(0, draw(st.integers(1, 3)), VOXELS),
        slice_times_s=rng.choice([0.0, 0.4, 0.8], VOXELS) if slices else None,
    )
    level = rng.uniform(300, 1500, VOXELS)
    walk = rng.standard_normal((volumes, VOXELS)).cumsum(axis=0)
    run = (level + walk + rng.standard_normal((volumes, VOXELS))).astype(np.float32)
    # Like motion: far from zero, and wandering.
    values = rng.uniform(-50, 50, confounds) + 0.1 * rng.standard_normal(
        (volumes, confounds)
    ).cumsum(axis=0)
    onsets_s = sorted(t / 10 for t in tenths)
    return run, values, onsets_s, responses, sorted(missing)


def new_glm(run, values, responses):
    return IncrementalTrialGlm(
        VOXELS,
        tr_s=TR_S,
        expected_volumes=len(run),
        max_trials=6,
        drift_cutoff_s=40.0,
        confounds=values.shape[1],
        responses=responses,
    )


def batch(design, signal):
    """Coefficient and variance of column 1 by numpy, and what rounding may do to each.

    Cross-products square the condition of the columns, and what is left of the signal
    is a difference of sums as large as it. None unless the column is kept.
    """
    kept = kept_columns(design)
    if 1 not in kept:
        return None
    place = kept.index(1)
    # A trial that has just begun weighs 1e-15, which lstsq would take for nothing.
    norms = np.linalg.norm(design[:, kept], axis=0)
    X = design[:, kept] / norms
    beta, *_ = np.linalg.lstsq(X, signal, rcond=None)
    inverse = np.linalg.inv(np.linalg.qr(X, mode="r"))
    per_square = np.square(inverse[place] / norms[place]).sum()
    freedom = len(X) - len(kept)
    variance = np.square(signal - X @ beta).sum() / freedom * per_square
    rounding = 16 * np.finfo(float).eps * np.linalg.cond(X) ** 2
    all_of_it = np.square(signal).sum() * per_square
    return (
        (beta[place] / norms[place], rounding * np.sqrt(all_of_it)),
        (variance, rounding * all_of_it / freedom),
    )


@settings(max_examples=40, deadline=None)
@given(runs())
def test_at_every_volume_an_estimate_is_the_batch_solution_of_the_rows_seen(drawn):
    run, values, onsets_s, responses, missing = drawn
    glm = new_glm(run, values, responses)
    rows: list[int] = []
    waiting = [*enumerate(onsets_s)]
    for volume in range(len(run)):
        while waiting and waiting[0][1] < (volume + 1) * TR_S:
            trial, onset_s = waiting.pop(0)
            glm.add_trial(f"t{trial}", onset_s, 2.0)
        if volume in missing:
            continue
        glm.update(volume, run[volume], values[volume])
        rows.append(volume)
        if not glm.trial_ids:
            continue
        row = volume % len(glm.trial_ids)
        beta, error = glm._solve(row)
        signal = run[rows].astype(np.float64) - run[rows[0]]
        for voxel in range(VOXELS):
            design = glm.design(f"t{row}", voxel)[rows]
            wanted = batch(design, signal[:, voxel])
            if wanted is None:
                assert (beta[voxel], error[voxel]) == (0.0, np.inf)
                continue
            (coefficient, its_room), (variance, room) = wanted
            assert beta[voxel] == pytest.approx(coefficient, rel=1e-9, abs=its_room)
            assert error[voxel] ** 2 == pytest.approx(variance, rel=1e-9, abs=room)


@settings(max_examples=20, deadline=None)
@given(runs())
def test_a_regressor_is_the_response_of_that_voxel_at_the_instant_of_its_slice(drawn):
    run, values, onsets_s, responses, _ = drawn
    glm = new_glm(run, values, responses)
    glm.add_trial("t0", onsets_s[0], 2.0)

    for voxel in range(VOXELS):
        kind = responses.group[voxel]
        hrf, sample_s = responses.hrfs[kind], responses.sample_s[kind]
        at_s = np.arange(len(run)) * TR_S + (TR_S / 2 if sample_s is None else sample_s)
        # The boxcar of two seconds by the midpoint rule, a millisecond a step.
        steps = onsets_s[0] + (np.arange(2000) + 0.5) / 1000
        wanted = 0.001 * density(at_s[:, None] - steps, hrf).sum(axis=1)
        np.testing.assert_allclose(
            glm.design("t0", voxel)[:, 1], wanted, rtol=0, atol=1e-5
        )


def density(times_s, hrf):
    from scipy.stats import gamma

    peak = gamma.pdf(times_s, hrf.peak_s)
    undershoot = gamma.pdf(times_s, hrf.undershoot_s) * hrf.undershoot_ratio
    inside = (times_s >= 0) & (times_s <= hrf.length_s)
    return np.where(inside, (peak - undershoot) / (1 - hrf.undershoot_ratio), 0.0)


@settings(max_examples=15, deadline=None)
@given(runs(), st.integers(1, 40))
def test_a_state_taken_in_mid_run_goes_on_bit_for_bit(drawn, cut):
    run, values, onsets_s, responses, missing = drawn
    glm = new_glm(run, values, responses)
    for trial, onset_s in enumerate(onsets_s):
        glm.add_trial(f"t{trial}", onset_s, 2.0)
    other = glm
    for volume in range(len(run)):
        if volume == cut:
            other = IncrementalTrialGlm.from_state(glm.state())
        if volume in missing:
            continue
        glm.update(volume, run[volume], values[volume])
        if other is not glm:
            other.update(volume, run[volume], values[volume])

    for row in range(len(onsets_s)):
        for one, two in zip(glm._solve(row), other._solve(row), strict=True):
            assert one.tobytes() == two.tobytes()


@settings(max_examples=20, deadline=None)
@given(runs(), st.randoms(use_true_random=False))
def test_when_and_in_which_order_events_are_announced_changes_no_estimate(
    drawn, random
):
    run, values, onsets_s, responses, missing = drawn
    early, live = new_glm(run, values, responses), new_glm(run, values, responses)
    order = [*enumerate(onsets_s)]
    random.shuffle(order)
    for trial, onset_s in order:
        early.add_trial(f"t{trial}", onset_s, 2.0)
    waiting = [*enumerate(onsets_s)]
    for volume in range(len(run)):
        while waiting and waiting[0][1] < (volume + 1) * TR_S:
            trial, onset_s = waiting.pop(0)
            live.add_trial(f"t{trial}", onset_s, 2.0)
        if volume not in missing:
            early.update(volume, run[volume], values[volume])
            live.update(volume, run[volume], values[volume])

    for trial_id in live.trial_ids:
        one, two = early.estimate(trial_id), live.estimate(trial_id)
        assert one.is_identified == two.is_identified
        # float32 answers of sums that were added in another order.
        room = 1e-5 * np.minimum(one.standard_error, 1e6)
        assert (np.abs(one.beta - two.beta) <= room + 1e-6 * np.abs(one.beta)).all()
