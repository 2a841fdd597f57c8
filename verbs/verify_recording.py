"""`neuroflow verify-recording`: is a recording what its server finished?"""

import sys
from pathlib import Path

import msgspec

from bci_bridge.chain_file import Checked, check_chain
from bci_bridge.chain_signature import (
    RecordingSignature,
    added_later,
    contradiction,
    require_trusted,
)
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.recording_signature import read_signature
from bci_bridge.spilt import Spilt, spilt_of
from runtime.errors import RecordingError
from runtime.signing import Signer
from runtime.signing_keys import read_trust


def verify_recording(
    recording: Path, *, trust: tuple[Path, ...], as_json: bool
) -> None:
    """Print what each log's chain vouches for, and who vouches for the chains.

    Args:
        recording: The folder that `serve --log` wrote.
        trust: Public keys, one of which must have signed all of it.
        as_json: Print JSON.

    Raises:
        RecordingError: A segment does not fit the chain, there is no chain, or the
            recording is not what was signed, or not by whom it must be.
        ArtifactError: A public key is missing, damaged, or others could change it.
    """
    trusted = read_trust(trust) if trust else None
    spilt = spilt_of(recording)
    for told in spilt.told():
        print(f"neuroflow: {told}", file=sys.stderr)
    # The signature first: what is signed meanwhile is only one too old.
    signed = read_signature(recording)
    found: dict[str, Checked] = {}
    for log in (INPUTS, OUTCOMES):
        found[log] = checked = check_chain(recording / log)
        if checked.trouble:
            raise RecordingError(f"{recording}: {log}: {checked.trouble}")
    later = _added_later(spilt, signed, found)
    try:
        signer = require_trusted(signed, later, trusted)
    except RecordingError as error:
        raise RecordingError(f"{recording}: {error}") from error
    if as_json:
        print(msgspec.json.encode(_result(found, signer, later)).decode())
        return
    for log, checked in found.items():
        print(f"{log}: {checked.segments} segments as chained, head {checked.head}")
        for name in checked.unchained:
            print(f"{log}: {name} not chained: still written, or its server was killed")
    print(f"signature: {signer or 'none'}")
    for log, names in later.items():
        for name in names:
            print(f"signature: {log}: {name} not signed: added or recorded afterwards")


def _added_later(
    spilt: Spilt, signed: RecordingSignature | None, found: dict[str, Checked]
) -> dict[str, tuple[str, ...]]:
    if signed is None:
        return {}
    chains = {log: checked.chain for log, checked in found.items()}
    if trouble := contradiction(signed, chains):
        raise RecordingError(
            f"{spilt.recording}: {trouble}. It was changed after it was signed."
        )
    unchained = {
        log: (*checked.unchained, *map(str, spilt.segments[log]))
        for log, checked in found.items()
    }
    return added_later(signed, chains, unchained)


def _result(
    found: dict[str, Checked], signer: Signer | None, later: dict[str, tuple[str, ...]]
) -> dict[str, object]:
    logs: dict[str, object] = {
        log: {
            "segments": checked.segments,
            "head": checked.head,
            "unchained": checked.unchained,
        }
        for log, checked in found.items()
    }
    signature = None
    if signer is not None:
        signature = {
            "public_key": signer.public_key,
            "name": signer.name,
            "unsigned": later,
        }
    return {**logs, "signature": signature}
