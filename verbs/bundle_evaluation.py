"""What a bundle makes of a split, put through every metric."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from jaxtyping import Float64

from runtime.preprocess import AffineNormaliser
from training.metrics.controls import (
    encoding_control,
    pixel_control,
    retrieval_control,
    shift_control,
    similarity_control,
)
from training.metrics.encoding import ceiling_of, encoding_figures
from training.metrics.evaluation import (
    Design,
    Networks,
    absent_images,
    image_figures,
    retrieval_figures,
)
from training.metrics.ledger import Ledger, shared_draws
from training.metrics.result import (
    Absent,
    Control,
    Decoder,
    EncodingFigures,
    ImageFigures,
    ImageSource,
    RetrievalFigures,
    RetrievalSource,
    SpreadFigures,
)
from training.metrics.retrieval import SUBSET_SIZE, Cosines
from training.metrics.spread import (
    POOL,
    Sampled,
    residuals_of,
    sampled_deviations,
    spread_figures,
)
from training.metrics.voxels import averaged_repeats
from verbs.evaluation_figures import Found
from verbs.progress import Screen
from verbs.split_trials import (
    Betas,
    BundleMaps,
    Decoded,
    Latents,
    Pictures,
    Question,
    SplitTrials,
)

SyntheticSource = Literal["predicted responses", "external encoder's responses"]
Synthetic = tuple[SyntheticSource, Decoder, Decoded]
"""Whose predictions, read by whose decoder, and what it made of them."""

EXTERNAL_ENCODER: Final = "external encoder's responses"
NO_PICTURES = Absent(
    "the bundle's latents are no images; of averaged trials, pictures that were "
    "rendered elsewhere are taken (--reconstructions)"
)


@dataclass(frozen=True, slots=True, eq=False)
class Everything:
    """All figures of one bundle on one split, and what the pictures of them show."""

    reconstructions: list[ImageFigures]
    retrieval: list[RetrievalFigures]
    encoding: list[EncodingFigures]
    spread: list[SpreadFigures]
    spread_from: str
    controls: list[Control]
    single_trials: int
    """How many were judged one by one."""
    ledger: Ledger
    latents: Latents | None
    """z_v as decoded from the mean response to each image, where it is kept."""
    found: Found


@dataclass(frozen=True, slots=True, eq=False)
class Others:
    """Trials of another split, whose residuals say how far trials may lie."""

    split: str
    trials: SplitTrials
    is_learned: bool
    """The model was trained on them: what is left over there is too little."""


def evaluate_split(
    maps: BundleMaps,
    other: BundleMaps | None,
    trials: SplitTrials,
    others: Others | Absent,
    networks: Networks,
    rng: np.random.Generator,
    screen: Screen,
    rendered: Pictures | None = None,
    *,
    keeps_latents: bool = False,
) -> Everything:
    """Decode, predict and judge.

    Of what is decoded only a few rows' latents are in memory at a time: those of the
    Natural Scenes Dataset's test would be 14 GB.

    Args:
        maps: The bundle.
        other: An independently trained one, where there is one.
        trials: Of a split that neither was trained on.
        others: Of another split, for the spread of single trials.
        networks: For the image metrics.
        rng: Draws intervals and permutations.
        screen: Told what begins, and how far it is.
        rendered: One picture an image that stands for what is decoded from the mean
            response to it; None: what the bundle makes of its latents, if anything.
        keeps_latents: Return what is decoded from the mean response to each image.
    """
    shown_as, z_v = trials.shown, trials.z_v
    asked = _questions(maps, z_v)
    screen.stage("decode single trials, then the images' means")
    single = maps.decode(trials.betas, asked, screen.count)
    means = trials.averaged(trials.betas)
    averaged = maps.decode(means, asked, screen.count, keeps_latents=keeps_latents)
    if rendered is not None:
        averaged = replace(averaged, pictures=rendered, rendered="elsewhere")
    screen.stage("predict responses, and decode them again")
    predicted = maps.predict(z_v, screen.count)
    once, mean = Design.single(shown_as), Design.averaged(trials.images)
    imagined = _both_ways(maps, z_v, "self-consistency")
    synthetic: list[Synthetic] = [
        ("predicted responses", "own", maps.decode(predicted, imagined, screen.count))
    ]
    if other is not None:
        as_theirs = other.latents_as(maps, z_v)
        theirs = other.predict(as_theirs, screen.count)
        by_them = _centred(other, as_theirs, "predicted responses", "external")
        by_us = _centred(maps, z_v, EXTERNAL_ENCODER, "own")
        read = other.decode(predicted, [by_them], screen.count)
        synthetic += [
            ("predicted responses", "external", read),
            (EXTERNAL_ENCODER, "own", maps.decode(theirs, [by_us], screen.count)),
        ]
    screen.stage("sample single trials")
    sampled, spread_from = _sampled(maps, z_v, others, rng, screen)
    screen.stage("metrics")
    ledger = Ledger(trials.names, trials.hashes)
    judged = _Judged(trials, once, mean, networks, rng, ledger)
    reconstructions = judged.images(single, averaged, synthetic)
    retrieval = [
        retrieval_figures(
            cosines,
            design,
            rng,
            source=question.source,
            is_mean_subtracted=question.is_mean_subtracted,
            decoder=question.decoder,
            ledger=ledger,
        )
        for decoded, design in (
            (single, once),
            (averaged, mean),
            *((decoded, mean) for _, _, decoded in synthetic),
        )
        for question, cosines in decoded.answers
    ]
    encoding = judged.encoding(predicted, means, maps.space.affine)
    controls = [
        retrieval_control(_plain(averaged), min(len(z_v), SUBSET_SIZE), rng),
        # Draws of its own: those of all else stay what they were without it.
        shift_control(_plain(single), shown_as, np.random.default_rng(0)),
        encoding_control(predicted, means, rng),
        *judged.pixel_controls(averaged),
    ]
    ceiling = ceiling_of(trials.betas, shown_as, averaged_repeats(shown_as))
    return Everything(
        reconstructions=reconstructions,
        retrieval=retrieval,
        encoding=encoding,
        spread=spread_figures(
            predicted,
            sampled,
            trials.betas,
            shown_as,
            rng,
            draws=judged.draws,
            ledger=ledger,
        ),
        spread_from=spread_from,
        controls=controls,
        single_trials=len(once.chosen),
        ledger=ledger,
        latents=averaged.latents,
        found=Found(
            seen=None if isinstance(trials.pictures, Absent) else trials.pictures,
            decoded=averaged.pictures,
            labels=trials.labels,
            names=trials.names,
            predicted=maps.space.affine.normalise(predicted),
            measured=maps.space.affine.normalise(means),
            rois=trials.rois,
            mask=np.asarray(maps.bundle.mask),
            ceiling=None if isinstance(ceiling, Absent) else ceiling,
        ),
    )


def _sampled(
    maps: BundleMaps,
    z_v: Latents,
    others: Others | Absent,
    rng: np.random.Generator,
    screen: Screen,
) -> tuple[Sampled | Absent, str]:
    """Return how sampled trials spread, and whose residuals were drawn."""
    if isinstance(others, Absent):
        return others, ""
    pool = others.trials.thinned(POOL)
    n = len(pool.betas)
    if n < 2:
        few = f"split {others.split}: expected at least two trials, found {n}"
        return Absent(few), ""
    residuals = residuals_of(maps, pool.betas, pool.shown, pool.z_v)
    drawn = sampled_deviations(maps, z_v, residuals, rng, on_image=screen.count)
    said = f"{drawn.samples} samples an image, residuals of {n} trials of "
    said += f"split {others.split}, which the model has "
    return drawn, said + ("learned from" if others.is_learned else "not seen")


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """The metrics that need more than latents."""

    trials: SplitTrials
    once: Design
    mean: Design
    networks: Networks
    rng: np.random.Generator
    ledger: Ledger

    @property
    def draws(self) -> Float64[np.ndarray, "draws images"]:
        """The images' draws that everybody shares who saw them."""
        return shared_draws(self.trials.names)

    def images(
        self,
        single: Decoded,
        averaged: Decoded,
        synthetic: Sequence[Synthetic],
    ) -> list[ImageFigures]:
        rows: list[tuple[Decoded, Design, ImageSource, Decoder]] = [
            (single, self.once, "measured responses", "own"),
            (averaged, self.mean, "measured responses", "own"),
        ]
        rows += [(decoded, self.mean, said, by) for said, by, decoded in synthetic]
        return [self._image_row(*row) for row in rows]

    def _image_row(
        self, decoded: Decoded, design: Design, source: ImageSource, decoder: Decoder
    ) -> ImageFigures:
        seen = self.trials.pictures
        if decoded.pictures is None:
            return absent_images(NO_PICTURES, design, source=source, decoder=decoder)
        if isinstance(seen, Absent):
            return absent_images(seen, design, source=source, decoder=decoder)
        return image_figures(
            seen,
            decoded.pictures,
            design,
            self.networks,
            self.rng,
            source=source,
            decoder=decoder,
            rendered=decoded.rendered,
            ledger=self.ledger,
        )

    def encoding(
        self, predicted: Betas, means: Betas, units: AffineNormaliser
    ) -> list[EncodingFigures]:
        trials = self.trials
        said = predicted[trials.shown]
        single = (said, trials.betas)
        averaged = (predicted, means)
        percent: list[tuple[Betas, Betas] | None] = [None, None]
        if trials.sessions is not None:
            a, b = (trials.in_percent(rows) for rows in single)
            percent = [(a, b), (trials.averaged(a), trials.averaged(b))]
        return [
            encoding_figures(
                *pair,
                design,
                self.rng,
                units=units,
                rois=trials.rois,
                repeats=trials.betas,
                repeats_image=trials.shown,
                draws=self.draws,
                percent=in_percent,
                ledger=self.ledger,
            )
            for pair, design, in_percent in zip(
                (single, averaged), (self.once, self.mean), percent, strict=True
            )
        ]

    def pixel_controls(self, averaged: Decoded) -> list[Control]:
        seen, decoded = self.trials.pictures, averaged.pictures
        if isinstance(seen, Absent) or decoded is None:
            reason = seen if isinstance(seen, Absent) else NO_PICTURES
            return [Control(metric=name, value=reason) for name in ("PixCorr", "SSIM")]
        return [
            control(seen, decoded, self.rng)
            for control in (pixel_control, similarity_control)
        ]


