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
from training.metrics.result import (
    Absent,
    EncodingFigures,
    Figure,
    RoiFigures,
    Value,
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
    percent: tuple[Responses, Responses] | None = None,
) -> EncodingFigures:
    """Hold predicted responses against measured ones.

    Args:
        predicted: Percent signal, or z-scores within sessions, one a row of `design`.
        betas: Measured, of the same rows.
        design: Single trials, or one row an image.
        rng: Draws the intervals.
        units: Mean and standard deviation of the training betas.
        rois: Voxels of each region; the first is printed first.
        repeats: All single trials, for the ceiling.
        repeats_image: Image of each of them.
        percent: Predicted and measured in percent signal, where the first two are
            z-scores. Only the correlation across voxels with means left in is of
            these: a session's mean moves both alike, and would pass for prediction
            in a correlation across images.
    """
    chosen, about = np.concatenate(design.repetitions), design.about
    said, found = predicted[chosen], betas[chosen]
    z_said, z_found = units.normalise(said), units.normalise(found)
    if percent is not None:
        said, found = (rows[chosen] for rows in percent)

    def per_image(values: Float64[np.ndarray, " n"], chance: float | None) -> Value:
        return interval_value(values, about, rng, chance)

    averaged = 1
    if design.trials == "averaged":
        averaged = int(np.unique(repeats_image, return_counts=True)[1].min())
    ceiling = _ceiling(repeats, repeats_image, averaged)
    return EncodingFigures(
        trials=design.trials,
        mse=per_image(voxels.squared_errors(z_said, z_found), None),
        pearson=per_image(voxels.correlations_across_voxels(z_said, z_found), 0.0),
        cosine=per_image(voxels.cosines_across_voxels(z_said, z_found), 0.0),
        pearson_percent=per_image(voxels.correlations_across_voxels(said, found), None),
        rois=[
            _roi_figures(name, predicted, betas, design, chosen_voxels, ceiling, rng)
            for name, chosen_voxels in rois.items()
        ],
    )


def _ceiling(
    repeats: Responses, image: Int64[np.ndarray, " trials"], averaged: int
) -> Float64[np.ndarray, " voxels"] | Absent:
    try:
        return voxels.noise_ceiling(repeats, image, averaged)
    except TensorMismatchError as error:
        return Absent(str(error))


def _roi_figures(
    name: str,
    predicted: Responses,
    betas: Responses,
    design: Design,
    chosen: Bool[np.ndarray, " voxels"],
    ceiling: Float64[np.ndarray, " voxels"] | Absent,
    rng: np.random.Generator,
) -> RoiFigures:
    # Repetitions are averaged after the correlation: within one, every image is once.
    sets = [(predicted[rows], betas[rows]) for rows in design.repetitions]
    per_voxel = np.mean(
        [voxels.correlations_across_images(a, b)[chosen] for a, b in sets], axis=0
    )
    explained = np.mean(
        [voxels.explained_variances(a, b)[chosen] for a, b in sets], axis=0
    )
    count, images = int(chosen.sum()), len(design.repetitions[0])
    parts = [voxels.correlation_interval(a, b, chosen, rng) for a, b in sets]
    correlation = Value(
        mean=float(per_voxel.mean()),
        # The mean of the repetitions' limits: the same images were drawn in each, so
        # that averaging over repetitions narrows nothing.
        low=float(np.mean([part.low for part in parts])),
        high=float(np.mean([part.high for part in parts])),
        chance=0.0,
        n=images,
    )
    limit: Figure
    normalised: Figure
    if isinstance(ceiling, Absent):
        limit = normalised = ceiling
    else:
        limit = Value(mean=float(np.sqrt(ceiling[chosen]).mean()), n=count)
        ratios = voxels.normalised_by_ceiling(per_voxel, ceiling[chosen])
        usable = np.isfinite(ratios)
        normalised = (
            Value(mean=float(ratios[usable].mean()), n=int(usable.sum()))
            if usable.any()
            else Absent(f"no voxel has a noise ceiling of {voxels.CEILING_FLOOR:g}")
        )
    return RoiFigures(
        roi=name,
        voxels=count,
        correlation=correlation,
        ceiling=limit,
        normalised=normalised,
        explained_variance=Value(mean=float(explained.mean()), n=count),
    )
