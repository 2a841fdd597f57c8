"""A day's calibration: what today's trials with known images change, and whether to.

Two things are fitted: where today's betas lie (`runtime.preprocess.today`), and a
correction of the first layer (`runtime.correction`). Neither is believed. Every trial
is decoded once more by fits that have not seen its image, nor the trials beside it, and
only what gains on those is kept. Pure: an opened model and arrays in, values out.

The measure is identification: the share of the gallery's other images that are less
like the decoded latent than the image shown; chance is .5. Gains are paired, trial by
trial, and their intervals come from drawing images with replacement. Fits of different
folds share most of their trials, which the drawing does not see: intervals are widened
for it (Nadeau & Bengio, 2003, "Inference for the generalization error", eq. 8: a
variance of ``1/K + n_test/n_train`` in place of ``1/K``). docs/calibration.md has how
often a day without change, or one with shuffled pictures, gains nevertheless.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np

from runtime.arrays import Bool, Float32, Float64, Int64
from runtime.correction import (
    FOLDS,
    PENALTIES,
    CorrectedModel,
    InputCorrection,
    choose_penalty,
    fit_correction,
    image_folds,
)
from runtime.decoder import DecodingModel
from runtime.encoder import EncodingModel
from runtime.errors import CalibrationError, TensorMismatchError
from runtime.heads import Retrieval
from runtime.preprocess import FeatureSpace, todays_normaliser
from runtime.preprocess.today import MIN_IMAGES

CONFIDENCE: Final = 0.95
"""Of an interval, before it is widened."""
RESAMPLES: Final = 4000
SEED: Final = 0
"""Of the bootstrap: the same trials give the same overlay."""

Features = Float32[np.ndarray, "trials voxels"]
Scores = Float64[np.ndarray, " trials"]
Progress = Callable[[int, int], None]
"""Called with evaluations of the model that are done, and all of them."""


@runtime_checkable
class TwoWayModel(DecodingModel, EncodingModel, Protocol):
    """What calibrating needs of `runtime.model.Model`: both directions."""


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
class Interval:
    """A mean over images, and where the true one lies with `CONFIDENCE`."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True, slots=True)
class Findings:
    """What left-out trials say; identification unless said otherwise."""

    trials: int
    images: int
    without: float
    """As the bundle is."""
    normalised: float
    """With today's normalisation."""
    corrected: float
    """With today's normalisation and correction."""
    normalisation: Interval
    """Gain of today's normalisation over the bundle's."""
    correction: Interval
    """What the correction adds to that."""
    both: Interval
    """Gain of both over the bundle as it is."""

    @property
    def is_corrected(self) -> bool:
        """Whether the correction earns its place."""
        return self.correction.low > 0 and self.both.low > 0

    @property
    def gain(self) -> Interval:
        """Gain of what is kept."""
        return self.both if self.is_corrected else self.normalisation


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
    model: TwoWayModel,
    retrieval: Retrieval,
    on_progress: Progress = lambda _done, _total: None,
) -> Calibration:
    """Fit a day's calibration, and judge it on trials that it has not seen.

    Args:
        trials: Of today; of one participant.
        space: The bundle's.
        model: The bundle's.
        retrieval: The gallery as it is served: its images are what the shown one is
            told apart from.
        on_progress: Told after each evaluation of the model.

    Raises:
        CalibrationError: Too few images, or nothing that gains.
        TensorMismatchError: Arrays that do not fit each other, or are not finite.
    """
    _check(trials)
    count = len(np.unique(trials.image))
    if count < MIN_IMAGES:
        raise CalibrationError(
            f"calibration: expected trials of at least {MIN_IMAGES} known images, "
            f"found {count}"
        )
    evaluations = _Evaluations(model, len(trials.latents) + 3 * len(trials.image))
    evaluations.on_progress = on_progress
    predicted = evaluations.predicted(trials.latents)[trials.image]
    findings = _judged(trials, space, predicted, retrieval, evaluations)
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
    features = today.to_model(trials.betas)
    # One of the finite ones: whether to correct at all has been decided.
    penalty = choose_penalty(features, predicted, trials.image, PENALTIES)
    correction = fit_correction(features, predicted, trials.image, penalty)
    return Calibration(today, correction, penalty, findings)


def _check(trials: KnownTrials) -> None:
    count = len(trials.image)
    if not len(trials.betas) == len(trials.run) == count or count == 0:
        raise TensorMismatchError(
            "trials",
            expected=f"{count} betas and runs, at least one",
            found=f"{len(trials.betas)} and {len(trials.run)}",
        )
    if not np.isfinite(trials.betas).all() or not np.isfinite(trials.latents).all():
        raise TensorMismatchError(
            "trials", expected="finite betas and latents", found="others among them"
        )


def _todays_space(
    space: FeatureSpace, betas: Features, image: Int64[np.ndarray, " trials"]
) -> FeatureSpace:
    return FeatureSpace(todays_normaliser(space.affine, betas, image), space.whitening)


