"""The decoder: one report per volume, one per trial, whatever happens."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.answers import Trial
from runtime.decoder import (
    VOLUMES_MISSING,
    Reader,
    Stages,
    TrialDecoder,
    VolumeDecoder,
)
from runtime.errors import (
    BackendError,
    ConfigError,
    TensorMismatchError,
    UsageError,
)
from runtime.estimator import BetaEstimator, VolumeEstimator
from runtime.frontend import BetaFrontend, VolumeFrontend
from runtime.preprocess import AffineNormaliser, FeatureSpace, NoiseWhitening
from runtime.preprocess.timing import decision_volume
from tests.linear_model import BACKBONE, LinearModel, retrieval
from tests.participants import BETAS, TR_S, TRIALS, VOLUMES, geometry, mask, scanned

ENDED = "the run ended before the decision delay had passed"
WARMING = "the run's baseline is incomplete, or too little of the trial seen"


def counter():
    return itertools.count(0, 1000).__next__


def feature_space(seed=0):
    rng, voxels = np.random.default_rng(seed), mask().voxels
    residuals = rng.standard_normal((30, voxels)).astype(np.float32)
    return FeatureSpace(
        AffineNormaliser(
            rng.standard_normal(voxels).astype(np.float32),
            rng.uniform(0.5, 2, voxels).astype(np.float32),
        ),
        NoiseWhitening.fit(residuals, shrinkage=0.3),
    )


def new_decoder(volumes=VOLUMES, *, model=None, estimator=BETAS, abstain_below=0.0):
    run = geometry(volumes)
    reader = Reader(
        model or LinearModel(mask().voxels), retrieval(), BACKBONE, abstain_below
    )
    return TrialDecoder(
        BetaFrontend(mask(), estimator, run),
        reader,
        run,
        space=feature_space(),
        clock=counter(),
    )


def played(decoder, volumes, missing=(), trials=TRIALS):
    volume_reports, trial_reports = [], []
    waiting = sorted(trials, key=lambda trial: trial.onset_s)
    for index, volume in enumerate(volumes):
        while waiting and waiting[0].onset_s <= (index + 1) * TR_S:
            decoder.add_trial(waiting.pop(0))
        if index in missing:
            trial_reports += decoder.skip_volume(index)
        else:
            report, trials_due = decoder.add_volume(index, volume)
            volume_reports.append(report)
            trial_reports += trials_due
    trial_reports += decoder.end_run()
    return volume_reports, trial_reports


def test_a_run_gives_one_report_per_volume_and_one_per_trial():
    volumes, trials = played(new_decoder(), scanned(), missing=(7, 30))

    taken = [i for i in range(VOLUMES) if i not in (7, 30)]
    assert [report.volume_index for report in volumes] == taken
    assert [report.trial_id for report in trials] == [t.trial_id for t in TRIALS]
    assert all(report.answer is None for report in volumes)


@pytest.mark.parametrize("missing", [(), (20,), (33, 34, 35, 36, 37), (7, 30, 38)])
def test_a_trial_says_that_volumes_of_its_response_are_missing(missing):
    """From the one in which it begins to the one with which it falls due."""
    _, reports = played(new_decoder(), scanned(), missing=missing)
    trials = {trial.trial_id: trial for trial in TRIALS}
    answered = [report for report in reports if report.last_volume >= 0]

    assert len(answered) > 6
    for report in answered:
        onset_s = trials[report.trial_id].onset_s
        due = decision_volume(onset_s, BETAS.decision_delay_s, TR_S)
        lost = [i for i in missing if onset_s // TR_S <= i <= due]
        assert report.degraded == ((VOLUMES_MISSING,) if lost else ()), report.trial_id


def test_an_answer_is_the_model_applied_to_the_beta_in_the_models_units():
    model, space = LinearModel(mask().voxels), feature_space()

    _, reports = played(new_decoder(model=model), scanned())

    answered = [report for report in reports if report.answer.decision == "ANSWER"]
    assert len(answered) == len(model.seen) == 14
    for report, seen in zip(answered, model.seen, strict=True):
        np.testing.assert_array_equal(seen, space.to_model(report.beta))
        wanted = -(model.matrix @ seen).reshape(BACKBONE.tokens, BACKBONE.width)
        np.testing.assert_array_equal(report.z_v, wanted)
        assert report.answer == retrieval().answer(report.z_v)
        np.testing.assert_array_equal(
            report.image, BACKBONE.image_from_tokens(report.z_v)
        )
        assert report.standard_error.shape == report.beta.shape


def test_a_report_says_its_delay_and_what_it_rests_on():
    _, reports = played(new_decoder(), scanned(), missing=(20,))

    for trial, report in zip(TRIALS[:14], reports, strict=False):
        end_s = (report.last_volume + 1) * TR_S
        assert report.delay_s == pytest.approx(end_s - trial.onset_s)
        assert report.first_volume == 0
        lost = 1 if report.last_volume >= 20 else 0
        wanted = report.last_volume + 1 - BETAS.baseline_volumes - lost
        assert report.volumes_used == wanted


def test_every_stage_is_timed_by_the_clock_that_was_given():
    volumes, trials = played(new_decoder(), scanned())

    assert volumes[0].stage_ns == {"frontend": 1000}
    assert volumes[0].quality["invalid_voxels"] == 0.0
    assert volumes[9].quality.keys() > {"tsnr", "dvars_standardised", "drift_percent"}
    names = ["normalise", "encoder", "flow", "heads", "image"]
    assert trials[0].stage_ns == dict.fromkeys(names, 1000)


def test_a_stage_that_fails_is_not_recorded():
    stages = Stages(counter())

    with pytest.raises(ConfigError), stages("flow"):
        raise ConfigError("no")

    assert stages.ns == {}


def test_an_early_answer_is_the_models_to_the_beta_so_far_without_a_confidence():
    decoder, undisturbed = (
        new_decoder(abstain_below=1.0),
        new_decoder(abstain_below=1.0),
    )
    trial = TRIALS[4]
    for one in (decoder, undisturbed):
        one.add_trial(trial)
    early, final, expected = [], [], []
    for index, volume in enumerate(scanned()):
        final += decoder.add_volume(index, volume)[1]
        expected += undisturbed.add_volume(index, volume)[1]
        report = decoder.early(trial.trial_id)
        early += [] if report is None else [report]

    last = early[-1]
    features = feature_space().to_model(last.beta)
    z_v = LinearModel(mask().voxels).decode_latent(
        LinearModel(mask().voxels).encode_voxels(features)
    )
    np.testing.assert_array_equal(last.z_v, z_v)
    # However unsure, it is an answer: how sure it is, nobody knows.
    assert {one.answer.decision for one in early} == {"ANSWER"}
    assert {one.answer.confidence for one in early} == {None}
    assert last.answer.candidates == retrieval().answer(z_v).candidates
    assert len(final) == 1
    assert last.last_volume == final[0].last_volume - 1
    assert last.delay_s < final[0].delay_s
    # It changed nothing.
    assert final[0].beta.tobytes() == expected[0].beta.tobytes()
    assert final[0].answer == expected[0].answer


def test_early_there_is_nothing_to_say_without_an_engine_or_of_a_trial_unknown():
    class Gone(LinearModel):
        def encode_voxels(self, voxels):
            raise BackendError("the device is gone")

    decoder, broken = new_decoder(), new_decoder(model=Gone(mask().voxels))
    for one in (decoder, broken):
        one.add_trial(TRIALS[4])
    found = []
    for index, volume in enumerate(scanned()):
        broken.add_volume(index, volume)
        decoder.add_volume(index, volume)
        found.append(broken.early(TRIALS[4].trial_id))

    assert found == [None] * VOLUMES
    assert decoder.early("unknown") is None
    assert decoder.early(TRIALS[4].trial_id) is None  # due and answered


def test_a_run_that_ends_early_abstains_for_its_open_trials():
    _, reports = played(new_decoder(), scanned())

    for report, trial in zip(reports[14:], TRIALS[14:], strict=True):
        assert report.answer.decision == "ABSTAIN"
        assert report.answer.reason == ENDED
        assert report.answer.confidence is None
        assert (report.z_v, report.image, report.beta) == (None, None, None)
        assert report.volumes_used == 0
        assert report.delay_s == pytest.approx(VOLUMES * TR_S - trial.onset_s)


def test_a_trial_before_the_baseline_is_complete_is_warming():
    slow = BetaEstimator(decision_delay_s=4.0, baseline_volumes=10)

    _, reports = played(
        new_decoder(estimator=slow), scanned(), trials=[Trial("early", 0.5, 1.0)]
    )

    assert [r.trial_id for r in reports] == ["early"]
    assert (reports[0].answer.decision, reports[0].answer.reason) == (
        "WARMING",
        WARMING,
    )


def test_a_confidence_below_the_limit_abstains_and_still_says_what_it_would_be():
    volumes = scanned()
    _, bold = played(new_decoder(), volumes)
    confidences = sorted(r.answer.confidence for r in bold[:14])
    limit = (confidences[6] + confidences[7]) / 2

    _, careful = played(new_decoder(abstain_below=limit), volumes)

    for before, after in zip(bold[:14], careful[:14], strict=True):
        assert after.answer.confidence == before.answer.confidence
        assert after.answer.candidates == before.answer.candidates
        if before.answer.confidence < limit:
            assert after.answer.decision == "ABSTAIN"
            assert after.answer.label is None
            assert after.answer.reason == f"confidence below {limit:g}"
        else:
            assert after.answer == before.answer
    assert sum(r.answer.decision == "ABSTAIN" for r in careful[:14]) == 7


def test_a_model_that_gives_no_number_abstains():
    class Broken(LinearModel):
        def decode_latent(self, z_n):
            return np.full_like(z_n, np.nan)

    model = Broken(mask().voxels)
    reader = Reader(model, retrieval(), None)
    voxels = np.zeros(mask().voxels, dtype=np.float32)

    answer, _ = reader.read(voxels, Stages(counter()))

    assert (answer.decision, answer.reason) == ("ABSTAIN", "the latent is not finite")


def test_without_a_backbone_there_is_no_image():
    reader = Reader(LinearModel(4), retrieval(), None)

    assert reader.image(np.zeros((4, 12), dtype=np.float32)) is None


def test_a_trial_announced_after_its_volumes_are_forgotten_abstains_once():
    decoder = new_decoder(volumes=90)
    volumes = scanned(90)
    for index, volume in enumerate(volumes[:85]):
        decoder.add_volume(index, volume)

    decoder.add_trial(Trial("late", 12.0, 2.0))
    _, reports = decoder.add_volume(85, volumes[85])

    assert [report.trial_id for report in reports] == ["late"]
    assert reports[0].answer.decision == "ABSTAIN"
    assert reports[0].answer.reason == (
        "trial late: expected its announcement within 64 volumes of volume 8, "
        "found volume 84 taken. Send events when the stimulus is shown"
    )
    assert decoder.skip_volume(86) == ()
    assert decoder.end_run() == ()


def test_a_late_trial_at_the_very_end_is_answered_by_the_end_of_the_run():
    decoder = new_decoder(volumes=90)
    for index, volume in enumerate(scanned(90)):
        decoder.add_volume(index, volume)
    decoder.add_trial(Trial("late", 12.0, 2.0))

    assert [report.trial_id for report in decoder.end_run()] == ["late"]


def test_a_trial_announced_late_but_remembered_is_due_with_the_next_volume():
    decoder, volumes = new_decoder(), scanned()
    for index, volume in enumerate(volumes[:30]):
        decoder.add_volume(index, volume)

    decoder.add_trial(TRIALS[2])
    _, reports = decoder.add_volume(30, volumes[30])

    assert [report.trial_id for report in reports] == ["trial-2"]
    assert reports[0].answer.decision == "ANSWER"
    assert reports[0].last_volume == 30


def test_a_trial_with_impossible_times_is_an_error_and_not_an_answer():
    decoder = new_decoder()

    with pytest.raises(ConfigError):
        decoder.add_trial(Trial("a", 3.0, -1.0))

    assert decoder.end_run() == ()


@st.composite
def sessions(draw):
    """Trials and volumes in any order that a server could pass on."""
    volumes = draw(st.integers(1, 80))
    trials = draw(st.integers(0, min(12, volumes)))
    onsets = draw(
        st.lists(st.floats(-5, volumes * TR_S + 5), min_size=trials, max_size=trials)
    )
    steps = [("volume", i, draw(st.booleans())) for i in range(volumes)]
    for k, onset in enumerate(onsets):
        at = draw(st.integers(0, len(steps)))
        steps.insert(at, ("trial", Trial(f"t{k}", onset, 1.5), True))
    return volumes, steps


@settings(max_examples=40, deadline=None)
@given(sessions())
def test_every_trial_is_answered_exactly_once_in_any_order_of_events(session):
    volumes, steps = session
    decoder, run = new_decoder(volumes), scanned(volumes)
    answered, announced, indices = [], [], []

    for kind, what, is_there in steps:
        if kind == "trial":
            announced.append(what.trial_id)
            decoder.add_trial(what)
        elif is_there:
            report, trials = decoder.add_volume(what, run[what])
            indices.append(report.volume_index)
            answered += trials
        else:
            answered += decoder.skip_volume(what)
    answered += decoder.end_run()

    assert sorted(r.trial_id for r in answered) == sorted(announced)
    there = [what for kind, what, is_there in steps if kind == "volume" and is_there]
    assert indices == there
    for report in answered:
        is_answer = report.answer.decision == "ANSWER"
        assert is_answer == (report.z_v is not None) == (report.answer.reason is None)


def volume_decoder(warming=0, model=None):
    voxels = mask().voxels
    estimator = VolumeEstimator(warming_volumes=warming)
    prior = np.full(voxels, 1000, dtype=np.float32)
    scale = np.full(voxels, 50, dtype=np.float32)
    frontend = VolumeFrontend(mask(), estimator, geometry(), prior=prior, scale=scale)
    model = model or LinearModel(voxels)
    decoder = VolumeDecoder(
        frontend,
        Reader(model, retrieval(), BACKBONE),
        whitening=feature_space().whitening,
        warming_volumes=warming,
        clock=counter(),
    )
    twin = VolumeFrontend(mask(), estimator, geometry(), prior=prior, scale=scale)
    return decoder, model, twin


def test_a_volume_bundle_answers_every_volume_after_the_warming_ones():
    decoder, model, twin = volume_decoder(warming=3)

    reports = []
    for index, volume in enumerate(scanned()):
        if index == 1:
            assert decoder.skip_volume(1) == ()
            continue
        report, trials = decoder.add_volume(index, volume)
        assert trials == ()
        reports.append(report)

    assert [r.volume_index for r in reports] == [0, *range(2, VOLUMES)]
    decisions = [r.answer.decision for r in reports]
    assert decisions == ["WARMING"] * 3 + ["ANSWER"] * (VOLUMES - 4)
    assert reports[0].answer.reason == "the run's baseline is incomplete"
    assert set(reports[9].stage_ns) == {
        "frontend", "normalise", "encoder", "flow", "heads",
    }  # fmt: skip
    whiten = feature_space().whitening.whiten
    taken = [0, *range(2, VOLUMES)]
    wanted = [whiten(twin.add_volume(i, scanned()[i])) for i in taken][3:]
    np.testing.assert_array_equal(model.seen, wanted)
    with pytest.raises(TensorMismatchError) as caught:
        decoder.skip_volume(VOLUMES)
    assert str(caught.value) == (
        f"volume_index: expected 0 to {VOLUMES - 1}, found {VOLUMES}"
    )
    assert decoder.end_run() == ()


def test_a_volume_bundle_refuses_trials():
    decoder, _, _ = volume_decoder()

    with pytest.raises(UsageError) as error:
        decoder.add_trial(TRIALS[0])

    assert str(error.value) == (
        "trial trial-0: expected no trials, the bundle answers volumes"
    )


class Unreliable:
    """A linear model whose engine fails in some of its calls."""

    def __init__(self, failing):
        self._model, self._failing, self._calls = LinearModel(mask().voxels), failing, 0

    def encode_voxels(self, voxels):
        self._calls += 1
        if self._calls in self._failing:
            raise BackendError("engine: expected to run, found that it does not")
        return self._model.encode_voxels(voxels)

    def decode_latent(self, z_n):
        return self._model.decode_latent(z_n)


FAILED = ("ENGINE_FAILED engine: expected to run, found that it does not",)


def test_a_trial_that_no_engine_answers_abstains_and_changes_no_other():
    # Two are due with one volume, of which the first meets the failure.
    together = (*TRIALS, Trial("twin", TRIALS[1].onset_s, TRIALS[1].duration_s + 0.1))
    _, wanted = played(new_decoder(), scanned(), trials=together)

    volumes, found = played(
        new_decoder(model=Unreliable({2})), scanned(), trials=together
    )

    assert len(volumes) == VOLUMES
    assert [r.trial_id for r in found] == [r.trial_id for r in wanted]
    assert [r.degraded for r in found] == [
        FAILED if k == 1 else () for k in range(len(found))
    ]
    assert found[1].answer.decision == "ABSTAIN"
    assert found[1].answer.reason == "no engine computes"
    assert found[1].z_v is found[1].image is None
    for k, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert k == 1 or one.answer == other.answer
        np.testing.assert_array_equal(one.beta, other.beta)


def test_a_volume_that_no_engine_answers_abstains_and_moves_the_runs_mean():
    decoder, _, _ = volume_decoder(model=Unreliable({3}))
    sound, _, _ = volume_decoder()

    found = [decoder.add_volume(i, v)[0] for i, v in enumerate(scanned())]
    wanted = [sound.add_volume(i, v)[0] for i, v in enumerate(scanned())]

    assert found[2].answer.decision == "ABSTAIN"
    assert [r.degraded for r in found] == [
        FAILED if k == 2 else () for k in range(VOLUMES)
    ]
    assert all(f.answer == w.answer for f, w in zip(found[3:], wanted[3:], strict=True))
