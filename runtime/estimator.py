"""What a bundle says about how its input is made from volumes.

Either a trial's beta at a stated delay, or the volume itself. A bundle names one of
them with every constant, its normaliser is fitted on exactly that, and serving with
another is refused because the hash differs.
"""

import hashlib
from typing import Annotated, Literal

import msgspec

from runtime.preprocess import CANONICAL, Hrf
from runtime.preprocess.centre import PRIOR_WEIGHT, SLOPE_SD
from runtime.preprocess.drift import CUTOFF_S

Positive = Annotated[float, msgspec.Meta(gt=0)]
Shrinkage = Annotated[float, msgspec.Meta(gt=0, le=1)]


class BetaEstimator(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="beta"
):
    """A trial's response by least squares separate, at a fixed delay."""

    decision_delay_s: Positive = 12.0
    """From the stimulus' onset to the end of the last volume used."""
    baseline_volumes: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10
    """Rest at the start of a run that percent signal refers to."""
    drift_cutoff_s: Positive = CUTOFF_S
    """Shortest period that counts as drift."""
    hrf: Hrf = CANONICAL
    """The response assumed."""
    noise_shrinkage: Shrinkage | None = None
    """Noise is whitened with a covariance shrunk by this much; None: it is not."""


class VolumeEstimator(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="volume"
):
    """Every volume, centred by this run's past and scaled by calibration."""

    kind: Literal["mean", "linear"] = "mean"
    """Level alone, or level and slope."""
    prior_weight: Annotated[float, msgspec.Meta(ge=0)] = PRIOR_WEIGHT
    """Volumes that the calibration's level counts for."""
    slope_sd: Positive = SLOPE_SD
    """Prior of the slope, in residual standard deviations a run."""
    noise_shrinkage: Shrinkage | None = 0.4
    """Noise is whitened with a covariance shrunk by this much; None: it is not."""
    warming_volumes: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    """Volumes at the start of a run that get no answer."""


Estimator = BetaEstimator | VolumeEstimator


def estimator_sha256(estimator: Estimator) -> str:
    """Return the hash that a bundle and its normaliser cite."""
    canonical = msgspec.json.encode(estimator, order="sorted")
    return hashlib.sha256(canonical).hexdigest()
