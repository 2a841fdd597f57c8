"""Front ends: what comes out volume by volume is what a whole run gives at once."""

import numpy as np
import pytest

from runtime.answers import RunGeometry, Trial
from runtime.errors import TensorMismatchError, UsageError
from runtime.estimator import BetaEstimator, VolumeEstimator
from runtime.frontend import BetaFrontend, VolumeFrontend
from runtime.preprocess import CausalStatistics, LateTrialError, normalise_run
from tests.lss import trial_beta
from tests.participants import (
    BETAS,
    SHAPE,
    TR_S,
    TRIALS,
    VOLUMES,
    geometry,
    mask,
    scanned,
)


def played(volumes, missing=(), estimator=BETAS, trials=TRIALS):
    """Play a run; return what fell due, each with the volume it fell due at."""
    frontend = BetaFrontend(mask(), estimator, geometry(len(volumes)))
    due, waiting = {}, sorted(trials, key=lambda trial: trial.onset_s)
    for index, volume in enumerate(volumes):
        while waiting and waiting[0].onset_s <= (index + 1) * TR_S:
            frontend.add_trial(waiting.pop(0))
        if index in missing:
            ready = frontend.skip_volume(index)
        else:
            ready = frontend.add_volume(index, volume)
        due |= {entry.trial.trial_id: (index, entry.beta) for entry in ready}
    return frontend, due


def rows_of(volumes):
    return np.stack([mask().select(volume) for volume in volumes])


@pytest.mark.parametrize("missing", [(), (0, 3, 20, 21, 40), tuple(range(30, 38))])
def test_every_beta_is_that_of_least_squares_separate_on_the_run_so_far(missing):
    volumes = scanned()

    _, due = played(volumes, missing)

    assert len(due) == 14
    for trial in TRIALS[:14]:
        decision, beta = due[trial.trial_id]
        taken = [i for i in range(decision + 1) if i not in missing]
        known = [t for t in TRIALS if t.onset_s <= (decision + 1) * TR_S]
        others = [t for t in known if t is not trial]
        wanted = trial_beta(
            rows_of(volumes), taken, trial, others, BETAS, TR_S, decision=decision
        )
        if wanted is None:
            assert beta is None
            continue
        # The signal is float32 percent of about 1, the first designs are steep.
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(beta.beta, wanted, atol=1e-4 * scale, rtol=1e-4)
        assert beta.last_volume_index == taken[-1]
        assert beta.volumes_used == len(taken) - BETAS.baseline_volumes


def test_a_trial_is_due_with_the_first_volume_that_ends_a_delay_after_its_onset():
    _, due = played(scanned())

    for trial in TRIALS[:14]:
        volume, _ = due[trial.trial_id]
        asked_s = trial.onset_s + BETAS.decision_delay_s
        assert (volume + 1) * TR_S >= asked_s > volume * TR_S


def test_a_trial_is_due_at_the_delay_exactly_where_they_meet():
    trial = Trial("a", 2 * TR_S, 1.0)
    delay = BetaEstimator(decision_delay_s=4 * TR_S, baseline_volumes=2)

    _, due = played(scanned(12), estimator=delay, trials=[trial])

    assert due["a"][0] == 5


def test_a_trial_that_is_due_with_a_missing_volume_is_due_all_the_same():
    decision = played(scanned())[1]["trial-3"][0]

    _, due = played(scanned(), missing=(decision,))

    volume, beta = due["trial-3"]
    assert volume == decision
    assert beta.last_volume_index == decision - 1


def test_trials_that_the_run_did_not_wait_for_stay_undecided():
    frontend, due = played(scanned())

    assert frontend.undecided() == list(TRIALS[14:])
    assert not {trial.trial_id for trial in TRIALS[14:]} & set(due)


def test_a_trial_that_falls_due_before_the_baseline_is_complete_has_no_beta():
    early = Trial("early", 0.0, 1.0)
    slow = BetaEstimator(decision_delay_s=4.0, baseline_volumes=10)

    _, due = played(scanned(), estimator=slow, trials=[early, *TRIALS])

    assert due["early"] == (2, None)
    assert due["trial-8"][1] is not None


def test_a_trial_whose_volumes_are_all_missing_has_no_beta():
    trial = TRIALS[4]
    first = int(trial.onset_s / TR_S) - 1

    _, due = played(scanned(), missing=tuple(range(first, VOLUMES)), trials=[trial])

    assert due[trial.trial_id][1] is None


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_trial_whose_response_lies_in_a_gap_has_no_beta_of_any_size(first):
    volumes, trial = scanned(), TRIALS[6]
    shown = int(trial.onset_s / TR_S)
    gap = tuple(range(shown + first, shown + first + 8))

    _, whole = played(volumes)
    _, due = played(volumes, gap)

    assert whole[trial.trial_id][1] is not None
    assert due[trial.trial_id][1] is None
    norms = [np.linalg.norm(beta.beta) for _, beta in due.values() if beta is not None]
    usual = [
        np.linalg.norm(beta.beta) for _, beta in whole.values() if beta is not None
    ]
    assert max(norms) < 3 * max(usual)


