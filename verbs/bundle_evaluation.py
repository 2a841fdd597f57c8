"""What a bundle makes of a split, put through every metric."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.metrics.controls import (
    encoding_control,
    pixel_control,
    retrieval_control,
    similarity_control,
)
from training.metrics.encoding import encoding_figures
from training.metrics.evaluation import (
    Design,
    Networks,
    image_figures,
    retrieval_figures,
)
from training.metrics.result import (
    Control,
    EncodingFigures,
    ImageFigures,
    RetrievalFigures,
    RetrievalSource,
)
from training.metrics.retrieval import SUBSET_SIZE, similarities
from verbs.bundle_trials import BundleMaps, Decoded, Latents, SplitTrials
from verbs.evaluation_figures import Found
from verbs.progress import Screen


@dataclass(frozen=True, slots=True, eq=False)
class Everything:
    """All figures of one bundle on one split, and what the pictures of them show."""

    reconstructions: list[ImageFigures]
    retrieval: list[RetrievalFigures]
    encoding: list[EncodingFigures]
    controls: list[Control]
    found: Found


def evaluate_split(
    maps: BundleMaps,
    other: BundleMaps | None,
    trials: SplitTrials,
    networks: Networks,
    rng: np.random.Generator,
    shown: Screen,
) -> Everything:
    """Decode, predict and judge.

    Args:
        maps: The bundle.
        other: An independently trained one, where there is one.
        trials: Of a split that neither was trained on.
        networks: For the image metrics.
        rng: Draws intervals and permutations.
        shown: The screen.
    """
    pictures, images = trials.stimuli.pixels, trials.images
    z_v = maps.latents(pictures[images])
    at = np.searchsorted(images, trials.shown)
    shown.stage("decode single trials, then the images' means")
    single = maps.decode(trials.betas, shown.count)
    means = trials.averaged()
    averaged = maps.decode(means, shown.count)
    shown.stage("predict responses, and decode them again")
    predicted = maps.predict(z_v, shown.count)
    once, mean = Design.single(trials.shown), Design.averaged(images)
    synthetic = [("own", maps.decode(predicted, shown.count))]
    if other is not None:
        synthetic.append(("external", other.decode(predicted, shown.count)))
    shown.stage("metrics")
    seen = pictures[images]
    reconstructions = [
        image_figures(
            pictures[trials.shown], single.pictures, once, networks, rng,
            source="measured responses", decoder="own",
        ),
        image_figures(
            seen, averaged.pictures, mean, networks, rng,
            source="measured responses", decoder="own",
        ),
    ]  # fmt: skip
    reconstructions += [
        image_figures(
            seen, decoded.pictures, mean, networks, rng,
            source="predicted responses",
            decoder="own" if whose == "own" else "external",
        )
        for whose, decoded in synthetic
    ]  # fmt: skip
    retrieval = _retrieval(maps, z_v[at], single, once, rng)
    retrieval += _retrieval(maps, z_v, averaged, mean, rng)
    retrieval += _synthetic_retrieval(maps, other, z_v, synthetic, mean, rng)
    encoding = [
        encoding_figures(
            predicted[rows], betas, design, rng,
            units=maps.space.affine, rois=trials.rois,
            repeats=trials.betas, repeats_image=trials.shown,
        )
        for rows, betas, design in (
            (at, trials.betas, once), (np.arange(len(images)), means, mean)
        )
    ]  # fmt: skip
    centre = maps.bundle.latent_mean
    cosines = similarities(averaged.latents, z_v, query_mean=centre, item_mean=centre)
    controls = [
        retrieval_control(cosines, min(len(images), SUBSET_SIZE), rng),
        encoding_control(predicted, means, rng),
        pixel_control(seen, averaged.pictures, rng),
    ]
    similarity = similarity_control(seen, averaged.pictures, rng)
    if similarity is not None:
        controls.append(similarity)
    found = Found(
        seen=seen,
        decoded=averaged.pictures,
        labels=[trials.stimuli.labels[row] for row in images],
        names=[trials.stimuli.ids[row] for row in images],
        predicted=maps.space.affine.normalise(predicted),
        measured=maps.space.affine.normalise(means),
        rois=trials.rois,
    )
    return Everything(reconstructions, retrieval, encoding, controls, found)


def _retrieval(
    maps: BundleMaps,
    z_v: Latents,
    decoded: Decoded,
    design: Design,
    rng: np.random.Generator,
) -> list[RetrievalFigures]:
    """Decoded latents and retrieval features, with and without the training mean."""
    decoded_rows = _both_ways(
        maps, z_v, decoded.latents, design, rng, source="decoded latents"
    )
    return decoded_rows + _both_ways(
        maps, z_v, decoded.retrieval, design, rng, source="retrieval features"
    )


def _both_ways(
    maps: BundleMaps,
    z_v: Latents,
    brain: Latents,
    design: Design,
    rng: np.random.Generator,
    *,
    source: RetrievalSource,
) -> list[RetrievalFigures]:
    centre = maps.bundle.latent_mean
    # Features that learned centred latents hold no mean that could be subtracted.
    is_free = source != "decoded latents" and maps.bundle.manifest.flow.is_centred
    return [
        retrieval_figures(
            brain,
            z_v,
            design,
            rng,
            source=source,
            brain_mean=centre if subtracted and not is_free else None,
            image_mean=centre if subtracted else None,
            is_mean_subtracted=subtracted,
        )
        for subtracted in (False, True)
    ]


def _synthetic_retrieval(
    maps: BundleMaps,
    other: BundleMaps | None,
    z_v: Latents,
    synthetic: Sequence[tuple[str, Decoded]],
    design: Design,
    rng: np.random.Generator,
) -> list[RetrievalFigures]:
    own = synthetic[0][1].retrieval
    found = _both_ways(maps, z_v, own, design, rng, source="self-consistency")
    for _, decoded in synthetic[1:]:
        if other is None:
            continue
        centre = other.bundle.latent_mean
        found.append(
            retrieval_figures(
                decoded.latents,
                other.latents([maps.backbone.image_from_tokens(z) for z in z_v]),
                design,
                rng,
                source="predicted responses",
                brain_mean=centre,
                image_mean=centre,
                is_mean_subtracted=True,
                decoder="external",
            )
        )
    return found
