"""What a bundle says about how its input is made from volumes.

Either a trial's beta at a stated delay, or the volume itself. A bundle names one of
them with every constant, its normaliser is fitted on exactly that, and serving with
another is refused because the hash differs. Betas that others estimated have a name and
no constants: nothing here can compute them, so a bundle of them is never served.
"""

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from runtime.errors import BundleError
from runtime.preprocess import CANONICAL, Hrf
from runtime.preprocess.centre import PRIOR_WEIGHT, SLOPE_SD
from runtime.preprocess.drift import CUTOFF_S
from runtime.preprocess.motion_report import MOTION_CONFOUNDS
from runtime.preprocess.motion_settings import Motion

LONGEST_DELAY_S = 3600

Positive = Annotated[float, msgspec.Meta(gt=0)]
Width = Annotated[float, msgspec.Meta(gt=0, le=100)]
Shrinkage = Annotated[float, msgspec.Meta(gt=0, le=1)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
Told = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
"""A name that comes with a volume; the wire takes no more, and no longer ones."""
Units = Literal["percent", "session z"]

Normalisation = Literal["session-train", "session-published-leaky", "pooled-train"]
"""How voxels were scaled.

* ``session-train``: z-score within each session, from its training trials alone;
* ``session-published-leaky``: z-score within each session from all its trials, those of
  the test images included, as the published preparation does: the statistics have seen
  the test;
* ``pooled-train``: z-score from the training trials of all runs.
"""


Ratio = Annotated[float, msgspec.Meta(gt=1)]


class BetaEstimator(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="beta"
):
    """A trial's response by least squares separate, at a fixed delay."""

    decision_delay_s: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_DELAY_S)] = 12.0
    """From the stimulus' onset to the end of the last volume used."""
    baseline_volumes: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10
    """Rest at the start of a run that percent signal refers to."""
    drift_cutoff_s: Annotated[float, msgspec.Meta(ge=10)] = CUTOFF_S
    """Shortest period that counts as drift. Every period down to it is a column, and a
    response is no longer: less than 10 s would leave nothing of one."""
    hrf: Hrf = CANONICAL
    """The response assumed."""
    noise_shrinkage: Shrinkage | None = None
    """Noise is whitened with a covariance shrunk by this much; None: it is not."""
    # What follows is written only where it is set, so that an estimator without it
    # has the bytes, and the hash, that it always had.
    smoothing_fwhm_mm: Width | UnsetType = UNSET
    """Voxels are smoothed within the mask by a Gaussian of this full width at half
    maximum; unset: they are not."""
    spike_ratio: Ratio | UnsetType = UNSET
    """A volume of a higher standardised DVARS is no row of the design; unset: each is
    (`runtime.preprocess.quality`)."""
    has_slice_times: bool | UnsetType = UNSET
    """Regressors are sampled when each voxel's slice is acquired, and a run has to say
    when that is; unset: at the middle of the volume."""
    hrf_library: Annotated[tuple[Hrf, ...], msgspec.Meta(min_length=2)] | UnsetType = (
        UNSET
    )
    """Responses in place of `hrf`, of which each voxel has one, chosen in training
    runs; unset: all have `hrf`."""
    confounds: (
        Annotated[tuple[Told, ...], msgspec.Meta(min_length=1, max_length=32)]
        | UnsetType
    ) = UNSET
    """Columns whose values come with each volume, by falling importance, such as
    motion or breathing; unset: none. Where `motion` is set, its `MOTION_CONFOUNDS`
    are what it measures."""
    motion: Motion | UnsetType = UNSET
    """Volumes are registered to the bundle's reference volume; unset: they are not."""


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
    # Written only where set, as above.
    smoothing_fwhm_mm: Width | UnsetType = UNSET
    """As of betas."""
    spike_ratio: Ratio | UnsetType = UNSET
    """A volume of a higher standardised DVARS does not move the run's centre; unset:
    each does."""
    motion: Motion | UnsetType = UNSET
    """As of betas."""


class ExternalEstimator(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag="external",
):
    """A trial's response as others estimated it, which nothing here can compute."""

    name: Name
    """Such as ``nsd`` (released betas) or ``offline`` (least squares of whole runs)."""
    detail: str
    """What else decides the numbers: which release, or which software and settings."""
    normalisation: Normalisation
    """What a session's statistics have seen. Scaled within sessions, the encoder takes
    the z-scores themselves: a bundle has one mean and one scale, not one a session."""


Estimator = BetaEstimator | VolumeEstimator | ExternalEstimator


def motion_of(estimator: Estimator) -> Motion | None:
    """Return how motion is corrected; None where it is not, or not here."""
    if isinstance(estimator, ExternalEstimator) or estimator.motion is UNSET:
        return None
    return estimator.motion


def told_confounds(estimator: BetaEstimator | VolumeEstimator) -> tuple[str, ...]:
    """Return the confounds that have to be told with each volume, in their order.

    Those that motion correction measures are not among them.
    """
    if isinstance(estimator, VolumeEstimator) or estimator.confounds is UNSET:
        return ()
    measured = () if estimator.motion is UNSET else MOTION_CONFOUNDS
    return tuple(name for name in estimator.confounds if name not in measured)


def units_of(estimator: Estimator) -> Units:
    """Return the units of what a bundle's own mean and scale are applied to."""
    if isinstance(estimator, ExternalEstimator):
        return "percent" if estimator.normalisation == "pooled-train" else "session z"
    return "percent"


def description(estimator: Estimator) -> str:
    """Say in a few words how an estimator makes a model's input."""
    if isinstance(estimator, ExternalEstimator):
        return (
            f"betas of others: {estimator.name} ({estimator.detail}), "
            f"{estimator.normalisation}"
        )
    if isinstance(estimator, VolumeEstimator):
        said = f"volumes, centred by a running {estimator.kind}"
    else:
        said = (
            "betas by least squares separate, volume by volume, "
            f"{estimator.decision_delay_s:g} s after the onset"
        )
    return ", ".join((said, *_options(estimator)))


def _options(estimator: BetaEstimator | VolumeEstimator) -> list[str]:
    said = [] if estimator.motion is UNSET else ["motion corrected"]
    if estimator.smoothing_fwhm_mm is not UNSET:
        said.append(f"smoothed by {estimator.smoothing_fwhm_mm:g} mm")
    if estimator.spike_ratio is not UNSET:
        said.append(f"without spikes above {estimator.spike_ratio:g}")
    if isinstance(estimator, BetaEstimator):
        if estimator.has_slice_times is True:
            said.append("by slice times")
        if estimator.hrf_library is not UNSET:
            said.append(f"one of {len(estimator.hrf_library)} responses a voxel")
        if estimator.confounds is not UNSET:
            said.append(f"confounds {' '.join(estimator.confounds)}")
    return said


def live_estimator(
    estimator: Estimator, what: str = "bundle"
) -> BetaEstimator | VolumeEstimator:
    """Return an estimator that a server can compute, volume by volume.

    Args:
        estimator: A bundle's.
        what: The bundle's name, for the message.

    Raises:
        BundleError: The betas are those of others.
    """
    if isinstance(estimator, ExternalEstimator):
        raise BundleError(
            f"{what}: estimator: expected one that is computed volume by volume, "
            f"found betas of others, {estimator.name} ({estimator.detail}). "
            "Judge it with evaluate --trials, or train on causal betas (prepare-bids)."
        )
    return estimator


def estimator_sha256(estimator: Estimator) -> str:
    """Return the hash that a bundle and its normaliser cite."""
    canonical = msgspec.json.encode(estimator, order="sorted")
    return hashlib.sha256(canonical).hexdigest()
