"""Arrays to typed figures: images, retrieval and responses of one evaluation.

Pure, but for the feature networks, which are arguments. Single trials are judged
repetition by repetition, so that every comparison is among different images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from training.metrics.feature_networks import FeatureNetwork
from training.metrics.identification import CHANCE, correlation_distances, two_way
from training.metrics.intervals import image_interval, spread
from training.metrics.pixels import pixel_correlations, structural_similarities
from training.metrics.result import (
    Absent,
    Decoder,
    Figure,
    ImageFigures,
    ImageSource,
    RetrievalFigures,
    RetrievalSource,
    Trials,
    Value,
)
from training.metrics.retrieval import (
    SUBSET_SIZE,
    expected_top1,
    published,
    repetitions,
    similarities,
)

Pictures = UInt8[np.ndarray, "trials rows columns 3"]
Latents = Float32[np.ndarray, "rows tokens width"]
Networks = Mapping[str, FeatureNetwork | Absent]
Images = Int64[np.ndarray, " trials"]
ByImage = Callable[[np.ndarray, np.ndarray], Float64[np.ndarray, " images"]]


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """Which image each trial shows, and how trials stand together."""

    trials: Trials
    image: Images
    repetitions: tuple[Int64[np.ndarray, " images"], ...]
    """Trials of each repetition; each holds every image once."""

    @classmethod
    def single(cls, image: Images) -> "Design":
        """Return the design of single trials, in order of time."""
        return cls("single", image, tuple(repetitions(image)))

    @classmethod
    def averaged(cls, images: Images) -> "Design":
        """Return the design of one row an image."""
        return cls("averaged", images, (np.arange(len(images)),))

    @property
    def about(self) -> Images:
        """Image of each trial, repetition by repetition."""
        return np.concatenate([self.image[rows] for rows in self.repetitions])


TOO_FEW = Absent("expected at least two images, found fewer")


def interval_value(
    values: Float64[np.ndarray, " values"],
    images: Images,
    rng: np.random.Generator,
    chance: float | None = None,
) -> Value:
    """Return the mean over trials with its interval over images."""
    found = image_interval(values, rng, images=images)
    return Value(
        mean=found.mean,
        low=found.low,
        high=found.high,
        chance=chance,
        n=len(np.unique(images)),
    )


def image_figures(
    shown: Pictures,
    reconstructed: Pictures,
    design: Design,
    networks: Networks,
    rng: np.random.Generator,
    *,
    source: ImageSource,
    decoder: Decoder,
) -> ImageFigures:
    """Compute the papers' eight image metrics.

    Args:
        shown: What was on the screen in each trial.
        reconstructed: What was decoded from each trial.
        design: How the trials stand together.
        networks: By name; absent ones make their metrics absent.
        rng: Draws the intervals.
        source: As in `ImageFigures`.
        decoder: As in `ImageFigures`.
    """
    chosen, about = np.concatenate(design.repetitions), design.about
    pixcorr = pixel_correlations(shown[chosen], reconstructed[chosen])
    ssim = structural_similarities(shown[chosen], reconstructed[chosen])

    def seen(name: str, layer: str, metric: ByImage, chance: float | None) -> Figure:
        network = networks.get(name, Absent("this network was not asked for"))
        if isinstance(network, Absent):
            return network
        if len(design.repetitions[0]) < 2:
            return TOO_FEW
        if (name, "shown") not in cache:
            cache[name, "shown"] = network.features(shown)
            cache[name, "decoded"] = network.features(reconstructed)
        a, b = cache[name, "shown"][layer], cache[name, "decoded"][layer]
        values = np.concatenate(
            [metric(a[rows], b[rows]) for rows in design.repetitions]
        )
        return interval_value(values, about, rng, chance)

    cache: dict[tuple[str, str], dict[str, Float32[np.ndarray, "trials features"]]] = {}
    return ImageFigures(
        source=source,
        decoder=decoder,
        trials=design.trials,
        pixcorr=interval_value(pixcorr, about, rng, 0.0),
        ssim=interval_value(ssim, about, rng),
        alex2=seen("alexnet", "layer2", two_way, CHANCE),
        alex5=seen("alexnet", "layer5", two_way, CHANCE),
        inception=seen("inception", "avgpool", two_way, CHANCE),
        clip=seen("clip", "embedding", two_way, CHANCE),
        efficientnet=seen("efficientnet", "avgpool", correlation_distances, None),
        swav=seen("swav", "avgpool", correlation_distances, None),
        pixcorr_percentiles=spread(pixcorr),
    )


def absent_images(
    why: Absent, design: Design, *, source: ImageSource, decoder: Decoder
) -> ImageFigures:
    """Return a row of image metrics that cannot be had."""
    return ImageFigures(
        source=source,
        decoder=decoder,
        trials=design.trials,
        pixcorr=why,
        ssim=why,
        alex2=why,
        alex5=why,
        inception=why,
        clip=why,
        efficientnet=why,
        swav=why,
    )


def retrieval_figures(
    brain: Latents,
    latents: Latents,
    design: Design,
    rng: np.random.Generator,
    *,
    source: RetrievalSource,
    brain_mean: Float32[np.ndarray, "tokens width"] | None = None,
    image_mean: Float32[np.ndarray, "tokens width"] | None = None,
    is_mean_subtracted: bool,
    decoder: Decoder = "own",
) -> RetrievalFigures:
    """Compute top-1 in both directions, honestly resampled and as published.

    Args:
        brain: One a trial.
        latents: z_v of each trial's image.
        design: How the trials stand together.
        rng: Draws the honest interval; the published one has its own seed.
        source: As in `RetrievalFigures`.
        brain_mean: Subtracted from `brain`.
        image_mean: Subtracted from `latents`.
        is_mean_subtracted: What the report says of it.
        decoder: As in `RetrievalFigures`.
    """
    squares = [
        similarities(
            brain[rows], latents[rows], query_mean=brain_mean, item_mean=image_mean
        )
        for rows in design.repetitions
    ]
    about, n = design.about, len(squares[0])
    size = min(n, SUBSET_SIZE)

    def honest(cosines: Sequence[Float64[np.ndarray, "n n"]]) -> Figure:
        values = np.concatenate([expected_top1(square, size) for square in cosines])
        return interval_value(values, about, rng, 1.0 / size)

    def as_published(cosines: Sequence[Float64[np.ndarray, "n n"]]) -> Figure:
        if n < SUBSET_SIZE:
            return Absent(f"expected at least {SUBSET_SIZE} images, found {n}")
        if len(cosines) > 1:
            return Absent("the published protocol is for averaged trials")
        found = published(cosines[0])
        return Value(
            mean=found.mean, low=found.low, high=found.high, chance=1.0 / size, n=n
        )

    turned = [square.T for square in squares]
    return RetrievalFigures(
        source=source,
        decoder=decoder,
        trials=design.trials,
        is_mean_subtracted=is_mean_subtracted,
        candidates=size,
        forward=honest(squares),
        backward=honest(turned),
        published_forward=as_published(squares),
        published_backward=as_published(turned),
    )
