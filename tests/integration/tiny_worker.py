"""A worker with a tiny decoder, as a supervisor starts it: setup file and name."""

import sys
from pathlib import Path

import msgspec

from bci_bridge.setup import Setup
from bci_bridge.worker_part import run_worker
from tests.integration.tiny import MeanDecoder

setup = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Setup)
run_worker(setup, sys.argv[2], lambda _: MeanDecoder())