class _Evaluations:
    """The model, and how much of its work is done."""

    def __init__(self, model: TwoWayModel, total: int) -> None:
        self.model, self._done, self._total = model, 0, total
        self.on_progress: Progress = lambda _done, _total: None

    def predicted(
        self, latents: Float32[np.ndarray, "images tokens width"]
    ) -> Float32[np.ndarray, "images voxels"]:
        """Return each image's predicted response, in the model's units."""
        rows = []
        for z_v in latents:
            rows.append(self.model.predict_voxels(self.model.encode_latent(z_v)))
            self.count()
        return np.stack(rows)

    def count(self, evaluations: int = 1) -> None:
        """Say that so many more are done."""
        self._done += evaluations
        self.on_progress(self._done, self._total)

    def identification(
        self,
        model: DecodingModel,
        features: Features,
        trials: KnownTrials,
        rows: Int64[np.ndarray, " rows"],
        retrieval: Retrieval,
    ) -> Scores:
        """Decode trials, a row of features each, and compare with the gallery."""
        scores = np.zeros(len(rows))
        for k, (row, voxels) in enumerate(zip(rows, features, strict=True)):
            z_v = model.decode_latent(model.encode_voxels(voxels))
            image = trials.image[row]
            scores[k] = identification(
                z_v, trials.latents[image], trials.names[image], retrieval
            )
            self.count()
        return scores


def identification(
    z_v: Float32[np.ndarray, "tokens width"],
    shown: Float32[np.ndarray, "tokens width"],
    name: str,
    retrieval: Retrieval,
) -> float:
    """Return the share of a gallery that is less like a decoded latent than the truth.

    Args:
        z_v: Decoded.
        shown: Of the image that was shown.
        name: Its identity; the gallery's item of that name is not compared with itself.
        retrieval: The gallery, with the mean that it subtracts.
    """
    cosines = retrieval.cosines(z_v)
    own = retrieval.cosine(z_v, shown)
    others = np.array([one != name for one in retrieval.stimulus_ids])
    if not np.isfinite(own) or not others.any():
        return 0.0
    compared = cosines[others]
    # A tie is half a win, so that a decoder that says nothing has chance.
    return float(((compared < own) + 0.5 * (compared == own)).mean())


def _judged(
    trials: KnownTrials,
    space: FeatureSpace,
    predicted: Features,
    retrieval: Retrieval,
    evaluations: _Evaluations,
) -> Findings:
    count = len(trials.image)
    plain, normalised, corrected = np.zeros(count), np.zeros(count), np.zeros(count)
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
        known, shown = today.to_model(betas), predicted[fit]
        penalty = choose_penalty(known, shown, image)
        correction = fit_correction(known, shown, image, penalty)
        features = today.to_model(trials.betas[rows])
        model = evaluations.model
        plain[rows] = evaluations.identification(
            model, space.to_model(trials.betas[rows]), trials, rows, retrieval
        )
        normalised[rows] = evaluations.identification(
            model, features, trials, rows, retrieval
        )
        if correction is None:
            corrected[rows] = normalised[rows]
            evaluations.count(len(rows))
            continue
        corrected[rows] = evaluations.identification(
            CorrectedModel(model, correction), features, trials, rows, retrieval
        )
    image = trials.image
    return Findings(
        trials=count,
        images=len(np.unique(image)),
        without=float(plain.mean()),
        normalised=float(normalised.mean()),
        corrected=float(corrected.mean()),
        normalisation=mean_interval(normalised - plain, image, FOLDS),
        correction=mean_interval(corrected - normalised, image, FOLDS),
        both=mean_interval(corrected - plain, image, FOLDS),
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


def mean_interval(
    values: Scores, image: Int64[np.ndarray, " trials"], folds: int = 0
) -> Interval:
    """Return the mean over images and its bootstrap interval (Efron, 1979).

    Args:
        values: One a trial.
        image: What each is about; an image's trials are averaged, and drawn together.
        folds: Of the cross-validation that they come from, for which the interval is
            widened; 0 where they come from none.
    """
    _, index, counts = np.unique(image, return_inverse=True, return_counts=True)
    means = np.bincount(index, weights=values) / counts
    drawn = np.random.default_rng(SEED).integers(
        0, len(means), size=(RESAMPLES, len(means))
    )
    tail = (1 - CONFIDENCE) / 2
    ends = np.quantile(means[drawn].mean(axis=1), [tail, 1 - tail])
    mean, low, high = float(means.mean()), float(ends[0]), float(ends[1])
    # Of K folds, n_test / n_train is 1 / (K - 1).
    wide = float(np.sqrt(1 + folds / (folds - 1))) if folds else 1.0
    return Interval(mean, mean - wide * (mean - low), mean + wide * (high - mean))
