"""What an evaluation found, typed: figures with intervals, and what is absent."""

from typing import Literal

import msgspec

from training.metrics.published import (
    ABLATIONS,
    DECODING,
    ENCODING,
    PublishedAblation,
    PublishedEncoding,
    PublishedImages,
)

Trials = Literal["single", "averaged"]
Decoder = Literal["own", "external"]
Rendered = Literal["here", "elsewhere"]
ImageSource = Literal[
    "measured responses", "predicted responses", "external encoder's responses"
]
RetrievalSource = Literal[
    "decoded latents",
    "retrieval features",
    "self-consistency",
    "predicted responses",
    "external encoder's responses",
]


class Absent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="absent"):
    """Something that could not be had, and why."""

    reason: str


def too_few(images: int, least: int) -> Absent:
    """Return why a figure is absent that needs more images than there are."""
    return Absent(f"expected at least {least} images, found {images}")


class Value(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="value"
):
    """A figure; shares and two-way identification are in [0, 1], not percent."""

    mean: float
    low: float | None = None
    high: float | None = None
    """95 % interval; None where there is none to be had, as with one image."""
    chance: float | None = None
    n: int
    """Images that it is about; voxels for a figure per voxel without interval."""


Figure = Value | Absent


class ImageFigures(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The papers' eight image metrics of one set of reconstructions."""

    source: ImageSource
    """Predicted responses through the own decoder are self-consistency; those of an
    independently trained encoder through it are not."""
    decoder: Decoder
    trials: Trials
    rendered: Rendered = "here"
    """Elsewhere: the pictures were given, and the decoder's latents are only what they
    are said to be made from."""
    pixcorr: Figure
    ssim: Figure
    alex2: Figure
    alex5: Figure
    inception: Figure
    clip: Figure
    efficientnet: Figure
    swav: Figure
    pixcorr_percentiles: tuple[float | None, float | None, float | None] | None = None
    """10th, 50th and 90th; None where trials are too few for it."""


class RetrievalFigures(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Top-1 retrieval among the images of the split."""

    source: RetrievalSource
    """What stands for the brain; self-consistency: the features of the model's own
    predicted responses (papers: synthetic); predicted responses: through an external
    decoder; an external encoder's: latents that the own decoder makes of them."""
    decoder: Decoder = "own"
    trials: Trials
    is_mean_subtracted: bool
    candidates: int
    forward: Figure
    """Brain to image, resampled over images."""
    backward: Figure
    """Image to brain, resampled over images."""
    published_forward: Figure
    """By the published protocol, with its own too narrow interval."""
    published_backward: Figure


class RoiFigures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Encoding of one region's voxels, correlated across images."""

    roi: str
    voxels: int
    correlation: Figure
    ceiling: Figure
    """Mean of sqrt(NC) at the number of repeats that was averaged, their harmonic mean
    where images have different ones."""
    normalised: Figure
    """Mean of correlation over sqrt(NC), voxels below the floor left out; n voxels."""
    explained_variance: Figure


class EncodingFigures(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Predicted against measured responses to images never trained on."""

    trials: Trials
    mse: Figure
    """Units of the training betas' standard deviation, squared."""
    pearson: Figure
    """Across voxels, training mean and scale removed."""
    cosine: Figure
    """Across voxels, training mean and scale removed."""
    pearson_percent: Figure
    """Across voxels in percent signal, the voxels' means left in, as in the papers."""
    rois: list[RoiFigures]


SpreadSource = Literal["latents", "latents and what they leave out"]


class SpreadFigures(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The spread of sampled single trials beside that of real repeats."""

    source: SpreadSource
    """What varies from sample to sample: the neural latent as it does in real trials
    about the flow's, alone or with what the decoder does not give back of these."""
    coverage: Figure
    """Share of single trials, voxel by voxel, within the predicted 95 %."""
    repeat_ratio: Figure
    """Predicted variance over that of repeats about their own mean."""
    error_ratio: Figure
    """Predicted variance over the squared distance of trials from the prediction."""


class Control(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric of predictions given to the wrong images, which must be at chance."""

    metric: str
    value: Figure
    """Mean and central 95 % over permutations, or the interval over images where each
    prediction went to one wrong image; `chance` None where nobody knows it."""


class NetworkRecord(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Which weights a feature network had."""

    name: str
    title: str
    weights: str | None
    sha256: str | None
    absent: Absent | None


class RenderedElsewhere(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The pictures of averaged trials, where they were not made by the bundle."""

    sha256: str
    """Of the lines that `sha256sum` prints of the files, sorted by their paths."""
    images: int
    side: int
    """Pixels along each side."""


class BundleEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was found of one bundle on one recording."""

    schema: int = 2
    bundle_sha256: str
    external: str | Absent
    """Hash of the independently trained bundle, where one was given."""
    recording: str
    subject: str
    responses: str = ""
    """How they were estimated, in a few words."""
    split: str
    backend: str
    trials: int
    images: int
    repeats: int
    """Trials that every image has at least; what is averaged is all that it has."""
    averaged_repeats: float | None = None
    """Harmonic mean of the images' trials, at which the ceiling of averaged trials is;
    None in evaluations of before it was kept, whose ceiling is at `repeats`."""
    single_trials: int | None = None
    """Single trials judged, each once; None as above."""
    seed: int
    rendered_elsewhere: RenderedElsewhere | None = None
    """None: every picture was made from the bundle's latents, or there is none."""
    reconstructions: list[ImageFigures]
    retrieval: list[RetrievalFigures]
    encoding: list[EncodingFigures]
    spread: list[SpreadFigures]
    spread_from: str = ""
    """Whose residuals were drawn, in a few words; empty where none were."""
    controls: list[Control]
    networks: list[NetworkRecord]
    regions: Absent | None = None
    """Why there are no regions but all voxels; None where there are."""
    versions: dict[str, str]
    published_decoding: tuple[PublishedImages, ...] = DECODING
    published_encoding: tuple[PublishedEncoding, ...] = ENCODING
    published_ablations: tuple[PublishedAblation, ...] = ABLATIONS


class Participant(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """One of the evaluations that were combined."""

    subject: str
    recording: str
    bundle_sha256: str
    trials: int
    images: int
    repeats: int
    rendered_elsewhere: RenderedElsewhere | None = None


class CombinedEvaluation(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Means over participants; intervals over other people and other images."""

    schema: int = 1
    participants: list[Participant]
    split: str
    responses: str
    images: int
    images_seen_by_all: int
    seed: int
    reconstructions: list[ImageFigures]
    retrieval: list[RetrievalFigures]
    encoding: list[EncodingFigures]
    spread: list[SpreadFigures]
    spread_from: str
