"""`recording.sig` beside the two logs: written when both are closed, read to check.

Signing takes the chains as their writers left them and reads no segment, so that the
end of a long session does not wait for its gigabytes: what does not fit the chains is
found by whoever checks, and no signature hides it.
"""

from pathlib import Path

from bci_bridge.chain import Chain
from bci_bridge.chain_file import chain_as_left
from bci_bridge.chain_signature import (
    SIGNATURE,
    RecordingSignature,
    contradiction,
    sign_chains,
    signed_in,
)
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.recorded_file import open_recorded
from runtime.errors import RecordingError
from runtime.private_file import replace_whole
from runtime.signing import MAX_KEY_BYTES, SigningKey


def read_signature(recording: Path) -> RecordingSignature | None:
    """Read what was signed of a recording; None where nothing was.

    Raises:
        RecordingError: The signature is damaged or does not fit what it says.
    """
    file = recording / SIGNATURE
    try:
        with open_recorded(file, str(file), may_be_link=False) as opened:
            data = opened.read(MAX_KEY_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordingError(
            f"{file}: expected a signature, found: {error.strerror}"
        ) from error
    try:
        return signed_in(data)
    except RecordingError as error:
        raise RecordingError(f"{recording}: {error}") from error


def check_goes_on(recording: Path) -> None:
    """Refuse a recording that is not what was signed, or what was recorded since.

    To be asked before it is gone on with: a new signature would vouch for all of it.

    Raises:
        RecordingError: A signature or a chain is damaged, or they do not fit.
    """
    _chains(recording, allow_unchained=True)


def sign_recording(recording: Path, key: SigningKey) -> int:
    """Sign both chains as their writers left them.

    Args:
        recording: The folder; nobody writes to it any more.
        key: The signer's.

    Returns:
        How many segments are signed; 0 where nothing was recorded, nor signed.

    Raises:
        RecordingError: A log has a segment that is not chained, a chain is damaged, or
            an earlier signature says otherwise.
        ArtifactError: The signature cannot be written.
    """
    chains = _chains(recording, allow_unchained=False)
    if count := sum(len(chain.links) for chain in chains.values()):
        replace_whole(recording / SIGNATURE, sign_chains(chains, key), 0o600)
    return count


def _chains(recording: Path, *, allow_unchained: bool) -> dict[str, Chain]:
    found = {log: chain_as_left(recording / log) for log in (INPUTS, OUTCOMES)}
    for log, left in found.items():
        if left.trouble:
            raise RecordingError(f"{recording}: {log}: {left.trouble}")
        if left.unchained and not allow_unchained:
            raise RecordingError(
                f"{recording}: {log}: expected all segments chained, found "
                f"{left.unchained[0]} without a link. Nothing is signed."
            )
    chains = {log: left.chain for log, left in found.items()}
    signed = read_signature(recording)
    if signed is not None and (trouble := contradiction(signed, chains)):
        raise RecordingError(
            f"{recording}: {trouble}. It was changed after it was signed."
        )
    return chains
