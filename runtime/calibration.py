"""A day's calibration: what today's trials with known images change, and whether to.

Two things are fitted: where today's betas lie (`runtime.preprocess.today`), and a
correction of the first layer (`runtime.correction`). Neither is believed. Every trial
is encoded once more by fits that have not seen its image, nor the trials beside it, and
only what gains on those is kept. Pure: an encoder and arrays in, values out.

Nothing is decoded. A trial's z_n is compared with those that the model predicts of the
images of its fold, shown and others: `identification`, chance .5. The flow that carries
z_n on to z_v is the bundle's whatever is kept, and what gains before it gains behind it
(docs/calibration.md). Only images of the trial's own fold are compared: no fit has seen
any of them, so that with their names exchanged nothing is gained but by chance. Gallery
images, or those of the fit, are other images than these in kind or in what was fitted
to them, and can lose against the shown one for that alone.

Gains are paired, trial by trial, with intervals over images. docs/calibration.md has
how often a day without change, or one with shuffled pictures, gains nevertheless.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from runtime.arrays import Bool, Float32, Int64
from runtime.correction import (
    FOLDS,
    PENALTIES,
    InputCorrection,
    choose_penalty,
    fit_correction,
    image_folds,
)
from runtime.errors import CalibrationError, TensorMismatchError
from runtime.identification import (
    CONFIDENCE,
    Interval,
    Scores,
    identification,
    mean_interval,
)
from runtime.predictions import Predictions
from runtime.preprocess import FeatureSpace, todays_normaliser
from runtime.preprocess.today import MIN_IMAGES

Features = Float32[np.ndarray, "trials voxels"]
Progress = Callable[[int, int], None]
"""Called with evaluations of the encoder that are done, and all of them."""


@runtime_checkable
class SeeingModel(Protocol):
    """What calibrating needs of `runtime.model.Model`: its encoder."""

    def encode_voxels(
        self, voxels: Float32[np.ndarray, " voxels"]
    ) -> Float32[np.ndarray, "tokens width"]:
        """Return z_n, the mode of the posterior."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class KnownTrials:
    """Today's trials whose images are known, in the order in which they came."""

    betas: Features
    """Percent signal, of the bundle's estimator."""
    image: Int64[np.ndarray, " trials"]
    """What was shown, as a row of `latents`."""
    run: Int64[np.ndarray, " trials"]
    """Which run each is of."""
    latents: Float32[np.ndarray, "images tokens width"]
    """z_v of each image."""
    names: tuple[str, ...]
    """Identity of each image."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What left-out trials say; identification unless said otherwise."""

    trials: int
    images: int
    without: float
    """As the bundle is."""
    normalised: float
    """With today's normalisation."""
    corrected: float | None
    """With today's normalisation and correction; None where it was not encoded."""
    normalisation: Interval
    """Gain of today's normalisation over the bundle's."""
    screened: Interval
    """What the correction adds to that among voxels, where no engine runs: trials
    against the predicted responses. Only where it lies above 0 are corrected trials
    encoded."""
    correction: Interval | None = None
    """What the correction adds to the normalisation, of z_n; None where not encoded."""
    both: Interval | None = None
    """Gain of both over the bundle as it is; None where not encoded."""

    @property
    def is_corrected(self) -> bool:
        """Whether the correction earns its place."""
        if self.correction is None or self.both is None:
            return False
        return self.correction.low > 0 and self.both.low > 0

    @property
    def gain(self) -> Interval:
        """Gain of what is kept."""
        if self.both is None or not self.is_corrected:
            return self.normalisation
        return self.both

    @property
    def reached(self) -> float:
        """Identification with what is kept."""
        if self.corrected is None or not self.is_corrected:
            return self.normalised
        return self.corrected


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What a day's overlay holds."""

    space: FeatureSpace
    """Today's normalisation, the bundle's whitening."""
    correction: InputCorrection | None
    penalty: float | None
    """Of the correction, in the unit of `runtime.correction.PENALTIES`."""
    findings: Findings


def calibrate(
    trials: KnownTrials,
    space: FeatureSpace,
    model: SeeingModel,
    predictions: Predictions,
    on_progress: Progress = lambda _done, _total: None,
) -> Calibration:
    """Fit a day's calibration, and judge it on trials that it has not seen.

    Args:
        trials: Of today; of one participant.
        space: The bundle's.
        model: The bundle's.
        predictions: The same model's, of every image of `trials`, in its order.
        on_progress: Told after each evaluation of the encoder.

    Raises:
        CalibrationError: Too few images, or nothing that gains.
        TensorMismatchError: Arrays that do not fit each other, or are not finite.
    """
    _check(trials, predictions)
    count = len(np.unique(trials.image))
    if count < MIN_IMAGES:
        raise CalibrationError(
            f"calibration: expected trials of at least {MIN_IMAGES} known images, "
            f"found {count}"
        )
    findings = _judged(trials, space, predictions, _Encoder(model, trials, on_progress))
    if findings.gain.low <= 0:
        raise CalibrationError(
            "calibration: expected a gain on held-out trials, its "
            f"{CONFIDENCE:.0%} interval above 0, found {findings.gain} over "
            f"{findings.trials} trials of {findings.images} images. "
            "Serve the bundle as it is"
        )
    today = _todays_space(space, trials.betas, trials.image)
    if not findings.is_corrected:
        return Calibration(today, None, None, findings)
    features, predicted = today.to_model(trials.betas), predictions.voxels[trials.image]
    # One of the finite ones: whether to correct at all has been decided.
    penalty = choose_penalty(features, predicted, trials.image, PENALTIES)
    correction = fit_correction(features, predicted, trials.image, penalty)
    return Calibration(today, correction, penalty, findings)