def test_a_missing_volume_of_the_baseline_is_replaced_by_the_next_that_comes():
    volumes = scanned()
    frontend = BetaFrontend(mask(), BETAS, geometry())
    for index in (0, 2, 3, 5):
        frontend.add_volume(index, volumes[index])
    dark = volumes[6].copy()
    dark[0, 0, 0] = -32000

    assert frontend.invalid_voxels == 0
    frontend.add_volume(6, dark)
    assert frontend.invalid_voxels == 1


def test_a_run_of_other_volumes_than_the_masks_is_refused():
    run = RunGeometry("run-7", (4, 3, 9), TR_S, 10)

    with pytest.raises(TensorMismatchError) as error:
        BetaFrontend(mask(), BETAS, run)

    assert str(error.value) == (
        "run run-7: expected volumes (4, 3, 3), found (4, 3, 9)"
    )


@pytest.mark.parametrize("taken", [1, 8])
def test_an_index_that_came_before_is_refused_also_while_warming(taken):
    volumes = scanned()
    frontend = BetaFrontend(mask(), BETAS, geometry())
    for index in range(taken):
        frontend.add_volume(index, volumes[index])

    for index in (0, VOLUMES, -1):
        with pytest.raises(TensorMismatchError) as error:
            frontend.add_volume(index, volumes[0])
        assert str(error.value) == (
            f"volume_index: expected 0 to 59, each once, found {index}"
        )


def test_a_volume_bundle_takes_an_index_once():
    estimator, voxels = VolumeEstimator(prior_weight=0.0), mask().voxels
    prior, scale = np.zeros((2, voxels), np.float32)
    frontend, untouched = (
        VolumeFrontend(mask(), estimator, geometry(), prior=prior, scale=scale + 1)
        for _ in range(2)
    )
    volumes = scanned()
    for both in (frontend, untouched):
        both.add_volume(0, volumes[0])

    for index in (0, VOLUMES, -1):
        with pytest.raises(TensorMismatchError) as error:
            frontend.add_volume(index, volumes[1])
        assert str(error.value) == (
            f"volume_index: expected 0 to 59, each once, found {index}"
        )
    np.testing.assert_array_equal(
        frontend.add_volume(1, volumes[1]), untouched.add_volume(1, volumes[1])
    )


def test_a_volume_of_another_kind_is_refused_and_changes_nothing():
    volumes = scanned()
    frontend, untouched = (BetaFrontend(mask(), BETAS, geometry()) for _ in range(2))
    for both in (frontend, untouched):
        both.add_trial(TRIALS[0])
    for index, volume in enumerate(volumes[:16]):
        with pytest.raises(TensorMismatchError):
            frontend.add_volume(index, volume.astype(np.float64))
        with pytest.raises(TensorMismatchError):
            frontend.add_volume(index, volume[:3])
        ours = frontend.add_volume(index, volume)
        theirs = untouched.add_volume(index, volume)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.beta.beta, other.beta.beta)


def test_a_known_trial_and_one_that_is_too_late_are_refused():
    frontend, _ = played(scanned(90))

    with pytest.raises(UsageError, match="trial trial-3: expected a new trial"):
        frontend.add_trial(TRIALS[3])
    with pytest.raises(LateTrialError, match="trial late: expected its announcement"):
        frontend.add_trial(Trial("late", 12.0, 2.0))
    assert "late" not in {trial.trial_id for trial in frontend.undecided()}


@pytest.mark.parametrize("kind", ["mean", "linear"])
def test_volumes_come_out_as_the_whole_run_normalised_offline(kind):
    estimator = VolumeEstimator(kind=kind, prior_weight=7.0, slope_sd=0.2)
    calibration = [rows_of(scanned(seed=seed)) for seed in (1, 2)]
    statistics = CausalStatistics.fit(calibration, kind, 7.0, 0.2)
    volumes = scanned(seed=3)
    frontend = VolumeFrontend(
        mask(), estimator, geometry(), prior=statistics.prior, scale=statistics.scale
    )

    live = [frontend.add_volume(i, volume) for i, volume in enumerate(volumes)]

    np.testing.assert_array_equal(live, normalise_run(statistics, rows_of(volumes)))


def test_a_normalised_volume_by_the_formula_of_the_running_mean():
    estimator, voxels = VolumeEstimator(prior_weight=3.0), mask().voxels
    prior = np.full(voxels, 900, dtype=np.float32)
    scale = np.full(voxels, 4, dtype=np.float32)
    frontend = VolumeFrontend(mask(), estimator, geometry(), prior=prior, scale=scale)
    volumes, rows = scanned(), rows_of(scanned()).astype(np.float64)

    taken = [0, 1, 4, 9]
    live = [frontend.add_volume(i, volumes[i]) for i in taken]

    for n in range(4):
        centre = (3 * 900 + rows[taken[: n + 1]].sum(axis=0)) / (3 + n + 1)
        np.testing.assert_allclose(live[n], (rows[taken[n]] - centre) / 4, rtol=1e-5)


def test_normalised_volumes_stay_valid_when_the_next_one_comes():
    voxels = mask().voxels
    frontend = VolumeFrontend(
        mask(),
        VolumeEstimator(),
        geometry(),
        prior=np.zeros(voxels, dtype=np.float32),
        scale=np.ones(voxels, dtype=np.float32),
    )
    first = frontend.add_volume(0, scanned()[0])
    kept = first.copy()

    frontend.add_volume(1, np.zeros(SHAPE, dtype=np.int16))

    np.testing.assert_array_equal(first, kept)
