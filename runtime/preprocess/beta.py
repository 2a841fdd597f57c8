"""What the GLM answers about one trial. Pure."""

from dataclasses import dataclass, field
from typing import Final, final

import numpy as np

from runtime.arrays import Float32
from runtime.errors import NeuroFlowError

MEASURED_SHARE: Final = 0.25
"""Of the squares of a trial's regressor, what has to lie in volumes that were measured:
the beta then has at most about twice the noise of one whose response was all seen."""


class LateTrialError(NeuroFlowError):
    """A trial was announced after volumes that it affects had left the memory."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class TrialBeta:
    """One trial's estimated response, from the volumes seen so far."""

    trial_id: str
    beta: Float32[np.ndarray, " voxels"] = field(repr=False)
    """In the units of the voxels, per unit of the response to a long block."""
    standard_error: Float32[np.ndarray, " voxels"] = field(repr=False)
    """Of `beta`, for white noise; infinite where nothing is known yet."""
    volumes_used: int
    """Rows of the design, missing volumes not counted."""
    last_volume_index: int
    """Newest volume used; -1 before the first."""
    delay_s: float
    """From the stimulus' onset to the end of that volume."""

    @property
    def is_identified(self) -> bool:
        """Whether the volumes seen say anything about this trial."""
        return bool(np.isfinite(self.standard_error).all())
