"""What a feed wants done: words to the server, and to the operator."""

from dataclasses import dataclass

import numpy as np

from bci_bridge.messages import RunStart
from runtime.arrays import Shaped


@dataclass(frozen=True, slots=True, eq=False)
class Begin:
    """Announce a run."""

    start: RunStart


@dataclass(frozen=True, slots=True, eq=False)
class SayVolume:
    """Send an acquisition."""

    index: int
    voxels: Shaped[np.ndarray, "x y z"]
    acquired_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class SayMissing:
    """Say that an acquisition will not come in time."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class End:
    """End the run under way."""

    count: int
    is_aborted: bool


@dataclass(frozen=True, slots=True, eq=False)
class Tell:
    """A line for the operator."""

    line: str


Action = Begin | SayVolume | SayMissing | End | Tell
