"""How far single trials may lie from a prediction: sampled, and held against repeats.

The model's maps give one response an image. What makes trials of one image differ is
taken from trials of another split: how far their latents lie from where the flow puts
their image, and what the decoder does not give back of them. Added to the latents of an
image and decoded, they are samples of what a single trial of it might have been. Pure.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from jaxtyping import Float32, Float64, Int64, Shaped
from scipy.special import stdtrit

from runtime.errors import TensorMismatchError
from training.metrics.correlation import check_paired
from training.metrics.evaluation import interval_value
from training.metrics.intervals import MIN_IMAGES
from training.metrics.ledger import Ledger
from training.metrics.result import Absent, SpreadFigures, SpreadSource, Value
from training.metrics.retrieval import Z_95
from training.metrics.voxels import image_means

POOL: Final = 128
"""Trials whose residuals are drawn: with 256 x 1664 latents they take 220 MB."""
SAMPLES: Final = 64
"""Of each image. A deviation of so many is itself known to 9 %."""

Responses = Float32[np.ndarray, "rows voxels"]
Latents = Float32[np.ndarray, "rows tokens width"]
Count = Callable[[int, int], None]
PerImage = Float64[np.ndarray, " images"]


class Maps(Protocol):
    """A model's three maps that encoding is made of, rows at a time."""

    def neural_latents(self, betas: Responses) -> Latents:
        """Return z_n of measured responses."""

    def expected_latents(self, latents: Latents) -> Latents:
        """Return z_n that the flow expects of images, given their z_v."""

    def responses(self, latents: Latents) -> Responses:
        """Return the responses that z_n stands for."""


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """What real trials have beside the prediction of their image."""

    latents: Latents
    """z_n of a trial minus what the flow expects of its image."""
    voxels: Responses
    """The trial minus the response that its own z_n stands for."""


def residuals_of(
    maps: Maps,
    betas: Responses,
    shown: Int64[np.ndarray, " rows"],
    z_v: Latents,
) -> Residuals:
    """Return what trials have beside the model's prediction of them.

    With both added to its own image's expected latents, every trial comes out as it
    was measured.

    Args:
        maps: The model.
        betas: Single trials, in the model's units.
        shown: Row of `z_v` that belongs to each.
        z_v: One row an image.
    """
    found = maps.neural_latents(betas)
    expected = maps.expected_latents(z_v)
    return Residuals(found - expected[shown], betas - maps.responses(found))


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """How far sampled trials of each image spread."""

    samples: int
    """Of each image."""
    deviations: Mapping[SpreadSource, Responses]
    """Their standard deviation, an image and voxel; by what they are sampled from."""


def sampled_deviations(
    maps: Maps,
    z_v: Latents,
    residuals: Residuals,
    rng: np.random.Generator,
    *,
    samples: int = SAMPLES,
    on_image: Count = lambda _done, _all: None,
) -> Sampled:
    """Sample single trials of each image, and return how far they spread.

    Args:
        maps: The model.
        z_v: One row an image.
        residuals: Of at least two trials; each sample takes one trial's, both parts.
        rng: Draws trials without replacement, for each image anew.
        samples: How many, or as many as there are trials.
        on_image: Told after each.

    Raises:
        TensorMismatchError: Fewer than two trials.
    """
    pool = len(residuals.voxels)
    if pool < 2:
        raise TensorMismatchError(
            "spread", expected="residuals of at least two trials", found=str(pool)
        )
    alone, whole, samples = [], [], min(samples, pool)
    for done, image in enumerate(z_v, start=1):
        chosen = rng.choice(pool, size=samples, replace=False)
        # One image at a time: z_n of 1,000 images are 1.7 GB.
        z_n = maps.expected_latents(image[None]) + residuals.latents[chosen]
        drawn = maps.responses(z_n).astype(np.float64)
        alone.append(drawn.std(axis=0, ddof=1))
        whole.append((drawn + residuals.voxels[chosen]).std(axis=0, ddof=1))
        on_image(done, len(z_v))
    deviations: dict[SpreadSource, Responses] = {
        "latents": np.stack(alone).astype(np.float32),
        "latents and what they leave out": np.stack(whole).astype(np.float32),
    }
    return Sampled(samples, deviations)


@dataclass(frozen=True, slots=True, eq=False)
class SpreadCheck:
    """A predicted spread beside that of real repeats."""

    inside: Float64[np.ndarray, " trials"]
    """Share of each trial's voxels within the predicted 95 % about the prediction."""
    predicted: PerImage
    """Predicted variance, mean over voxels."""
    repeats: PerImage
    """Squared distance of an image's trials from their own mean, their sum over trials,
    mean over voxels; `freedom` times the variance of repeats."""
    freedom: PerImage
    """Trials of an image, less one."""
    errors: PerImage
    """Squared distance of an image's trials from the prediction, mean over both."""

    @property
    def coverage(self) -> float:
        """Share of single trials, voxel by voxel, that the predicted 95 % hold."""
        return float(self.inside.mean())

    @property
    def repeat_ratio(self) -> float:
        """Predicted variance over that of repeats about their own mean."""
        return _ratio(self.predicted.mean(), self.repeats.sum() / self.freedom.sum())

    @property
    def error_ratio(self) -> float:
        """Predicted variance over the squared error of the prediction, per trial."""
        return _ratio(self.predicted.mean(), self.errors.mean())


