"""What a day's trials change; nothing is believed that left-out trials deny."""

import contextlib

import numpy as np
import pytest

from runtime.calibration import KnownTrials, calibrate
from runtime.correction import image_folds
from runtime.errors import CalibrationError, TensorMismatchError
from runtime.identification import mean_interval
from runtime.predictions import Predictions, predict_all
from tests.decoded import identification
from tests.linear_participant import a_day

TURNED = {"angle": 1.2, "snr": 0.25}


def calibrated(day, **more):
    predictions = predict_all(day.model, day.trials.latents)
    return calibrate(day.trials, day.space, day.model, predictions, **more)


def decoded(day, space, correction, trials):
    features = space.to_model(trials.betas)
    if correction is not None:
        features = correction.apply(features)
    return np.array(
        [
            identification(
                day.model.decode_latent(day.model.encode_voxels(row)),
                trials.latents[image],
                trials.names[image],
                day.retrieval,
            )
            for row, image in zip(features, trials.image, strict=True)
        ]
    )


def halves(day, count):
    """The first trials to calibrate on, and the rest to be judged by."""
    t = day.trials
    parts = [
        KnownTrials(t.betas[rows], t.image[rows], t.run[rows], t.latents, t.names)
        for rows in (slice(None, count), slice(count, None))
    ]
    day.trials = parts[0]
    return parts[1]


def test_a_changed_day_is_regained_on_trials_that_nothing_was_fitted_on():
    day = a_day(0, images=220, offset_sd=1.0, gain_sd=0.5, **TURNED)
    unseen = halves(day, 120)

    found = calibrated(day)

    plain = decoded(day, day.space, None, unseen)
    normalised = decoded(day, found.space, None, unseen)
    both = decoded(day, found.space, found.correction, unseen)
    assert found.correction is not None
    assert mean_interval(normalised - plain, unseen.image).low > 0
    gain, correction = (
        mean_interval(both - one, unseen.image) for one in (plain, normalised)
    )
    assert correction.low > 0
    assert gain.mean > 0.1
    # What it said it would gain is what it gains, within the two intervals.
    said = found.findings.gain
    assert said.low < gain.high
    assert gain.low < said.high


def test_a_day_that_only_lies_elsewhere_is_normalised_and_not_corrected():
    day = a_day(1, offset_sd=1.0, gain_sd=0.5)

    found = calibrated(day)

    assert found.correction is None
    assert found.penalty is None
    assert found.findings.gain == found.findings.normalisation
    assert found.findings.reached == found.findings.normalised
    assert found.findings.gain.low > 0
    assert found.space.whitening is day.space.whitening


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_no_gain_is_found_where_there_is_none(is_shuffled):
    """An unchanged day, and one whose pictures are not those that were shown."""
    gains = 0
    for seed in range(20):
        day = a_day(
            seed, images=30, voxels=40, snr=0.3,
            angle=0.5 * is_shuffled, is_shuffled=is_shuffled,
        )  # fmt: skip
        with contextlib.suppress(CalibrationError):
            calibrated(day)
            gains += 1

    assert gains <= 0.05 * 20


def test_a_refusal_says_what_was_found():
    with pytest.raises(CalibrationError) as error:
        calibrated(a_day(0, images=30, voxels=40, snr=0.3))

    assert str(error.value).startswith(
        "calibration: expected a gain on held-out trials, its 95% interval above 0, "
        "found "
    )
    assert str(error.value).endswith(
        " over 30 trials of 30 images. Serve the bundle as it is"
    )


def test_too_few_images_are_refused():
    with pytest.raises(CalibrationError) as error:
        calibrated(a_day(0, images=19, repeats=3))

    assert str(error.value) == (
        "calibration: expected trials of at least 20 known images, found 19"
    )


def test_the_same_trials_give_the_same_calibration_bit_for_bit():
    first, second = (calibrated(a_day(3, **TURNED)) for _ in range(2))

    assert first.findings == second.findings
    np.testing.assert_array_equal(first.correction.writes, second.correction.writes)
    np.testing.assert_array_equal(first.space.affine.mean, second.space.affine.mean)


def test_no_fit_meets_the_images_that_judge_it(monkeypatch):
    """Nor the trials beside those held out, whose responses overlap theirs."""
    day = a_day(4, images=40, repeats=2, voxels=30)
    whole = {row.tobytes(): k for k, row in enumerate(day.trials.betas)}
    fitted = []

    def spy(space, betas, image):
        fitted.append([whole[row.tobytes()] for row in betas])
        return original(space, betas, image)

    from runtime import calibration

    original = calibration._todays_space
    monkeypatch.setattr(calibration, "_todays_space", spy)
    with pytest.raises(CalibrationError):
        calibrated(day)

    images, runs = day.trials.image, day.trials.run
    for held, rows in zip(image_folds(images), fitted, strict=True):
        assert not set(images[held]) & set(images[rows])
        for row in np.flatnonzero(held):
            for beside in (row - 1, row + 1):
                if 0 <= beside < len(runs) and runs[beside] == runs[row]:
                    assert beside not in rows


@pytest.mark.parametrize(("change", "times"), [(TURNED, 3), ({}, 2)])
def test_corrected_trials_are_encoded_only_where_their_voxels_gain(change, times):
    told, seen = [], []
    day = a_day(5, **change)
    encode = day.model.encode_voxels
    day.model.encode_voxels = lambda voxels: seen.append(1) or encode(voxels)

    with contextlib.suppress(CalibrationError):
        calibrated(day, on_progress=lambda *said: told.append(said))

    assert len(seen) == times * 100
    assert [done for done, _ in told][-1] == 300
    assert {of for _, of in told} == {300}


def test_nothing_is_decoded_and_nothing_is_predicted_again():
    day = a_day(3, **TURNED)
    predictions = predict_all(day.model, day.trials.latents)

    class Seeing:
        encode_voxels = staticmethod(day.model.encode_voxels)

    found = calibrate(day.trials, day.space, Seeing(), predictions)

    assert found.findings == calibrated(day).findings


def test_images_of_another_kind_than_the_gallerys_gain_nothing_for_that():
    """Fits draw everything to where today's images lie; shuffled, nothing is told."""
    gains = 0
    for seed in range(10):
        day = a_day(
            seed, images=30, voxels=40, snr=0.3, offset_sd=1.0, is_shuffled=True,
            shift=5.0,
        )  # fmt: skip
        with contextlib.suppress(CalibrationError):
            calibrated(day)
            gains += 1

    assert gains == 0


def test_what_is_not_finite_is_refused():
    day = a_day(0)
    day.trials.betas[3, 4] = np.nan

    with pytest.raises(TensorMismatchError) as error:
        calibrated(day)

    assert str(error.value) == (
        "trials: expected finite betas and predictions, found others among them"
    )


def test_predictions_of_other_images_are_refused():
    day = a_day(0)
    found = predict_all(day.model, day.trials.latents)
    fewer = Predictions(found.z_n[1:], found.voxels[1:])

    with pytest.raises(TensorMismatchError) as error:
        calibrate(day.trials, day.space, day.model, fewer)

    assert str(error.value) == "predictions: expected 100, one an image, found 99"
