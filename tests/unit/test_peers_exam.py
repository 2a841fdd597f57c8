"""Exams: the trials that everybody has, and nothing of a question in its lesson."""

import functools

import numpy as np
import pytest

from runtime.estimator import BetaEstimator, VolumeEstimator
from runtime.patch_dct import PatchDct
from runtime.recording import open_recording
from tests.labelled_folder import LENGTH, RUNS, write_haxby
from tests.participants import tiny_participant
from training.dataset import open_dataset
from training.evaluate import fit_category_ridge
from training.haxby import CATEGORIES, LabelledRuns, read_labelled
from training.judge import fit_ridge_baseline
from training.peers.exam import fold_exam, participant_exam, shuffled_dataset
from training.peers.ridge import CategoryRidge, LatentRidge

HELD, CODES = 2, (4, 4)


@functools.cache
def dataset():
    return open_dataset(
        tiny_participant(),
        BetaEstimator(decision_delay_s=9.0),
        PatchDct(),
        splits=("train", "calibration", "test"),
    )


def test_questions_are_of_pictures_that_no_trial_of_the_lesson_shows():
    made = participant_exam(dataset())

    asked = set(made.questions.image.tolist())
    assert asked
    assert not asked & set(made.lesson.trials.image.tolist())
    assert asked <= set(made.gallery.tolist())


def test_repeats_of_a_picture_are_left_out_together():
    lesson = participant_exam(dataset()).lesson

    for image in np.unique(lesson.trials.image):
        assert len(set(lesson.groups[lesson.trials.image == image])) == 1


def test_categories_are_those_of_the_pictures_labels():
    made, labels = participant_exam(dataset()), np.array(dataset().stimuli.labels)

    names = made.lesson.categories

    assert names.max() + 1 == len(set(labels))
    np.testing.assert_array_equal(
        names[:, None] == names[None], labels[:, None] == labels[None]
    )


def test_ridge_is_the_baseline_that_the_demonstration_has():
    made = participant_exam(dataset())
    test = dataset().betas.select("test")

    found = LatentRidge().fit(made.lesson).decode(made.questions.features)

    wanted = fit_ridge_baseline(dataset()).decode(dataset(), test.betas)
    np.testing.assert_array_equal(found, wanted)


def test_shuffling_moves_pictures_of_training_trials_alone():
    moved, kept = shuffled_dataset(dataset(), 0), dataset()
    before, after = participant_exam(kept).lesson, participant_exam(moved).lesson

    np.testing.assert_array_equal(
        np.sort(after.trials.image), np.sort(before.trials.image)
    )
    assert (after.trials.image != before.trials.image).any()
    np.testing.assert_array_equal(after.trials.voxels, before.trials.voxels)
    np.testing.assert_array_equal(
        participant_exam(moved).questions.image, participant_exam(kept).questions.image
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_haxby(tmp_path_factory.mktemp("haxby"))
    return read_labelled(open_recording(folder))


def fold(data, *, is_shuffled=False):
    return fold_exam(
        data, HELD, VolumeEstimator(), shape=CODES, is_shuffled=is_shuffled
    )


def test_a_fold_asks_every_labelled_volume_of_the_run_left_out(data):
    made = fold(data)
    here = (data.runs == HELD) & (data.labels > 0)

    assert set(made.questions.run) == {HELD}
    np.testing.assert_array_equal(made.questions.image, data.labels[here] - 1)
    assert len(made.lesson.trials) == (RUNS - 1) * CATEGORIES * LENGTH
    assert len(np.unique(made.questions.stretch)) == CATEGORIES


def test_nothing_of_the_run_left_out_is_in_its_lesson(data):
    rng = np.random.default_rng(9)
    volumes, labels = list(data.volumes), data.labels.copy()
    volumes[HELD] = rng.integers(0, 3000, volumes[HELD].shape, dtype=np.int16)
    here = data.runs == HELD
    labels[here] = rng.permutation(labels[here])
    other = LabelledRuns(data.recording, tuple(volumes), labels, data.runs)

    first, second = fold(data), fold(other)

    np.testing.assert_array_equal(
        first.lesson.trials.voxels, second.lesson.trials.voxels
    )
    np.testing.assert_array_equal(first.lesson.trials.image, second.lesson.trials.image)
    assert not np.array_equal(first.questions.features, second.questions.features)


def test_a_shuffled_fold_has_the_same_questions_and_other_answers_to_learn(data):
    real, control = fold(data), fold(data, is_shuffled=True)

    np.testing.assert_array_equal(real.questions.image, control.questions.image)
    assert (real.lesson.trials.image != control.lesson.trials.image).any()
    counts = [np.bincount(e.lesson.trials.image) for e in (real, control)]
    np.testing.assert_array_equal(*counts)


def test_ridge_of_a_fold_is_the_one_that_evaluate_has(data):
    made = fold(data)
    trials = made.lesson.trials

    fitted = CategoryRidge().fit(made.lesson)

    wanted = fit_category_ridge(trials.voxels, trials.image + 1, made.lesson.groups)
    np.testing.assert_array_equal(fitted.ridge.weights, wanted.weights)
    right = fitted.name(made.questions.features) == made.questions.image
    assert right.mean() > 0.5  # chance .125
