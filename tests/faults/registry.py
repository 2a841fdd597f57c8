"""Which faults there are: one line each, the module that holds it as `FAULT`.

Modules are imported when they are asked for, so that one fault's libraries do not slow
another, and a new family is a file and a line here.
"""

import importlib

from tests.faults.result import Fault

MODULES: dict[str, str] = {
    "recording-cut": "tests.faults.recording_cut",
    "recording-flip": "tests.faults.recording_flip",
    "fuzz": "tests.faults.fuzz",
    "fuzz-socket": "tests.faults.fuzz_socket",
    "bundles": "tests.faults.bundles",
    "sessions": "tests.faults.sessions",
    "kill": "tests.faults.kill",
    "soak": "tests.faults.soak",
    "deadline": "tests.faults.deadline",
    "hostile": "tests.faults.hostile",
    "memory": "tests.faults.memory",
    "network": "tests.faults.network",
    "replays": "tests.faults.replays",
}


def load(name: str) -> Fault:
    """Import a fault by its name."""
    fault: Fault = importlib.import_module(MODULES[name]).FAULT
    if fault.name != name:
        raise ValueError(f"{MODULES[name]}: expected {name}, found {fault.name}")
    return fault
