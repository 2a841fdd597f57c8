"""A participant as training data: splits kept apart, units fitted on one of them."""

import functools

import numpy as np
import pytest

from runtime.errors import RecordingError
from runtime.estimator import BetaEstimator
from runtime.patch_dct import PatchDct
from runtime.preprocess import FeatureSpace
from runtime.recording import open_recording
from tests.participants import tiny_participant
from training.dataset import open_dataset
from training.features import trial_betas

ESTIMATOR = BetaEstimator(decision_delay_s=9.0)
BACKBONE = PatchDct()


@functools.cache
def dataset():
    return open_dataset(tiny_participant(), ESTIMATOR, BACKBONE)


def test_only_runs_of_the_splits_asked_for_are_read():
    splits = {event.split for run in dataset().recording.runs for event in run.events}

    assert splits == {"train", "calibration"}
    assert len(dataset().recording.runs) == 4
    assert len(dataset().betas) == 3 * 24 + 12


def test_units_are_fitted_on_training_trials_alone():
    whole = trial_betas(open_recording(tiny_participant()), ESTIMATOR)
    train = whole.select("train")

    wanted = FeatureSpace.fit(
        train.betas,
        [e.stimulus_id for e in train.events],
        noise_shrinkage=ESTIMATOR.noise_shrinkage,
    )

    np.testing.assert_array_equal(dataset().space.affine.mean, wanted.affine.mean)
    features = dataset().split("calibration").voxels
    chosen = whole.select("calibration").betas
    np.testing.assert_array_equal(features, wanted.to_model(chosen))


def test_a_split_pairs_each_trial_with_the_picture_that_was_shown():
    trials = dataset().split("train")

    events = dataset().betas.select("train").events
    assert len(trials) == 72
    for row, event in zip(trials.image, events, strict=True):
        assert dataset().stimuli.ids[row] == event.stimulus_id
        pixels = BACKBONE.image_from_tokens(trials.latents[row])
        np.testing.assert_array_equal(pixels, dataset().stimuli.pixels[row])


def test_no_picture_of_the_test_is_among_those_trained_on():
    test = open_dataset(
        tiny_participant(), ESTIMATOR, BACKBONE, splits=("train", "test")
    )

    shown = set(test.rows(test.betas.select("test")).tolist())

    assert len(shown) == 12
    assert not shown & set(dataset().rows(dataset().betas).tolist())


def test_the_mean_latent_counts_each_training_picture_once():
    shown = {e.stimulus_id for e in dataset().betas.select("train").events}
    rows = [dataset().stimuli.row(name) for name in shown]

    wanted = dataset().latents[rows].astype(np.float64).mean(axis=0)

    assert len(rows) == 24
    np.testing.assert_allclose(dataset().latent_mean(), wanted, atol=1e-5)


def test_training_features_are_centred_and_have_white_noise_between_repeats():
    voxels = dataset().split("train").voxels.astype(np.float64)

    np.testing.assert_allclose(voxels.mean(axis=0), 0, atol=1e-4)
    # Whitened by a shrunk covariance: of the order of 1, not of percent signal.
    assert 0.3 < voxels.std() < 3


def test_a_split_that_nobody_recorded_is_named():
    with pytest.raises(RecordingError) as error:
        open_dataset(
            tiny_participant(), ESTIMATOR, BACKBONE, splits=("imagery", "rest")
        )

    assert str(error.value) == (
        f"{tiny_participant()}: expected runs of split imagery or rest, found none"
    )


def test_data_without_a_training_split_are_refused():
    with pytest.raises(RecordingError) as error:
        open_dataset(tiny_participant(), ESTIMATOR, BACKBONE, splits=("test",))

    assert str(error.value) == "trials: expected split train, found test"


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(RecordingError, match=r"gallery\.tsv: expected the table"):
        open_dataset(tmp_path, ESTIMATOR, BACKBONE)