def _ratio(above: float, below: float) -> float:
    return float(above / max(below, 1e-30))


def check_spread(
    predicted: Shaped[np.ndarray, "images voxels"],
    deviation: Shaped[np.ndarray, "images voxels"],
    betas: Shaped[np.ndarray, "trials voxels"],
    image: Int64[np.ndarray, " trials"],
    samples: int | None = None,
) -> SpreadCheck:
    """Hold a predicted variance of single trials against real repeats.

    The coverage and the ratio to errors count how wrong the predicted mean is as well;
    the ratio to repeats does not: these vary about their own mean.

    Args:
        predicted: Mean response of each image.
        deviation: Standard deviation of a single trial, of each image.
        betas: Single trials, in the same units.
        image: Row of `predicted` that belongs to each trial; each row has some.
        samples: Of which `deviation` is that, at least two; None where it is known
            exactly. The fewer, the wider is what holds 95 % (Student's t).

    Raises:
        TensorMismatchError: Other shapes, or no image shown more than once.
    """
    check_paired("spread", predicted, deviation)
    means, _ = image_means(betas, image)
    trials = np.bincount(image, minlength=len(predicted)).astype(np.float64)
    if len(means) == len(image):
        raise TensorMismatchError(
            "spread", expected="images shown more than once", found="none"
        )
    if len(means) != len(predicted):
        raise TensorMismatchError(
            "spread",
            expected=f"trials of all {len(predicted)} images",
            found=f"trials of {len(means)}",
        )
    width = Z_95 if samples is None else float(stdtrit(samples - 1, 0.975))
    # Trial by trial: all of a large split at once take gigabytes in float64.
    inside, about_mean, about_said = (np.empty(len(betas)) for _ in range(3))
    for row, (trial, of) in enumerate(zip(betas, image, strict=True)):
        error = trial.astype(np.float64) - predicted[of]
        inside[row] = (np.abs(error) <= width * deviation[of]).mean()
        about_said[row] = (error**2).mean()
        about_mean[row] = ((trial - means[of]) ** 2).mean()
    return SpreadCheck(
        inside=inside,
        predicted=(deviation.astype(np.float64) ** 2).mean(axis=1),
        repeats=np.bincount(image, weights=about_mean),
        freedom=trials - 1,
        errors=np.bincount(image, weights=about_said) / trials,
    )


def spread_figures(
    predicted: Responses,
    sampled: Sampled | Absent,
    betas: Responses,
    image: Int64[np.ndarray, " trials"],
    rng: np.random.Generator,
    *,
    draws: Float64[np.ndarray, "draws images"],
    ledger: Ledger | None = None,
) -> list[SpreadFigures]:
    """Return how each predicted spread compares with real repeats.

    Args:
        predicted: Mean response of each image.
        sampled: Of each image; absent where nothing was sampled.
        betas: Single trials, in the same units.
        image: Row of `predicted` that belongs to each trial.
        rng: Draws the images of the coverage's interval.
        draws: How often each image is in each draw, for the ratios'.
        ledger: Keeps what the figures come to by trial and by draw.
    """
    if isinstance(sampled, Absent):
        return [_absent("latents", sampled)]
    found = []
    for source, deviation in sampled.deviations.items():
        try:
            checked = check_spread(predicted, deviation, betas, image, sampled.samples)
        except TensorMismatchError as error:
            found.append(_absent(source, Absent(str(error))))
            continue
        found.append(_figures(source, checked, image, rng, draws, ledger))
    return found


def _figures(
    source: SpreadSource,
    checked: SpreadCheck,
    image: Int64[np.ndarray, " trials"],
    rng: np.random.Generator,
    draws: Float64[np.ndarray, "draws images"],
    ledger: Ledger | None,
) -> SpreadFigures:
    n = len(checked.predicted)
    said = draws @ checked.predicted / n
    repeats = (draws @ checked.repeats) / np.maximum(draws @ checked.freedom, 1)
    drawn = {
        "repeat_ratio": said / np.maximum(repeats, 1e-30),
        "error_ratio": said / np.maximum(draws @ checked.errors / n, 1e-30),
    }

    def ratio(name: str, mean: float) -> Value:
        if n < MIN_IMAGES:
            return Value(mean=mean, n=n)
        low, high = np.percentile(drawn[name], [2.5, 97.5])
        return Value(mean=mean, low=float(low), high=float(high), n=n)

    figures = SpreadFigures(
        source=source,
        coverage=interval_value(checked.inside, image, rng),
        repeat_ratio=ratio("repeat_ratio", checked.repeat_ratio),
        error_ratio=ratio("error_ratio", checked.error_ratio),
    )
    if ledger is not None:
        ledger.keep(figures, {"coverage": checked.inside}, image)
        ledger.keep_draws(figures, drawn)
    return figures


def _absent(source: SpreadSource, why: Absent) -> SpreadFigures:
    return SpreadFigures(source=source, coverage=why, repeat_ratio=why, error_ratio=why)
