"""The blood response to a stimulus, as the GLM assumes it.

Pure. The response is integrated in closed form (incomplete gamma functions), so a
regressor has neither an oversampling grid nor a discretisation error.
"""

import math
from typing import Annotated, Final, final

import msgspec
import numpy as np

from runtime.arrays import Float64, Int64, is_number
from runtime.errors import ConfigError
from runtime.given import shown
from runtime.preprocess.gamma import gamma_distribution
from runtime.preprocess.timing import middles_s, require_positive

Positive = Annotated[float, msgspec.Meta(gt=0)]
_FAR_S: Final = 1e9
"""An onset of thirty years is none, and the volumes' times would vanish beside it."""


@final
class Hrf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A difference of two gamma densities, integrating to one.

    ``h(t) = (g(t; peak) - ratio * g(t; undershoot)) / (1 - ratio)`` with ``g(t; d)``
    the gamma density of shape ``d / dispersion`` and scale `dispersion`, cut at
    `length_s`. The defaults are SPM's canonical response (Friston et al. 1998), whose
    maximum is at 5 s. A stimulus that lasts gives a plateau of one, so a beta is
    in units of the response to a long block.
    """

    peak_s: Positive = 6.0
    """Mean of the positive gamma density."""
    undershoot_s: Positive = 16.0
    """Mean of the negative one."""
    peak_dispersion_s: Positive = 1.0
    """Scale of the positive density."""
    undershoot_dispersion_s: Positive = 1.0
    """Scale of the negative one."""
    undershoot_ratio: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 1 / 6
    """Area of the undershoot over that of the peak."""
    length_s: Positive = 32.0
    """Time after which the response is taken to be over."""


CANONICAL = Hrf()
"""SPM's canonical response."""


LIBRARY = tuple(
    Hrf(peak_s=peak_s, undershoot_s=peak_s + 10.0)
    for peak_s in (5.0, 5.5, 6.0, 6.5, 7.0, 7.5, 8.0)
)
"""Responses with a maximum from 4 to 7 s after an impulse, the canonical one among
them: the range over voxels and people."""


def step_response(
    times_s: Float64[np.ndarray, " times"], hrf: Hrf = CANONICAL
) -> Float64[np.ndarray, " times"]:
    """Return the response to a stimulus that starts at 0 and stays: the integral of h.

    Args:
        times_s: Times since the onset; zero is returned before it.
        hrf: The response to an impulse.
    """
    clipped = np.clip(times_s, 0.0, hrf.length_s)
    # Most volumes of a run lie outside the response: each end is computed once.
    since, places = _ends_once(clipped, hrf.length_s)
    peak = gamma_distribution(
        since / hrf.peak_dispersion_s, hrf.peak_s / hrf.peak_dispersion_s
    )
    undershoot = gamma_distribution(
        since / hrf.undershoot_dispersion_s,
        hrf.undershoot_s / hrf.undershoot_dispersion_s,
    )
    ratio = hrf.undershoot_ratio
    response = (peak - ratio * undershoot) / (1.0 - ratio)
    return np.asarray(response[places], dtype=np.float64)


def _ends_once(
    clipped: Float64[np.ndarray, " times"], length_s: float
) -> tuple[Float64[np.ndarray, " distinct"], Int64[np.ndarray, " times"]]:
    """Return 0, the length and every time in between, and where each time is there."""
    inside = (clipped > 0.0) & (clipped < length_s)
    places = np.where(clipped > 0.0, 1, 0)
    places[inside] = 2 + np.arange(np.count_nonzero(inside))
    return np.concatenate(([0.0, length_s], clipped[inside])), places


def trial_regressor(
    onset_s: float,
    duration_s: float,
    tr_s: float,
    volumes: int,
    hrf: Hrf = CANONICAL,
    sample_s: float | None = None,
) -> Float64[np.ndarray, " volumes"]:
    """Return the expected response to one stimulus as each volume samples it.

    The boxcar from `onset_s` to ``onset_s + duration_s``, convolved with the response:
    the step response minus the same step a duration later.

    Args:
        onset_s: After the start of the run; may lie outside it.
        duration_s: How long the stimulus is shown, positive.
        tr_s: Repetition time.
        volumes: Length of the run as announced.
        hrf: The response to an impulse.
        sample_s: Instant within each volume's acquisition, from its start, such as the
            time of a slice; None: its middle.

    Returns:
        Exactly zero at volumes whose instant is at or before the onset, or later than
        the stimulus' end by the length of the response.

    Raises:
        ConfigError: A duration is not positive, or the onset is not finite.
    """
    require_positive("duration_s", duration_s)
    require_positive("volumes", volumes)
    is_finite = is_number(onset_s) and math.isfinite(onset_s)
    if not (is_finite and abs(onset_s) < _FAR_S):
        raise ConfigError(
            f"onset_s: expected seconds after the run's start, found {shown(onset_s)}"
        )
    if sample_s is None:
        times_s = middles_s(volumes, tr_s) - onset_s
    else:
        starts_s = np.arange(volumes, dtype=np.float64) * tr_s
        times_s = starts_s + sample_s - onset_s
    both_s = np.concatenate((times_s, times_s - duration_s))
    risen, fallen = np.split(step_response(both_s, hrf), 2)
    return np.asarray(risen - fallen, dtype=np.float64)
