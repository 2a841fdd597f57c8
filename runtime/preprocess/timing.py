"""The one statement of when a volume happened and when a trial is due.

Time 0 is the start of acquisition of volume 0. Volume ``i`` covers
``[i * tr_s, (i + 1) * tr_s)``; it stands for its middle, where regressors are sampled.
It exists, for a decision, only once its acquisition has ended, at ``(i + 1) * tr_s``.

Pure: durations since the start of the run, never a clock.
"""

import math

import numpy as np

from runtime.arrays import Float64, is_number
from runtime.errors import ConfigError
from runtime.given import shown

# Sums such as .1 + .2 miss the end of a volume by rounding; a billionth of a volume is
# far below any clock's resolution and far above float64's rounding over a run.
_ROUNDING_VOLUMES = 1e-9


def middle_s(volume_index: int, tr_s: float) -> float:
    """Return the middle of a volume's acquisition, seconds after the run's start."""
    return (volume_index + 0.5) * tr_s


def end_s(volume_index: int, tr_s: float) -> float:
    """Return the end of a volume's acquisition, seconds after the run's start."""
    return (volume_index + 1) * tr_s


def middles_s(volumes: int, tr_s: float) -> Float64[np.ndarray, " volumes"]:
    """Return the middles of the first `volumes` volumes of a run, in seconds."""
    require_positive("tr_s", tr_s)
    return (np.arange(volumes, dtype=np.float64) + 0.5) * tr_s


def decision_volume(onset_s: float, decision_delay_s: float, tr_s: float) -> int:
    """Return the first volume whose end is at least the delay after the onset.

    Args:
        onset_s: Stimulus onset after the start of the run; may be negative.
        decision_delay_s: Time that the estimator waits, as the bundle states it.
        tr_s: Repetition time.

    Returns:
        The smallest ``i >= 0`` with ``(i + 1) * tr_s >= onset_s + decision_delay_s``.

    Raises:
        ConfigError: `tr_s` is not positive.
    """
    require_positive("tr_s", tr_s)
    due_volumes = (onset_s + decision_delay_s) / tr_s
    return max(0, math.ceil(due_volumes - _ROUNDING_VOLUMES) - 1)


def require_positive(name: str, value: float | int) -> None:
    """Refuse a duration or count that is not a positive finite number.

    Raises:
        ConfigError: It is zero, negative, infinite or no number.
    """
    if not (is_number(value) and math.isfinite(value) and value > 0):
        raise ConfigError(f"{name}: expected a positive number, found {shown(value)}")
