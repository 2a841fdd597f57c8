"""Labelled volumes of Haxby's recording: features, category codes, noise.

Eight categories and rest, one label a volume. The categories have no pictures here, so
each has a fixed code in the place of a visual latent. Features come in two kinds:
causal, through the front end that serves live, and offline, with the statistics of the
whole run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped

from runtime.errors import ConfigError, RecordingError
from runtime.estimator import VolumeEstimator
from runtime.frontend import VolumeFrontend
from runtime.preprocess import AffineNormaliser, CausalStatistics, NoiseWhitening
from runtime.preprocess.feature_space import FeatureSpace, repeat_residuals
from runtime.recording import HAXBY_NAMES, Recording
from training.features import (
    geometry,
    mask_voxel_mm,
    masked_volumes,
    reference_of,
)
from training.trials import TrialSet

CATEGORIES: Final = len(HAXBY_NAMES) - 1
NAMES: Final = HAXBY_NAMES[1:]
"""Categories by row of the codes: label 1 is row 0."""
CODE_SEED: Final = 2001
"""Draws the codes; one and the same for every subject, fold and seed of training."""

Features = Float32[np.ndarray, "volumes voxels"]
Labels = Int64[np.ndarray, " volumes"]


def category_codes(
    tokens: int, width: int, seed: int = CODE_SEED
) -> Float32[np.ndarray, "categories tokens width"]:
    """Return orthogonal codes of unit root mean square, as z_v of the categories.

    Raises:
        ConfigError: The latent has fewer dimensions than there are categories.
    """
    size = tokens * width
    if size < CATEGORIES:
        raise ConfigError(
            f"codes: expected latents of at least {CATEGORIES} values, found {size}"
        )
    random = np.random.default_rng(seed).standard_normal((size, CATEGORIES))
    orthonormal, _ = np.linalg.qr(random)
    codes = (orthonormal.T * np.sqrt(size)).reshape(CATEGORIES, tokens, width)
    return np.asarray(codes, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledRuns:
    """A recording in memory: every volume with its label and its run."""

    recording: Recording
    volumes: tuple[Shaped[np.ndarray, "times x y z"], ...] = field(repr=False)
    """Images of each run."""
    labels: Labels = field(repr=False)
    """0 rest, then the categories; lag included. Runs one after another."""
    runs: Labels = field(repr=False)
    """Position of each volume's run in the recording."""

    def of(self, runs: Sequence[int]) -> Bool[np.ndarray, " volumes"]:
        """Return which volumes belong to these runs."""
        return np.isin(self.runs, runs)


def read_labelled(recording: Recording) -> LabelledRuns:
    """Read all the images of a recording whose volumes are labelled.

    Raises:
        RecordingError: A volume without label, or fewer than two runs.
        BackendError: nibabel is missing.
    """
    if len(recording.runs) < 2:
        raise RecordingError(
            f"{recording.folder}: expected at least two runs, "
            f"found {len(recording.runs)}"
        )
    labels: list[int] = []
    for run in recording.runs:
        known = [label for label in run.labels if label is not None]
        if len(known) != run.volume_count:
            raise RecordingError(
                f"{recording.folder}: expected a category for every volume of "
                f"{run.run_id}, found {len(known)} of {run.volume_count}. "
                "Only Haxby's layout has them"
            )
        labels += known
    counts = [run.volume_count for run in recording.runs]
    return LabelledRuns(
        recording,
        tuple(run.volumes() for run in recording.runs),
        np.array(labels, dtype=np.int64),
        np.repeat(np.arange(len(counts), dtype=np.int64), counts),
    )


def causal_features(
    data: LabelledRuns, calibration: Sequence[int], estimator: VolumeEstimator
) -> tuple[Features, CausalStatistics]:
    """Stream every run through the live front end, calibrated on some of them.

    Returns:
        Normalised volumes of all runs, not whitened, and what the calibration runs
        left to them. Training runs pass through the same code as the tested one.
    """
    mask = data.recording.mask
    runs = data.recording.runs
    reference = reference_of(runs[calibration[0]], estimator)
    masked = [
        masked_volumes(runs[run], data.volumes[run], mask, estimator, reference)
        for run in calibration
    ]
    statistics = CausalStatistics.fit(
        masked, estimator.kind, estimator.prior_weight, estimator.slope_sd
    )
    rows = []
    for run, volumes in zip(data.recording.runs, data.volumes, strict=True):
        frontend = VolumeFrontend(
            mask,
            estimator,
            geometry(run),
            prior=statistics.prior,
            scale=statistics.scale,
            voxel_mm=mask_voxel_mm(run, reference),
            reference=reference,
        )
        rows += [frontend.add_volume(i, volume) for i, volume in enumerate(volumes)]
    return np.stack(rows), statistics


def offline_features(data: LabelledRuns) -> Features:
    """Detrend every run linearly and scale it to unit variance, all of it at once.

    No live decoder has these: the mean of a run is known only at its end.
    """
    parts = []
    for volumes in data.volumes:
        flat = volumes.reshape(len(volumes), -1)[:, data.recording.mask.indices]
        run = flat.astype(np.float64)
        times = np.linspace(-1.0, 1.0, len(run))
        basis, _ = np.linalg.qr(np.vander(times, 2))
        run -= basis @ (basis.T @ run)
        deviation = run.std(axis=0)
        parts.append(run / np.where(deviation > 1e-9, deviation, np.inf))
    return np.concatenate(parts).astype(np.float32)


def category_whitening(
    features: Features, labels: Labels, shrinkage: float | None
) -> NoiseWhitening:
    """Fit the noise: what volumes of one category (rest is one) do not share.

    Args:
        features: Normalised volumes of training runs, and of them alone.
        labels: Their labels.
        shrinkage: See `NoiseWhitening.fit`; None leaves the noise as it is.
    """
    if shrinkage is None:
        return NoiseWhitening.identity(features.shape[1])
    residuals, degrees = repeat_residuals(features, [str(label) for label in labels])
    return NoiseWhitening.fit(residuals, shrinkage=shrinkage, degrees=degrees)


def feature_space(
    statistics: CausalStatistics, whitening: NoiseWhitening
) -> FeatureSpace:
    """Return what a bundle of volumes stores: prior level, scale and whitening."""
    return FeatureSpace(AffineNormaliser(statistics.prior, statistics.scale), whitening)


def category_trials(
    features: Features,
    labels: Labels,
    codes: Float32[np.ndarray, "categories tokens width"],
) -> TrialSet:
    """Return the labelled volumes as trials; rest has no code and is left out."""
    shown = labels > 0
    return TrialSet(
        voxels=np.ascontiguousarray(features[shown]),
        image=labels[shown] - 1,
        latents=codes,
    )
