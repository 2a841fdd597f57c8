"""What a day's trials change; nothing is believed that left-out trials deny."""

import contextlib

import numpy as np
import pytest

from runtime.calibration import (
    CONFIDENCE,
    KnownTrials,
    calibrate,
    identification,
    mean_interval,
)
from runtime.correction import image_folds
from runtime.errors import CalibrationError, TensorMismatchError
from tests.linear_participant import a_day

TURNED = {"angle": 1.2, "snr": 0.25}


def calibrated(day, **more):
    return calibrate(day.trials, day.space, day.model, day.retrieval, **more)


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


def test_progress_counts_every_evaluation_once():
    told = []

    calibrated(a_day(5, **TURNED), on_progress=lambda *said: told.append(said))

    total = 100 + 3 * 100
    assert [done for done, _ in told][-1] == total
    assert {of for _, of in told} == {total}


def test_what_is_not_finite_is_refused():
    day = a_day(0)
    day.trials.betas[3, 4] = np.nan

    with pytest.raises(TensorMismatchError) as error:
        calibrated(day)

    assert str(error.value) == (
        "trials: expected finite betas and latents, found others among them"
    )


def test_identification_is_a_share_of_the_others_and_a_tie_is_half():
    day = a_day(0)
    search, shown = day.retrieval, day.trials.latents[0]
    own = np.full_like(shown, 0.0)

    assert identification(shown, shown, "x", search) == 1.0
    assert identification(-shown, shown, "x", search) == 0.0
    assert identification(own, shown, "x", search) == 0.5


def test_the_gallerys_own_item_is_not_held_against_itself():
    day = a_day(0)
    cosines = day.retrieval.cosines(day.trials.latents[0])
    best = int(np.argmax(cosines))
    shown = np.zeros_like(day.trials.latents[0])
    shown[0, 0] = 1e-3

    with_it = identification(day.trials.latents[0], shown, "x", day.retrieval)
    without = identification(
        day.trials.latents[0], shown, day.retrieval.stimulus_ids[best], day.retrieval
    )

    assert without > with_it


def test_an_interval_holds_the_mean_over_images_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        image = np.arange(60)
        found = mean_interval(rng.standard_normal(60), image)
        inside += found.low <= 0 <= found.high

    # 300 draws at .95 have a deviation of .013; the bootstrap of 60 is a little short.
    assert inside / 300 > CONFIDENCE - 0.04


def test_folds_that_share_trials_widen_an_interval_about_its_mean():
    values = np.random.default_rng(1).standard_normal(30)

    plain = mean_interval(values, np.arange(30))
    wide = mean_interval(values, np.arange(30), folds=5)

    assert wide.mean == plain.mean
    assert wide.high - wide.mean == pytest.approx(1.5 * (plain.high - plain.mean))
    assert wide.mean - wide.low == pytest.approx(1.5 * (plain.mean - plain.low))


def test_trials_of_an_image_are_drawn_together():
    values = np.random.default_rng(1).standard_normal(30)

    once = mean_interval(values, np.arange(30))
    thrice = mean_interval(np.repeat(values, 3), np.repeat(np.arange(30), 3))

    assert thrice.mean == pytest.approx(once.mean)
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low)
