"""A supervised server with a health page, as a program: folder and address of health.

It says a line once it is ready, and ends with a line when it is told to.
"""

import sys

import msgspec

from bci_bridge.settings import ServeConfig
from bci_bridge.signals import stop_on_signals
from bci_bridge.supervisor import serve_supervised

config = ServeConfig(
    address="tcp://127.0.0.1:*", recording=sys.argv[1], health=sys.argv[2], free_mb=0
)
worker = [sys.executable, "-m", "tests.integration.tiny_worker"]


def say(value: object) -> None:
    """Say a line of JSON."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


with stop_on_signals() as stop:
    say(serve_supervised(config, worker, stop, say))
