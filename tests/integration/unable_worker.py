"""A worker whose model is not there, as a supervisor starts it."""

import sys
from pathlib import Path

import msgspec

from bci_bridge.setup import Setup
from bci_bridge.worker_part import run_worker
from runtime.errors import BundleError, NeuroFlowError


def unable(_: object) -> None:
    """Fail as a missing bundle does."""
    raise BundleError("bundle: expected a folder with manifest.json, found none")


setup = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Setup)
try:
    run_worker(setup, sys.argv[2], unable)
except NeuroFlowError as error:
    sys.exit(error.exit_status)
