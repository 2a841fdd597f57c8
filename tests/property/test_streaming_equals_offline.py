"""Volume by volume is the whole run at once, and nothing knows the future."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.answers import RunGeometry, Trial
from runtime.estimator import BetaEstimator, VolumeEstimator
from runtime.frontend import BetaFrontend, VolumeFrontend
from runtime.preprocess import CausalStatistics, normalise_run
from tests.lss import trial_beta
from tests.participants import SHAPE, mask, scanned


@st.composite
def sessions(draw):
    volumes, tr_s = draw(st.integers(12, 70)), draw(st.sampled_from([0.8, 1.0, 2.0]))
    # A tenth of a second apart at least, so that no two regressors are the same.
    tenths = draw(
        st.lists(st.integers(20, int(volumes * tr_s * 10)), max_size=8, unique=True)
    )
    trials = [Trial(f"t{k}", t / 10, 1.7) for k, t in enumerate(sorted(tenths))]
    estimator = BetaEstimator(
        decision_delay_s=draw(st.sampled_from([5.0, 8.0, 12.0])),
        baseline_volumes=draw(st.integers(1, 8)),
        drift_cutoff_s=draw(st.sampled_from([30.0, 128.0])),
    )
    missing = draw(st.sets(st.integers(0, volumes - 1), max_size=volumes // 4))
    return volumes, tr_s, trials, estimator, missing


def decisions(run, tr_s, trials, estimator, missing):
    """Stream a run; return each decided trial's volume and beta."""
    geometry = RunGeometry("run", SHAPE, tr_s, len(run))
    frontend, waiting, found = BetaFrontend(mask(), estimator, geometry), [*trials], {}
    for index, volume in enumerate(run):
        while waiting and waiting[0].onset_s <= (index + 1) * tr_s:
            frontend.add_trial(waiting.pop(0))
        due = (
            frontend.skip_volume(index)
            if index in missing
            else frontend.add_volume(index, volume)
        )
        found |= {entry.trial.trial_id: (index, entry.beta) for entry in due}
    return found


@settings(max_examples=30, deadline=None)
@given(sessions())
def test_a_streamed_beta_is_the_batch_solution_of_the_volumes_up_to_its_decision(
    session,
):
    volumes, tr_s, trials, estimator, missing = session
    run = scanned(volumes)
    rows = np.stack([mask().select(volume) for volume in run])

    found = decisions(run, tr_s, trials, estimator, missing)

    for trial in trials:
        if trial.trial_id not in found:
            assert trial.onset_s + estimator.decision_delay_s > volumes * tr_s
            continue
        decision, beta = found[trial.trial_id]
        taken = [i for i in range(decision + 1) if i not in missing]
        known = [t for t in trials if t.onset_s <= (decision + 1) * tr_s]
        others = [t for t in known if t is not trial]
        wanted = trial_beta(
            rows, taken, trial, others, estimator, tr_s, decision=decision
        )
        assert (wanted is None) == (beta is None)
        if wanted is not None:
            # Steep designs of a few rows amplify the float32 of percent signal by up
            # to 1 / sqrt(PIVOT_TOLERANCE) = 100; a signal is of the order of 1.
            room = 2e-4 * max(1.0, np.abs(wanted).max())
            np.testing.assert_allclose(beta.beta, wanted, atol=room, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(sessions(), st.integers(0, 69))
def test_volumes_after_a_decision_change_nothing_in_it_bit_for_bit(session, changed):
    volumes, tr_s, trials, estimator, missing = session
    run, other = scanned(volumes), scanned(volumes)
    other[changed:] = scanned(volumes, seed=9)[changed:]

    first = decisions(run, tr_s, trials, estimator, missing)
    second = decisions(other, tr_s, trials, estimator, missing)

    assert first.keys() == second.keys()
    for trial_id, (decision, beta) in first.items():
        if decision < changed and beta is not None:
            assert beta.beta.tobytes() == second[trial_id][1].beta.tobytes()


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 40), st.sampled_from(["mean", "linear"]), st.floats(0.5, 40.0))
def test_streamed_volumes_are_the_offline_normalisation_bit_for_bit(
    volumes, kind, weight
):
    estimator = VolumeEstimator(kind=kind, prior_weight=weight)
    runs = [np.stack([mask().select(v) for v in scanned(20, seed)]) for seed in (4, 5)]
    statistics = CausalStatistics.fit(runs, kind, weight, estimator.slope_sd)
    geometry = RunGeometry("run", SHAPE, 1.0, volumes)
    frontend = VolumeFrontend(
        mask(), estimator, geometry, prior=statistics.prior, scale=statistics.scale
    )
    run = scanned(volumes)

    live = np.stack([frontend.add_volume(i, volume) for i, volume in enumerate(run)])

    rows = np.stack([mask().select(volume) for volume in run])
    np.testing.assert_array_equal(live, normalise_run(statistics, rows))
