"""Training features are what a live decoder sees of the same run, bit for bit."""

import functools

import numpy as np
import pytest

from runtime.answers import Trial
from runtime.decoder import Reader, TrialDecoder
from runtime.errors import RecordingError
from runtime.estimator import BetaEstimator, VolumeEstimator
from runtime.frontend import BetaFrontend
from runtime.preprocess import (
    AffineNormaliser,
    CausalStatistics,
    FeatureSpace,
    NoiseWhitening,
    normalise_run,
)
from runtime.recording import RecordedEvent, Recording, open_recording, timeline
from tests.linear_model import LinearModel, retrieval
from tests.participants import tiny_participant
from training.features import (
    TrialBetas,
    fit_normaliser,
    geometry,
    trial_betas,
    volume_features,
    volume_statistics,
)

ESTIMATOR = BetaEstimator(decision_delay_s=9.0)


@functools.cache
def recording(first=0, last=2):
    whole = open_recording(tiny_participant())
    return Recording(whole.folder, whole.runs[first:last], whole.mask)


@functools.cache
def features():
    return trial_betas(recording(), ESTIMATOR)


def live_reports(run, mask):
    """Decode a run as a server does: an event as it happens, a volume as it ends."""
    voxels = mask.voxels
    unit = AffineNormaliser(
        np.zeros(voxels, dtype=np.float32), np.ones(voxels, dtype=np.float32)
    )
    decoder = TrialDecoder(
        BetaFrontend(mask, ESTIMATOR, geometry(run)),
        Reader(LinearModel(voxels), retrieval(), None),
        geometry(run),
        space=FeatureSpace(unit, NoiseWhitening.identity(voxels)),
        clock=lambda: 0,
    )
    instants = [(e.onset_s, 0, e) for e in run.events]
    instants += [((i + 1) * run.tr_s, 1, i) for i in range(run.volume_count)]
    reports, volumes = [], run.volumes()
    for _, _, what in sorted(instants, key=lambda instant: instant[:2]):
        if isinstance(what, RecordedEvent):
            decoder.add_trial(Trial(what.trial_id, what.onset_s, what.duration_s))
        else:
            reports += decoder.add_volume(what, volumes[what])[1]
    return reports


def test_features_are_the_betas_of_live_reports_bit_for_bit():
    live = [report for run in recording().runs for report in live_reports(
        run, recording().mask
    )]  # fmt: skip

    assert [r.trial_id for r in live] == [e.trial_id for e in features().events]
    for report, beta in zip(live, features().betas, strict=True):
        assert report.beta.tobytes() == beta.tobytes()


def test_every_trial_keeps_its_event_and_its_run():
    run_events = [{e.trial_id for e in run.events} for run in recording().runs]

    assert len(features()) == 48
    assert features().betas.dtype == np.float32
    for event, run in zip(features().events, features().run, strict=True):
        assert event.trial_id in run_events[run]


def test_trials_that_the_run_did_not_wait_for_are_left_out():
    run = recording().runs[0]
    patient = BetaEstimator(decision_delay_s=40.0)

    late = trial_betas(recording(0, 1), patient)

    end_s = run.volume_count * run.tr_s
    wanted = [e.trial_id for e in run.events if e.onset_s + 40 <= end_s]
    assert 0 < len(wanted) < len(run.events)
    assert [e.trial_id for e in late.events] == wanted


def test_a_recording_without_one_estimable_trial_is_refused():
    with pytest.raises(RecordingError) as error:
        trial_betas(recording(0, 1), BetaEstimator(decision_delay_s=1000.0))

    assert str(error.value) == (
        f"{tiny_participant()}: expected trials that end 1000 s before their run does, "
        "found none"
    )


def test_progress_counts_runs():
    seen = []

    trial_betas(recording(3, 6), ESTIMATOR, lambda *x: seen.append(x))

    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_split_selects_its_trials_and_an_unknown_one_is_named():
    mixed = trial_betas(recording(2, 5), ESTIMATOR)

    chosen = mixed.select("calibration")

    assert {event.split for event in chosen.events} == {"calibration"}
    assert len(chosen) == 12
    rows = [i for i, e in enumerate(mixed.events) if e.split == "calibration"]
    np.testing.assert_array_equal(chosen.betas, mixed.betas[rows])
    assert set(chosen.run.tolist()) == {1}
    with pytest.raises(RecordingError) as error:
        mixed.select("live")
    assert str(error.value) == (
        "trials: expected split live, found calibration, test, train"
    )
    empty = TrialBetas(mixed.betas[:0], mixed.run[:0], ())
    with pytest.raises(RecordingError, match="expected split live, found none"):
        empty.select("live")


def test_an_event_comes_before_the_first_volume_that_ends_at_or_after_its_onset():
    run = recording().runs[0]

    items = list(timeline(run))

    assert [i for i in items if isinstance(i, int)] == list(range(run.volume_count))
    for position, item in enumerate(items):
        if isinstance(item, RecordedEvent):
            following = next(i for i in items[position:] if isinstance(i, int))
            assert (following + 1) * run.tr_s >= item.onset_s > following * run.tr_s


def test_the_normaliser_is_mean_and_deviation_over_trials():
    fitted = fit_normaliser(features())

    betas = features().betas.astype(np.float64)
    np.testing.assert_allclose(fitted.mean, betas.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(fitted.scale, betas.std(axis=0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("kind", ["mean", "linear"])
def test_volume_features_are_the_runs_causal_normalisation(kind):
    estimator = VolumeEstimator(kind=kind, prior_weight=9.0)
    runs, mask = recording().runs, recording().mask
    rows = [np.stack([mask.select(volume) for volume in run]) for run in runs]

    statistics = volume_statistics(runs, mask, estimator)
    found = volume_features(runs[1], mask, estimator, statistics)

    wanted = CausalStatistics.fit(rows, kind, 9.0, estimator.slope_sd)
    np.testing.assert_array_equal(statistics.prior, wanted.prior)
    np.testing.assert_array_equal(statistics.scale, wanted.scale)
    np.testing.assert_array_equal(found, normalise_run(wanted, rows[1]))
