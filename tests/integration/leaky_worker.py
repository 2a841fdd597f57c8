"""A worker that keeps 8 MiB of every volume that it answers, as a supervisor starts it.

One that catches up keeps nothing, so that who comes after a large one is small.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bci_bridge.setup import Setup
from bci_bridge.worker_part import run_worker
from tests.integration.tiny import MeanDecoder


class LeakyDecoder(MeanDecoder):
    """Takes the mean of a volume and a piece of memory for good."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[bytearray] = []

    def add_volume(
        self,
        volume_index: int,
        volume: np.ndarray[Any, Any],
        *,
        is_wanted: bool = True,
    ) -> Any:
        """Answer, and keep."""
        if is_wanted:
            self._kept.append(bytearray(b"x" * (8 << 20)))
        return super().add_volume(volume_index, volume, is_wanted=is_wanted)


setup = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Setup)
run_worker(setup, sys.argv[2], lambda _: LeakyDecoder())