def _plain(decoded: Decoded) -> Cosines:
    """Return the cosines of decoded latents, without the mean, with the images'."""
    return next(
        cosines
        for question, cosines in decoded.answers
        if question.source == "decoded latents" and question.is_mean_subtracted
    )


def _questions(maps: BundleMaps, z_v: Latents) -> list[Question]:
    """Return what is asked of measured responses."""
    sources: tuple[RetrievalSource, ...] = ("decoded latents", "retrieval features")
    return [one for source in sources for one in _both_ways(maps, z_v, source)]


def _both_ways(
    maps: BundleMaps, z_v: Latents, source: RetrievalSource
) -> list[Question]:
    """Ask with and without the training images' mean."""
    centre = maps.bundle.latent_mean
    is_decoded = source == "decoded latents"
    # Features that learned centred latents hold no mean that could be subtracted.
    is_free = not is_decoded and maps.bundle.manifest.flow.is_centred
    return [
        Question(
            source=source,
            part="latents" if is_decoded else "retrieval",
            items=z_v,
            query_mean=centre if subtracted and not is_free else None,
            item_mean=centre if subtracted else None,
            is_mean_subtracted=subtracted,
        )
        for subtracted in (False, True)
    ]


def _centred(
    reader: BundleMaps, z_v: Latents, source: RetrievalSource, decoder: Decoder
) -> Question:
    """Ask the latents that a bundle decodes, without the mean."""
    centre = reader.bundle.latent_mean
    return Question(
        source=source,
        part="latents",
        items=z_v,
        query_mean=centre,
        item_mean=centre,
        is_mean_subtracted=True,
        decoder=decoder,
    )
