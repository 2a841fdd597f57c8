import itertools

import msgspec
import nibabel
import numpy as np
import pytest

from runtime.errors import ConfigError, RecordingError, TensorMismatchError, UsageError
from training.participant import (
    FROZEN_SHA256,
    Lapses,
    ParticipantParameters,
    ceiling,
    decoding_ceiling,
    design,
    encoding_ceiling,
    fit_beta_model,
    generate_participant,
    images,
    motion,
    noise_ceiling,
    offline,
    open_participant,
    response,
    table_hash,
    tiny,
)
from training.participant.brain import build_brain
from training.participant.measure import split_betas
from training.participant.parameters import SUPPRESSOR

# Generates participants.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def participant(tmp_path_factory):
    out = tmp_path_factory.mktemp("participant") / "tiny"
    return generate_participant(out, tiny(), seed=7)


def test_the_table_is_the_one_that_every_figure_was_made_from():
    found = table_hash(ParticipantParameters())

    assert found == FROZEN_SHA256
    assert found == ("487d7ab1e7fcbaa3ead76fcddc0533d93802c777ab1648653d033b4d7475eaaf")


def test_the_document_names_the_frozen_table(request):
    text = (request.config.rootpath / "docs" / "participant.md").read_text("utf-8")

    assert FROZEN_SHA256 in text


def test_one_seed_is_one_participant_whatever_signs_the_library_returns(monkeypatch):
    rng = np.random.default_rng(0)
    tuned = rng.standard_normal((60, 40))
    roi = np.repeat(np.arange(1, 9), 5).astype(np.int16)
    scale = np.full(40, 0.9)
    svd = np.linalg.svd

    def flipped(a, **options):
        left, singular, directions = svd(a, **options)
        signs = np.resize([-1.0, 1.0, -1.0], len(singular))
        return left * signs, singular, signs[:, None] * directions

    def factor():
        draws = np.random.default_rng(1)
        return response.build_response(tuned, scale, roi, tiny(), draws).trial_factor

    ours = factor()
    monkeypatch.setattr(np.linalg, "svd", flipped)

    np.testing.assert_allclose(factor(), ours, atol=1e-12)


def test_the_same_seed_gives_the_same_volumes_and_another_seed_others(
    participant, tmp_path
):
    again = generate_participant(tmp_path / "again", tiny(), seed=7)
    other = generate_participant(tmp_path / "other", tiny(), seed=8)

    for ours, same in zip(participant.runs, again.runs, strict=True):
        np.testing.assert_array_equal(ours.volumes(), same.volumes())
    assert (participant.runs[0].volumes() != other.runs[0].volumes()).mean() > 0.5


def test_a_generation_that_fails_leaves_nothing_behind(tmp_path):
    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_participant(tmp_path / "out", tiny(), seed=1, progress=fail)

    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(tmp_path):
    with pytest.raises(UsageError, match="expected a new folder, found it there"):
        generate_participant(tmp_path, tiny(), seed=1)


def test_progress_counts_every_run_once(tmp_path):
    seen = []

    folder = generate_participant(
        tmp_path / "out", tiny(), seed=1, progress=lambda *x: seen.append(x)
    )

    n = len(folder.runs)
    assert seen == [(k, n) for k in range(1, n + 1)]


def test_a_folder_without_a_subject_is_no_participant(tmp_path):
    with pytest.raises(RecordingError, match=r"expected one sub-\* folder, found 0"):
        open_participant(tmp_path)


def test_the_folder_is_bids_with_int16_volumes(participant):
    run = participant.runs[0]
    image = nibabel.load(run.bold)

    assert run.bold.name == "sub-sim007_task-images_run-01_bold.nii.gz"
    assert image.get_data_dtype() == np.int16
    assert image.header.get_zooms() == (3.0, 3.0, 3.0, run.tr_s)
    assert (participant.root / "dataset_description.json").is_file()
    assert (participant.root / "participants.tsv").is_file()


def test_truth_belongs_to_the_table_and_the_voxels(participant):
    truth, record = participant.truth(), participant.truth_record()
    n_voxels = int(participant.mask().sum())
    n_trials = sum(len(run.events) for run in participant.runs)

    assert participant.parameters() == tiny()
    assert record.table_sha256 == table_hash(tiny())
    assert truth["patterns"].shape == (len(participant.stimuli), n_voxels)
    assert truth["trial_amplitudes"].shape == (n_trials, n_voxels)
    assert truth["hrf"].max(axis=0) == pytest.approx(1.0)


def test_the_suppressor_answers_nothing_but_carries_shared_noise(participant):
    truth = participant.truth()
    suppressor = np.array([r == SUPPRESSOR for r in participant.roi_names()])
    loadings = truth["noise_loadings"]

    assert np.all(truth["patterns"][:, suppressor] == 0)
    assert np.all(truth["trial_amplitudes"][:, suppressor] == 0)
    assert np.all(truth["patterns"][:, ~suppressor].std(axis=0) > 0)
    strength = np.sqrt((loadings**2).sum(axis=0))
    assert strength[suppressor].mean() == pytest.approx(
        strength[~suppressor].mean(), rel=0.2
    )


