"""Predicted responses to typed figures: across voxels, and region by region.

Pure. The ceiling is that of the repeats that were averaged, from the same trials.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from runtime.errors import TensorMismatchError
from runtime.preprocess import AffineNormaliser
from training.metrics import voxels
from training.metrics.evaluation import Design, interval_value
from training.metrics.intervals import MIN_IMAGES
from training.metrics.ledger import Ledger
from training.metrics.result import (
    Absent,
    EncodingFigures,
    Figure,
    RoiFigures,
    Value,
    too_few,
)

Rois = Mapping[str, Bool[np.ndarray, " voxels"]]
Responses = Float32[np.ndarray, "rows voxels"]


def encoding_figures(
    predicted: Responses,
    betas: Responses,
    design: Design,
    rng: np.random.Generator,
    *,
    units: AffineNormaliser,
    rois: Rois,
    repeats: Float32[np.ndarray, "trials voxels"],
    repeats_image: Int64[np.ndarray, " trials"],
    draws: Float64[np.ndarray, "draws images"],
    percent: tuple[Responses, Responses] | None = None,
    ledger: Ledger | None = None,
) -> EncodingFigures:
    """Hold predicted responses against measured ones.

    Args:
        predicted: Percent signal, or z-scores within sessions, one a row of `design`.
        betas: Measured, of the same rows.
        design: Single trials, or one row an image.
        rng: Draws the intervals of means over images.
        units: Mean and standard deviation of the training betas.
        rois: Voxels of each region; the first is printed first.
        repeats: All single trials, for the ceiling.
        repeats_image: Image of each of them.
        draws: How often each image is in each draw, for correlations across images;
            see `shared_draws`.
        percent: Predicted and measured in percent signal, where the first two are
            z-scores. Only the correlation across voxels with means left in is of
            these: a session's mean moves both alike, and would pass for prediction
            in a correlation across images.
        ledger: Keeps what the figures are means of.
    """
    chosen, about = design.chosen, design.about
    said, found = predicted[chosen], betas[chosen]
    z_said, z_found = units.normalise(said), units.normalise(found)
    if percent is not None:
        said, found = (rows[chosen] for rows in percent)

    def per_image(values: Float64[np.ndarray, " n"], chance: float | None) -> Value:
        return interval_value(values, about, rng, chance)

    averaged = 1.0
    if design.trials == "averaged":
        averaged = voxels.averaged_repeats(repeats_image)
    ceiling = ceiling_of(repeats, repeats_image, averaged)
    across = {
        "mse": voxels.squared_errors(z_said, z_found),
        "pearson": voxels.correlations_across_voxels(z_said, z_found),
        "cosine": voxels.cosines_across_voxels(z_said, z_found),
        "pearson_percent": voxels.correlations_across_voxels(said, found),
    }
    regions, drawn = _roi_figures(predicted, betas, design, rois, ceiling, draws)
    figures = EncodingFigures(
        trials=design.trials,
        mse=per_image(across["mse"], None),
        pearson=per_image(across["pearson"], 0.0),
        cosine=per_image(across["cosine"], 0.0),
        pearson_percent=per_image(across["pearson_percent"], None),
        rois=regions,
    )
    if ledger is not None:
        ledger.keep(figures, across, about)
        ledger.keep_draws(figures, drawn)
    return figures


def ceiling_of(
    repeats: Responses, image: Int64[np.ndarray, " trials"], averaged: float
) -> Float64[np.ndarray, " voxels"] | Absent:
    """Return the noise ceiling at so many averaged trials, or why there is none.

    Args:
        repeats: All single trials.
        image: Of each of them.
        averaged: As in `voxels.noise_ceiling`.
    """
    try:
        return voxels.noise_ceiling(repeats, image, averaged)
    except TensorMismatchError as error:
        return Absent(str(error))


def _roi_figures(
    predicted: Responses,
    betas: Responses,
    design: Design,
    rois: Rois,
    ceiling: Float64[np.ndarray, " voxels"] | Absent,
    draws: Float64[np.ndarray, "draws images"],
) -> tuple[list[RoiFigures], dict[str, Float64[np.ndarray, " draws"]]]:
    """Return every region's figures, and what they come to in each draw."""
    # Repetitions are averaged after the correlation: within one, every image is once.
    # Those that not all images have are completed, and so are of as many images.
    sets = [(predicted[rows], betas[rows]) for rows in design.repetitions]
    r = np.mean([voxels.correlations_across_images(a, b) for a, b in sets], axis=0)
    explained = np.mean([voxels.explained_variances(a, b) for a, b in sets], axis=0)
    shares = {
        f"regions/{name}/correlation": _mean_of(one) for name, one in rois.items()
    }
    if not isinstance(ceiling, Absent):
        scale = voxels.normalised_by_ceiling(np.ones_like(ceiling), ceiling)
        for name, chosen in rois.items():
            usable = chosen & np.isfinite(scale)
            if usable.any():
                shares[f"regions/{name}/normalised"] = np.where(
                    usable, _mean_of(usable) * scale, 0.0
                )
    drawn = np.mean(
        [
            voxels.drawn_correlations(a, b, draws, np.stack(list(shares.values())))
            for a, b in sets
        ],
        axis=0,
    )
    by_name = dict(zip(shares, drawn, strict=True))
    images = len(design.repetitions[0])

    def value(key: str, chance: float | None, n: int) -> Figure:
        if images < voxels.MIN_CORRELATED:
            return too_few(images, voxels.MIN_CORRELATED)
        low, high = np.percentile(by_name[key], [2.5, 97.5])
        mean = float(shares[key] @ r)
        return Value(mean=mean, low=float(low), high=float(high), chance=chance, n=n)

    found = []
    for name, chosen in rois.items():
        count, key = int(chosen.sum()), f"regions/{name}/normalised"
        limit: Figure
        normalised: Figure
        if isinstance(ceiling, Absent):
            limit = normalised = ceiling
        else:
            limit = Value(mean=float(np.sqrt(ceiling[chosen]).mean()), n=count)
            normalised = Absent(
                f"no voxel has a noise ceiling of {voxels.CEILING_FLOOR:g}"
            )
            if key in shares:
                normalised = value(key, 0.0, int(np.count_nonzero(shares[key])))
        found.append(
            RoiFigures(
                roi=name,
                voxels=count,
                correlation=value(f"regions/{name}/correlation", 0.0, images),
                ceiling=limit,
                normalised=normalised,
                explained_variance=(
                    too_few(images, MIN_IMAGES)
                    if images < MIN_IMAGES
                    else Value(mean=float(explained[chosen].mean()), n=count)
                ),
            )
        )
    return found, by_name if images >= voxels.MIN_CORRELATED else {}


def _mean_of(chosen: Bool[np.ndarray, " voxels"]) -> Float64[np.ndarray, " voxels"]:
    return chosen / max(int(chosen.sum()), 1)