def _check(trials: KnownTrials, predictions: Predictions) -> None:
    count = len(trials.image)
    if not len(trials.betas) == len(trials.run) == count or count == 0:
        raise TensorMismatchError(
            "trials",
            expected=f"{count} betas and runs, at least one",
            found=f"{len(trials.betas)} and {len(trials.run)}",
        )
    if len(predictions.z_n) != len(trials.names):
        raise TensorMismatchError(
            "predictions",
            expected=f"{len(trials.names)}, one an image",
            found=f"{len(predictions.z_n)}",
        )
    arrays = (trials.betas, predictions.z_n, predictions.voxels)
    if not all(np.isfinite(array).all() for array in arrays):
        raise TensorMismatchError(
            "trials",
            expected="finite betas and predictions",
            found="others among them",
        )


def _todays_space(
    space: FeatureSpace, betas: Features, image: Int64[np.ndarray, " trials"]
) -> FeatureSpace:
    return FeatureSpace(todays_normaliser(space.affine, betas, image), space.whitening)


class _Encoder:
    """The encoder, and how much of its work is done."""

    def __init__(
        self, model: SeeingModel, trials: KnownTrials, on_progress: Progress
    ) -> None:
        self._model, self._on_progress = model, on_progress
        self._done, self._total = 0, 3 * len(trials.image)

    def encoded(self, features: Features) -> Float32[np.ndarray, "trials latent"]:
        """Return z_n of each row, flat."""
        rows = []
        for voxels in features:
            rows.append(self._model.encode_voxels(voxels).ravel())
            self.skip(1)
        return np.stack(rows)

    def skip(self, evaluations: int) -> None:
        """Say that so many more need no doing."""
        self._done += evaluations
        self._on_progress(self._done, self._total)


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Trials that were left out, in the units of fits without them."""

    rows: Int64[np.ndarray, " rows"]
    plain: Features
    """In the bundle's units."""
    normalised: Features
    """In today's."""
    corrected: Features
    """In today's, with today's correction."""


def folds_of(
    trials: KnownTrials, space: FeatureSpace, predicted: Features
) -> list[Fold]:
    """Return each part of the images with the features that fits without it give.

    Args:
        trials: Of today.
        space: The bundle's.
        predicted: The response to each image, in the model's units.

    Raises:
        CalibrationError: A part leaves no trial to fit on.
    """
    folds = []
    for held in image_folds(trials.image):
        rows = np.flatnonzero(held)
        fit = ~_with_neighbours(held, trials.run)
        if not fit.any():
            raise CalibrationError(
                "calibration: expected trials apart from those held out, found none. "
                "Show each image once, or in runs of their own"
            )
        betas, image = trials.betas[fit], trials.image[fit]
        today = _todays_space(space, betas, image)
        known, shown = today.to_model(betas), predicted[trials.image[fit]]
        penalty = choose_penalty(known, shown, image)
        correction = fit_correction(known, shown, image, penalty)
        left_out = trials.betas[rows]
        normalised = today.to_model(left_out)
        corrected = normalised if correction is None else correction.apply(normalised)
        folds.append(Fold(rows, space.to_model(left_out), normalised, corrected))
    return folds


def _judged(
    trials: KnownTrials,
    space: FeatureSpace,
    predictions: Predictions,
    encoder: _Encoder,
) -> Findings:
    folds = folds_of(trials, space, predictions.voxels)
    image = trials.image
    latents = predictions.z_n.reshape(len(predictions.z_n), -1)

    def scores(
        features: Callable[[Fold], Float32[np.ndarray, "trials size"]],
        expected: Float32[np.ndarray, "images size"],
    ) -> Scores:
        found = np.zeros(len(image))
        # The centre is of all images, whatever is left out: it is the model's alone.
        centre = expected[np.unique(image)].mean(axis=0)
        for fold in folds:
            shown, own = np.unique(image[fold.rows], return_inverse=True)
            found[fold.rows] = identification(
                features(fold), expected[shown], own, centre
            )
        return found

    def gain(more: Scores, less: Scores) -> Interval:
        return mean_interval(more - less, image, FOLDS)

    screened = gain(
        scores(lambda fold: fold.corrected, predictions.voxels),
        scores(lambda fold: fold.normalised, predictions.voxels),
    )
    plain = scores(lambda fold: encoder.encoded(fold.plain), latents)
    normalised = scores(lambda fold: encoder.encoded(fold.normalised), latents)
    findings = Findings(
        trials=len(image),
        images=len(np.unique(image)),
        without=float(plain.mean()),
        normalised=float(normalised.mean()),
        corrected=None,
        normalisation=gain(normalised, plain),
        screened=screened,
    )
    if screened.low <= 0:
        encoder.skip(len(image))
        return findings
    corrected = scores(lambda fold: encoder.encoded(fold.corrected), latents)
    return replace(
        findings,
        corrected=float(corrected.mean()),
        correction=gain(corrected, normalised),
        both=gain(corrected, plain),
    )


def _with_neighbours(
    held: Bool[np.ndarray, " trials"], run: Int64[np.ndarray, " trials"]
) -> Bool[np.ndarray, " trials"]:
    """Return the trials held out and those right beside them, which share their noise.

    Responses overlap, so that neighbouring estimates err together.
    """
    beside = held.copy()
    is_same = run[1:] == run[:-1]
    beside[1:] |= held[:-1] & is_same
    beside[:-1] |= held[1:] & is_same
    return beside