def test_no_held_out_image_is_shown_in_training(participant):
    shown = {
        split: {e.image for run in participant.runs_of(split) for e in run.events}
        for split in ("train", "calibration", "test", "live")
    }

    for a, b in itertools.combinations(("train", "calibration", "test"), 2):
        assert not shown[a] & shown[b]
    assert shown["live"] <= shown["test"]
    assert shown["test"] <= set(participant.gallery())
    assert not shown["train"] & set(participant.gallery())


def test_the_default_design_is_the_one_documented():
    runs = design.build_design(ParticipantParameters(), np.random.default_rng(0))
    volumes = [run.n_volumes for run in runs]
    repeats = np.bincount([t.image for run in runs[:12] for t in run.trials])

    assert volumes == [428] * 17 + [90]
    assert np.all(repeats[:400] == 3)
    for run in runs:
        assert len({t.image for t in run.trials}) == len(run.trials)


def test_runs_that_do_not_divide_the_trials_are_refused():
    table = msgspec.structs.replace(tiny(), training_runs=5)

    with pytest.raises(ConfigError, match="expected a divisor of 72 trials, found 5"):
        design.build_design(table, np.random.default_rng(0))


def test_regions_that_do_not_fit_are_refused():
    table = msgspec.structs.replace(tiny(), roi_voxels=(2000,) * 8)

    with pytest.raises(ConfigError, match="free voxels for V1"):
        build_brain(table, np.random.default_rng(0))


def test_pictures_of_one_category_differ():
    table = ParticipantParameters()
    n = len(images.CATEGORIES)
    pictures = [
        images.render(images.factors_from_index(3, index), table)
        for index in range(0, 20 * n, n)
    ]

    assert n >= 10
    for a, b in itertools.combinations(pictures, 2):
        assert np.abs(a.astype(int) - b.astype(int)).mean() > 4


def test_responses_peak_where_the_table_says():
    peaks_s = np.array([4.0, 5.5, 7.0])

    brief = response.stimulus_response(peaks_s, 0.01, 1 / 6)

    np.testing.assert_allclose(
        brief.argmax(axis=0) * response.HRF_DT_S, peaks_s, atol=0.16
    )


def test_a_head_that_rests_gives_the_same_anatomy_and_one_that_moves_does_not():
    table = tiny()
    brain = build_brain(table, np.random.default_rng(0))
    poses = np.zeros((4, 6))
    poses[3, 0] = 0.5

    anatomy = motion.moved_anatomy(brain, poses, table.voxel_mm)

    np.testing.assert_array_equal(anatomy[0], anatomy[1])
    assert np.abs(anatomy[3] - anatomy[0]).max() > 10


def test_motion_within_a_volume_moves_late_slices_only():
    table = tiny()
    brain = build_brain(table, np.random.default_rng(0))
    poses = np.zeros((2, 6))
    poses[1, 1] = 0.6

    anatomy = motion.moved_anatomy(brain, poses, table.voxel_mm)
    still = motion.moved_anatomy(brain, np.zeros((1, 6)), table.voxel_mm)[0]

    change = np.abs(anatomy[0] - still)
    slices = brain.head_indices[:, 2]
    assert change[slices == 0].max(initial=0) == 0
    assert change[slices == slices.max()].mean() > change[slices == 1].mean()


def test_moving_by_one_voxel_shows_the_neighbour():
    table = tiny()
    brain = build_brain(table, np.random.default_rng(0))
    indices = brain.head_indices
    pose = np.array([[table.voxel_mm, 0, 0, 0, 0, 0]])

    still = motion.moved_anatomy(brain, np.zeros((1, 6)), table.voxel_mm)[0]
    moved = motion.moved_anatomy(brain, pose, table.voxel_mm)[0]

    row = {tuple(index): k for k, index in enumerate(indices)}
    pairs = [(k, row.get((x + 1, y, z))) for (x, y, z), k in row.items()]
    here, there = zip(*[(k, j) for k, j in pairs if j is not None], strict=True)
    np.testing.assert_allclose(moved[list(here)], still[list(there)], rtol=1e-4)


def test_separate_betas_recover_amplitudes_without_noise():
    rng = np.random.default_rng(0)
    onsets_s = [12.0 + 4 * k for k in range(20)]
    regressors = offline.trial_regressors(onsets_s, 120, 1.0)
    drift = offline.drift_basis(120, 1.0)
    equal = np.ones((20, 1)) * rng.uniform(0.5, 2, 3)
    series = regressors @ equal + drift @ rng.standard_normal((drift.shape[1], 3))

    betas = offline.separate_betas(series, regressors, drift)

    np.testing.assert_allclose(betas, equal, rtol=1e-8)


