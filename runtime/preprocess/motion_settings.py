"""What a bundle says of head motion: part of its estimator, so of its hash. Pure."""

from typing import Annotated, Literal

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Motion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rigid registration of every volume to the bundle's reference volume."""

    fwhm_mm: Positive = 5.0
    """Smoothing of reference and volume for the registration alone."""
    interpolation: Literal["cubic", "linear"] = "cubic"
    """How the decoded voxels are read between those acquired."""
    spike_mm: Positive = 0.5
    """Framewise displacement above which a volume is a spike (Power et al. 2012)."""
    reposition_mm: Positive = 3.0
    """Displacement that, where it stays, means that the head lies anew."""
    min_overlap: Share = 0.8
    """Share of the mask that the day's volumes must show; below, they are refused."""
