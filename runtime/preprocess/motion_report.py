"""What is said of the head's motion with each volume. Pure values."""

from dataclasses import dataclass, field
from typing import Final, final

import numpy as np

from runtime.arrays import Float64

AXES: Final = ("x_mm", "y_mm", "z_mm", "pitch_deg", "roll_deg", "yaw_deg")
"""Names of a pose's numbers, as `runtime.preprocess.rigid` states them."""
MOTION_CONFOUNDS: Final = tuple(f"motion_{axis}" for axis in AXES)
"""What an estimator calls them among its confounds, and a report its measures."""
NOT_REGISTERED: Final = "MOTION_NOT_REGISTERED"


@final
@dataclass(frozen=True, slots=True, eq=False)
class VolumeMotion:
    """Where the head was during one volume."""

    pose: Float64[np.ndarray, "6"] = field(repr=False)
    """Against the bundle's reference; also the six regressors of the motion."""
    framewise_displacement_mm: float | None
    """Since the last registered volume (Power et al. 2012); None for the first, and
    where this one could not be registered."""
    is_registered: bool
    """False: the reference was not found, and `pose` is that of the volume before."""
    is_spike: bool
    """The displacement is above the bundle's `spike_mm`."""
    is_repositioned: bool
    """The head lies anew: with this volume a large step has stayed long enough."""
    correlation: float
    """Between the volume and the reference, both smoothed, at `pose`."""
    overlap: float
    """Share of the mask that the run's first volume showed."""
    outside_voxels: int
    """Decoded voxels beyond the field of view; they hold what its edge shows."""

    def confounds(self) -> dict[str, float]:
        """Return the pose by the names of `MOTION_CONFOUNDS`."""
        numbers = (float(number) for number in self.pose)
        return dict(zip(MOTION_CONFOUNDS, numbers, strict=True))

    def quality(self) -> dict[str, float]:
        """Return the named measures of a volume's report."""
        named = self.confounds()
        if self.framewise_displacement_mm is not None:
            named["framewise_displacement_mm"] = self.framewise_displacement_mm
        return named | {
            "motion_spike": float(self.is_spike),
            "motion_repositioned": float(self.is_repositioned),
            "motion_registered": float(self.is_registered),
            "reference_correlation": self.correlation,
            "mask_overlap": self.overlap,
            "outside_voxels": float(self.outside_voxels),
        }

    def degraded(self) -> tuple[str, ...]:
        """Return what of the registration was not as it should be."""
        return () if self.is_registered else (NOT_REGISTERED,)
