"""A supervised server with a tiny decoder, as a process of its own that tells its pids.

Prints its endpoints as one line of JSON, then its process ids whenever they change, and
to the other stream what troubles it.
"""

import json
import sys

import msgspec

from bci_bridge.settings import ServeConfig
from bci_bridge.signals import stop_on_signals
from bci_bridge.supervisor import supervised
from runtime.errors import NeuroFlowError

WORKER = "tests.integration.tiny_worker"


def say(line: str) -> None:
    """Print a line that the test can read at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Print a line that is no answer."""
    sys.stderr.write(f"{line}\n")


def main() -> int:
    """Serve with the settings given as JSON, until told to stop."""
    config = msgspec.json.decode(sys.argv[1], type=ServeConfig)
    worker = [sys.executable, "-m", *(sys.argv[2:] or [WORKER])]
    try:
        with stop_on_signals() as stop, supervised(config, worker, complain) as server:
            endpoints = server.start(stop)
            say(msgspec.json.encode(endpoints).decode())
            told: dict[str, int] = {}
            trouble = ""
            is_over = stop()
            while not is_over:
                is_over = stop()
                if server.pids != told:
                    told = server.pids
                    say(json.dumps(told))
                if server.trouble != trouble:
                    trouble = server.trouble
                    complain(trouble)
                server.turn()
                for notice in server.notices():
                    complain(f"neuroflow: {notice}")
            say(msgspec.json.encode(server.stop()).decode())
    except NeuroFlowError as error:
        sys.stderr.write(f"neuroflow: {error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
