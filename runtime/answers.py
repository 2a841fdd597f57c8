"""What the decoder says about a volume or a trial, before it is put on a wire.

Plain values: no arrays are shared with the engine, so they stay valid for good.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from runtime.arrays import Float32, UInt8, is_number, is_whole
from runtime.errors import ConfigError
from runtime.given import shown

Decision = Literal["ANSWER", "ABSTAIN", "NO_STIMULUS", "WARMING"]
"""ANSWER gives candidates; ABSTAIN declines (the reason is in `Answer.reason`);
NO_STIMULUS: nothing was shown; WARMING: the run's causal baseline is not there yet, or
too little of the trial's response was measured."""

LONGEST_RUN_S: Final = 6 * 3600.0
"""No scan lasts as long; its drift has 337 columns at the usual cut-off of 128 s."""
MOST_VOLUMES: Final = 100_000
"""Of a run."""


@dataclass(frozen=True, slots=True)
class RunGeometry:
    """What must be known of a run before its first volume."""

    run_id: str
    shape: tuple[int, int, int]
    """Voxels along x, y and z."""
    tr_s: float
    expected_volumes: int
    """Announced length; fixes the drift basis."""
    slice_times_s: tuple[float, ...] = ()
    """When each slice along z is acquired, after the start of its volume; empty where
    nobody knows."""
    affine: tuple[float, ...] | None = None
    """Voxel indices to millimetres, RAS+: 4 x 4 by rows; None where nobody knows."""

    def check(self) -> None:
        """Refuse a run that no decoder can begin.

        Raises:
            ConfigError: No length or repetition time, or a run of over six hours.
        """
        count, tr_s = self.expected_volumes, self.tr_s
        if not is_whole(count) or not 1 <= count <= MOST_VOLUMES:
            raise ConfigError(
                f"expected_volumes: expected 1 to {MOST_VOLUMES:,}, found "
                f"{shown(count)}"
            )
        if not (is_number(tr_s) and math.isfinite(tr_s) and tr_s > 0):
            raise ConfigError(f"tr_s: expected positive seconds, found {shown(tr_s)}")
        if count * tr_s > LONGEST_RUN_S:
            raise ConfigError(
                f"expected_volumes: expected a run of at most {LONGEST_RUN_S:,.0f} s, "
                f"found {count:,} volumes of {tr_s:g} s"
            )


@dataclass(frozen=True, slots=True)
class Trial:
    """One presentation of a stimulus."""

    trial_id: str
    onset_s: float
    """Onset after the start of acquisition of volume 0."""
    duration_s: float

    def check(self) -> None:
        """Refuse a trial that no answer could name.

        Raises:
            ConfigError: Its name is empty or no text.
        """
        if not (isinstance(self.trial_id, str) and self.trial_id):
            raise ConfigError(
                f"trial_id: expected a text that is not empty, found {self.trial_id!r}"
            )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One entry of the gallery with its score."""

    stimulus_id: str
    label: str
    cosine: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What was decided, and how sure it is."""

    decision: Decision
    label: str | None = None
    """Class of the best candidate; None unless the decision is ANSWER."""
    confidence: float | None = None
    """Calibrated probability that the best candidate is right; None without answer."""
    candidates: tuple[Candidate, ...] = ()
    """Best first."""
    reason: str | None = None
    """Why there is no answer."""


@dataclass(frozen=True, slots=True)
class VolumeReport:
    """The decoder's account of one volume."""

    volume_index: int
    answer: Answer | None
    """The decision for this volume; None where the bundle answers trials."""
    quality: Mapping[str, float]
    """Named measures, such as the count of voxels without a baseline."""
    stage_ns: Mapping[str, int]
    """Duration of each stage, by name."""
    degraded: tuple[str, ...] = ()
    """What of the computation was not as it should be, such as an engine that failed.
    """


@dataclass(frozen=True, slots=True)
class TrialReport:
    """The decoder's one final account of a trial."""

    trial_id: str
    answer: Answer
    delay_s: float
    """From the onset to the end of the last volume that was used."""
    first_volume: int
    """First volume of the run that the estimate could use."""
    last_volume: int
    """Last volume that it used; -1 where there was none."""
    volumes_used: int
    stage_ns: Mapping[str, int]
    z_v: Float32[np.ndarray, "tokens width"] | None = None
    image: UInt8[np.ndarray, "rows columns 3"] | None = None
    beta: Float32[np.ndarray, " voxels"] | None = None
    """Response estimate, percent signal, in the mask's order."""
    standard_error: Float32[np.ndarray, " voxels"] | None = None
    """Of `beta`, for white noise."""
    degraded: tuple[str, ...] = ()
    """What of the computation was not as it should be, such as an engine that failed.
    """