def test_closed_form_betas_equal_a_regression_per_trial():
    rng = np.random.default_rng(1)
    regressors = offline.trial_regressors([10.0, 14.0, 18.0, 22.0], 60, 1.0)
    drift, series = offline.drift_basis(60, 1.0), rng.standard_normal((60, 5))

    betas = offline.separate_betas(series, regressors, drift)
    oracle = offline.delayed_betas(series, regressors, drift, [59] * 4)

    np.testing.assert_allclose(betas, oracle, rtol=1e-7)


def test_betas_follow_the_true_amplitudes(participant):
    truth = participant.truth()
    train = split_betas(participant, "train")
    trials = [e.trial_id for run in participant.runs_of("train") for e in run.events]
    true = truth["trial_amplitudes"][trials]
    visual = true.std(axis=0) > 0

    x = true[:, visual] - true[:, visual].mean(axis=0)
    y = train.betas[:, visual] - train.betas[:, visual].mean(axis=0)
    correlation = (x * y).sum(0) / np.sqrt((x**2).sum(0) * (y**2).sum(0))

    assert np.median(correlation) > 0.4


def test_the_noise_ceiling_is_the_share_of_signal():
    rng = np.random.default_rng(2)
    shown = np.tile(np.arange(2000), 3)
    signal = rng.standard_normal((2000, 2)) * [0.4, 0.0]
    betas = signal[shown] + rng.standard_normal((6000, 2))

    three = noise_ceiling(betas, shown, 3)

    assert three[0] == pytest.approx(0.16 / (0.16 + 1 / 3), abs=0.03)
    assert three[1] < 0.05
    np.testing.assert_allclose(encoding_ceiling(betas, shown, 3) ** 2, three)


def _gaussian_world(rng, n_images=30, n_voxels=12):
    patterns = rng.standard_normal((n_images, n_voxels))
    mixing = rng.standard_normal((n_voxels, n_voxels)) * 0.4
    covariance = mixing @ mixing.T + 0.5 * np.eye(n_voxels)

    def trials(shown):
        noise = rng.multivariate_normal(np.zeros(n_voxels), covariance, len(shown))
        return 0.7 * patterns[shown] + 0.3 + noise

    return patterns, covariance, trials


def test_the_ceiling_matches_the_exact_decoder_of_a_gaussian_world():
    rng = np.random.default_rng(3)
    patterns, covariance, trials = _gaussian_world(rng)
    train, shown = rng.integers(0, 30, 4000), rng.integers(0, 30, 3000)
    test = trials(shown)

    model = fit_beta_model(trials(train), patterns[train], ())
    found = decoding_ceiling(test, shown, patterns, model, Lapses(0.0001, 0.3, 0.0001))

    precision = np.linalg.inv(covariance)
    error = test[:, None] - (0.7 * patterns + 0.3)
    distance = np.einsum("tiv,vw,tiw->ti", error, precision, error)
    exact = (distance.argmin(axis=1) == shown).mean()
    assert found.single.mean() == pytest.approx(exact, abs=0.02)
    assert found.joint.mean() >= found.single.mean()


def test_shuffled_labels_decode_at_chance():
    rng = np.random.default_rng(4)
    patterns, _, trials = _gaussian_world(rng)
    train, shown = rng.integers(0, 30, 2000), rng.integers(0, 30, 3000)

    model = fit_beta_model(trials(train), patterns[train], ())
    found = decoding_ceiling(
        trials(shown), rng.permutation(shown), patterns, model, Lapses(0.07, 0.3, 0.1)
    )

    assert found.single.mean() == pytest.approx(1 / 30, abs=0.015)


def test_a_known_structure_brings_the_covariance_nearer():
    rng = np.random.default_rng(5)
    factor = rng.standard_normal((3, 60))
    true = factor.T @ factor + np.eye(60)
    samples = rng.multivariate_normal(np.zeros(60), true, 80)

    informed, _ = ceiling.shrink_covariance(samples, true)
    blind, _ = ceiling.shrink_covariance(samples, np.eye(60) * true.diagonal().mean())

    assert np.linalg.norm(informed - true) < 0.6 * np.linalg.norm(blind - true)


def test_patterns_that_do_not_pair_up_with_betas_are_refused():
    with pytest.raises(TensorMismatchError, match=r"patterns: expected \(4, 3\)"):
        fit_beta_model(np.zeros((4, 3)), np.zeros((5, 3)), ())


def test_gains_are_a_distribution_that_keeps_its_moments():
    gains, probabilities = Lapses(0.07, 0.3, 0.1).nodes()
    attended = gains[:3], probabilities[:3] / 0.93

    assert probabilities.sum() == pytest.approx(1)
    mean = (attended[0] * attended[1]).sum()
    assert mean == pytest.approx(1)
    variance = ((attended[0] - mean) ** 2 * attended[1]).sum()
    assert np.sqrt(variance) == pytest.approx(0.1)
