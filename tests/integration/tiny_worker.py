"""A worker with a tiny decoder, as a supervisor starts it: setup file and name.

The standby takes as long to load as the file is missing that its environment names.
"""

import os
import sys
import time
from pathlib import Path

import msgspec

from bci_bridge.settings import WORKERS
from bci_bridge.setup import Setup
from bci_bridge.worker_part import run_worker
from tests.integration.tiny import MeanDecoder

WAITS_FOR = os.environ.get("STANDBY_WAITS_FOR", "")


def loaded(_: object) -> MeanDecoder:
    """Load, which takes time."""
    while sys.argv[2] != WORKERS[0] and WAITS_FOR and not Path(WAITS_FOR).exists():
        time.sleep(0.02)
    return MeanDecoder()


setup = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Setup)
run_worker(setup, sys.argv[2], loaded)
