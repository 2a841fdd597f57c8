"""`neuroflow verify-recording`: is a recording what its server finished?"""

from pathlib import Path

import msgspec

from bci_bridge.chain_file import Checked, check_chain
from bci_bridge.places import INPUTS, OUTCOMES
from runtime.errors import RecordingError


def verify_recording(recording: Path, *, as_json: bool) -> None:
    """Print what each log's chain vouches for.

    Raises:
        RecordingError: A segment does not fit the chain, or there is no chain.
    """
    found: dict[str, Checked] = {}
    for log in (INPUTS, OUTCOMES):
        found[log] = checked = check_chain(recording / log)
        if checked.trouble:
            raise RecordingError(f"{recording}: {log}: {checked.trouble}")
    if as_json:
        result = {
            log: {
                "segments": checked.segments,
                "head": checked.head,
                "unchained": checked.unchained,
            }
            for log, checked in found.items()
        }
        print(msgspec.json.encode(result).decode())
        return
    for log, checked in found.items():
        print(f"{log}: {checked.segments} segments as chained, head {checked.head}")
        for name in checked.unchained:
            print(f"{log}: {name} not chained: still written, or its server was killed")
