"""Arrays to typed figures: images, retrieval and responses of one evaluation.

Pure, but for the feature networks, which are arguments. Single trials are judged
repetition by repetition, so that every comparison is among different images.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from training.metrics.feature_networks import FeatureNetwork
from training.metrics.identification import CHANCE, correlation_distances, two_way
from training.metrics.intervals import MIN_IMAGES, image_interval, spread
from training.metrics.ledger import Ledger
from training.metrics.pixels import (
    as_judged,
    pixel_correlations,
    structural_similarities,
)
from training.metrics.result import (
    Absent,
    Decoder,
    Figure,
    ImageFigures,
    ImageSource,
    Rendered,
    RetrievalFigures,
    RetrievalSource,
    Trials,
    Value,
    too_few,
)
from training.metrics.retrieval import (
    MIN_RIVALS,
    SUBSET_SIZE,
    expected_top1,
    published,
    repetitions,
)

Pictures = UInt8[np.ndarray, "trials rows columns 3"]
Networks = Mapping[str, FeatureNetwork | Absent]
Images = Int64[np.ndarray, " trials"]
ByImage = Callable[[np.ndarray, np.ndarray], Float64[np.ndarray, " images"]]


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """Which image each trial shows, and how trials stand together."""

    trials: Trials
    image: Images
    repetitions: tuple[Int64[np.ndarray, " images"], ...]
    """Trials of each repetition; each holds every image once, in increasing order."""

    @classmethod
    def single(cls, image: Images) -> "Design":
        """Return the design of single trials, in order of time."""
        return cls("single", image, tuple(repetitions(image)))

    @classmethod
    def averaged(cls, images: Images) -> "Design":
        """Return the design of one row an image."""
        return cls("averaged", images, (np.arange(len(images)),))

    @property
    def counted(self) -> tuple[Bool[np.ndarray, " images"], ...]:
        """Which rows of each repetition are judged, so that every trial is, once.

        The others stand in for repetitions that their images do not have.
        """
        shown = np.unique(self.image, return_counts=True)[1]
        return tuple(shown > k for k in range(len(self.repetitions)))

    @property
    def chosen(self) -> Int64[np.ndarray, " judged"]:
        """Every trial once, repetition by repetition."""
        return self.judged(self.repetitions)

    @property
    def about(self) -> Int64[np.ndarray, " judged"]:
        """Image of each trial, repetition by repetition."""
        about: Int64[np.ndarray, " judged"] = self.image[self.chosen]
        return about

    def judged(self, by_repetition: Iterable[np.ndarray]) -> np.ndarray:
        """Join what each repetition gave, one row an image, without what stood in."""
        pairs = zip(by_repetition, self.counted, strict=True)
        return np.concatenate([rows[counted] for rows, counted in pairs])


def interval_value(
    values: Float64[np.ndarray, " values"],
    images: Images,
    rng: np.random.Generator,
    chance: float | None = None,
) -> Value:
    """Return the mean over trials with its interval over images, if these suffice."""
    n = len(np.unique(images))
    if n < MIN_IMAGES:
        return Value(mean=float(values.mean()), chance=chance, n=n)
    found = image_interval(values, rng, images=images)
    return Value(mean=found.mean, low=found.low, high=found.high, chance=chance, n=n)


def image_figures(
    shown: Pictures,
    reconstructed: Pictures,
    design: Design,
    networks: Networks,
    rng: np.random.Generator,
    *,
    source: ImageSource,
    decoder: Decoder,
    rendered: Rendered = "here",
    ledger: Ledger | None = None,
) -> ImageFigures:
    """Compute the papers' eight image metrics, all of the same pictures: `as_judged`.

    Args:
        shown: Each image, which `design.image` cites; may be a map of a file.
        reconstructed: What was decoded from each trial.
        design: How the trials stand together.
        networks: By name; absent ones make their metrics absent.
        rng: Draws the intervals.
        source: As in `ImageFigures`.
        decoder: As in `ImageFigures`.
        rendered: As in `ImageFigures`.
        ledger: Keeps the value of each image.
    """
    shown, reconstructed = as_judged(shown, reconstructed)
    about = design.about
    kept = {
        name: np.concatenate(
            [
                metric(_seen(shown, design.image[rows]), reconstructed[rows])
                # Nobody competes here, and what stands in is not needed.
                for rows in map(np.compress, design.counted, design.repetitions)
            ]
        )
        for name, metric in (
            ("pixcorr", pixel_correlations),
            ("ssim", structural_similarities),
        )
    }

    def seen(
        figure: str, name: str, layer: str, metric: ByImage, chance: float | None
    ) -> Figure:
        network = networks.get(name, Absent("this network was not asked for"))
        if isinstance(network, Absent):
            return network
        if (n := len(design.repetitions[0])) < MIN_RIVALS:
            return too_few(n, MIN_RIVALS)
        if (name, "shown") not in cache:
            cache[name, "shown"] = network.features(shown)
            cache[name, "decoded"] = network.features(reconstructed)
        a, b = cache[name, "shown"][layer], cache[name, "decoded"][layer]
        kept[figure] = design.judged(
            metric(a[design.image[rows]], b[rows]) for rows in design.repetitions
        )
        return interval_value(kept[figure], about, rng, chance)

    cache: dict[tuple[str, str], dict[str, Float32[np.ndarray, "trials features"]]] = {}
    far = correlation_distances
    figures = ImageFigures(
        source=source,
        decoder=decoder,
        trials=design.trials,
        rendered=rendered,
        # Unrelated pictures correlate as well: the control says how much.
        pixcorr=interval_value(kept["pixcorr"], about, rng),
        ssim=interval_value(kept["ssim"], about, rng),
        alex2=seen("alex2", "alexnet", "layer2", two_way, CHANCE),
        alex5=seen("alex5", "alexnet", "layer5", two_way, CHANCE),
        inception=seen("inception", "inception", "avgpool", two_way, CHANCE),
        clip=seen("clip", "clip", "embedding", two_way, CHANCE),
        efficientnet=seen("efficientnet", "efficientnet", "avgpool", far, None),
        swav=seen("swav", "swav", "avgpool", far, None),
        pixcorr_percentiles=spread(kept["pixcorr"]),
    )
    if ledger is not None:
        ledger.keep(figures, kept, about)
    return figures


def _seen(shown: Pictures, images: Images) -> Pictures:
    # All of them in their order are not copied: 1,000 at 256 pixels are 197 MB.
    is_all = np.array_equal(images, np.arange(len(shown)))
    return shown if is_all else shown[images]


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
    cosines: Float64[np.ndarray, "trials images"],
    design: Design,
    rng: np.random.Generator,
    *,
    source: RetrievalSource,
    is_mean_subtracted: bool,
    decoder: Decoder = "own",
    ledger: Ledger | None = None,
) -> RetrievalFigures:
    """Compute top-1 in both directions, honestly resampled and as published.

    Args:
        cosines: Of what was decoded from each trial with z_v of every image.
        design: How the trials stand together.
        rng: Draws the honest interval; the published one has its own seed.
        source: As in `RetrievalFigures`.
        is_mean_subtracted: What the report says of it.
        decoder: As in `RetrievalFigures`.
        ledger: Keeps the value of each image.
    """
    squares = [cosines[np.ix_(rows, design.image[rows])] for rows in design.repetitions]
    about, n = design.about, len(squares[0])
    size = min(n, SUBSET_SIZE)

    def honest(figure: str, squares: Sequence[Float64[np.ndarray, "n n"]]) -> Figure:
        if n < MIN_RIVALS:
            return too_few(n, MIN_RIVALS)
        kept[figure] = design.judged(expected_top1(one, size) for one in squares)
        return interval_value(kept[figure], about, rng, 1.0 / size)

    def as_published(squares: Sequence[Float64[np.ndarray, "n n"]]) -> Figure:
        if n < SUBSET_SIZE:
            return Absent(f"expected at least {SUBSET_SIZE} images, found {n}")
        if len(squares) > 1:
            return Absent("the published protocol is for averaged trials")
        found = published(squares[0])
        return Value(
            mean=found.mean, low=found.low, high=found.high, chance=1.0 / size, n=n
        )

    kept: dict[str, Float64[np.ndarray, " trials"]] = {}
    turned = [square.T for square in squares]
    figures = RetrievalFigures(
        source=source,
        decoder=decoder,
        trials=design.trials,
        is_mean_subtracted=is_mean_subtracted,
        candidates=size,
        forward=honest("forward", squares),
        backward=honest("backward", turned),
        published_forward=as_published(squares),
        published_backward=as_published(turned),
    )
    if ledger is not None:
        ledger.keep(figures, kept, about)
    return figures
