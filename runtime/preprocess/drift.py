"""Slow drift of a run, as columns that the announced length fixes.

A basis that depended on the volumes received so far would change while the run grows,
and with it the meaning of every trial's beta. Pure.
"""

import math

import numpy as np

from runtime.arrays import Float64
from runtime.preprocess.timing import require_positive

CUTOFF_S = 128.0
"""Longest period that a beta may carry; SPM's default high-pass."""


def cosine_drift(
    volumes: int, tr_s: float, cutoff_s: float = CUTOFF_S
) -> Float64[np.ndarray, "volumes columns"]:
    """Return the constant and the discrete cosines slower than the cut-off.

    Column ``k`` is ``sqrt(2) cos(pi k (i + 1/2) / volumes)`` for ``k`` from 1 to
    ``floor(2 volumes tr_s / cutoff_s)``, by increasing frequency; column 0 is 1. The
    columns are orthogonal over a whole run, with mean square 1 (the type-II discrete
    cosine transform of Ahmed et al. 1974; nilearn's set, scaled by sqrt(volumes)).

    Args:
        volumes: Length of the run as announced at its start.
        tr_s: Repetition time.
        cutoff_s: Shortest period that counts as drift.

    Raises:
        ConfigError: An argument is not positive.
    """
    require_positive("volumes", volumes)
    require_positive("tr_s", tr_s)
    require_positive("cutoff_s", cutoff_s)
    # 2 * 64 * 1.0 / 128 must be 1 whatever the rounding of its factors.
    order = math.floor(2.0 * volumes * tr_s / cutoff_s + 1e-9)
    frequencies = np.arange(min(order, volumes - 1) + 1, dtype=np.float64)
    middles = (np.arange(volumes, dtype=np.float64) + 0.5) / volumes
    columns = math.sqrt(2.0) * np.cos(np.pi * np.outer(middles, frequencies))
    columns[:, 0] = 1.0
    return columns
