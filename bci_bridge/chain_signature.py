"""The signature of a recording: who vouches for the chains of its logs, and how far.

One Ed25519 signature (RFC 8032) over the number of segments and the head of each log's
chain, from which everything up to there follows. Pure: bytes and values in and out.
`bci_bridge.recording_signature` reads and writes the file.

Source: RFC 8032, Edwards-Curve Digital Signature Algorithm, section 5.1.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from bci_bridge.chain import Chain, Sha256
from bci_bridge.places import INPUTS, OUTCOMES
from runtime.errors import ArtifactError, RecordingError
from runtime.signing import (
    Key,
    SignatureText,
    Signer,
    SigningKey,
    Trust,
    decoded,
    fits,
    named,
    signature_of,
)
from runtime.small_json import encoded

SIGNATURE: Final = "recording.sig"


class SignedLog(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One log's chain as it was signed."""

    segments: Annotated[int, Meta(ge=0, lt=1 << 53)]
    head: Sha256


class RecordingSignature(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `recording.sig` holds. No name: nothing would vouch for it."""

    version: Literal[1] = 1
    algorithm: Literal["ed25519"] = "ed25519"
    public_key: Key
    inputs: SignedLog
    outcomes: SignedLog
    signature: SignatureText

    @property
    def logs(self) -> dict[str, SignedLog]:
        """What is said of each log, by name."""
        return {INPUTS: self.inputs, OUTCOMES: self.outcomes}


def _statement(inputs: SignedLog, outcomes: SignedLog) -> bytes:
    # Named and in this order, so that no log can pass for the other; and its first
    # line, so that it is no manifest, which the same key may sign.
    text = "neuroflow recording signature 1\n"
    for name, log in ((INPUTS, inputs), (OUTCOMES, outcomes)):
        text += f"{name} {log.segments} {log.head}\n"
    return text.encode()


def sign_chains(chains: Mapping[str, Chain], key: SigningKey) -> bytes:
    """Return the content of `recording.sig` for both chains as they are."""
    inputs, outcomes = (
        SignedLog(segments=len(chains[name].links), head=chains[name].head)
        for name in (INPUTS, OUTCOMES)
    )
    return encoded(
        RecordingSignature(
            public_key=key.public_key,
            inputs=inputs,
            outcomes=outcomes,
            signature=signature_of(_statement(inputs, outcomes), key),
        )
    )


def signed_in(data: bytes) -> RecordingSignature:
    """Read `recording.sig`; what it says is then what its key has signed.

    Raises:
        RecordingError: It is damaged, or its signature does not fit.
    """
    try:
        found = decoded(data, RecordingSignature, SIGNATURE)
    except ArtifactError as error:
        raise RecordingError(str(error)) from error
    # One spelling only, so that no two files are one signature.
    is_plain = encoded(found) == data
    said = _statement(found.inputs, found.outcomes)
    if not (is_plain and fits(said, found.public_key, found.signature)):
        raise RecordingError(
            f"{SIGNATURE}: expected a signature that fits what it says, found another"
        )
    return found


def contradiction(signed: RecordingSignature, chains: Mapping[str, Chain]) -> str:
    """Say in what a recording is not what was signed; empty where it goes on from it.

    Args:
        signed: As `signed_in` gives it.
        chains: Of both logs, each of which holds in itself.
    """
    for name, log in signed.logs.items():
        n_found = len(chains[name].links)
        if n_found < log.segments:
            return (
                f"{name}: expected the {log.segments} segments that were signed, "
                f"found {n_found}"
            )
        head = chains[name].head_after(log.segments)
        if head != log.head:
            return (
                f"{name}: expected head {log.head} of {log.segments} segments "
                f"as signed, found {head}"
            )
    return ""


def added_later(
    signed: RecordingSignature,
    chains: Mapping[str, Chain],
    unchained: Mapping[str, tuple[str, ...]],
) -> dict[str, tuple[str, ...]]:
    """List by log the segments that the signature does not cover."""
    return {
        name: (
            *(link.segment for link in chains[name].links[log.segments :]),
            *unchained[name],
        )
        for name, log in signed.logs.items()
    }


def require_trusted(
    signed: RecordingSignature | None,
    later: Mapping[str, tuple[str, ...]],
    trust: Trust,
) -> Signer | None:
    """Say who signed.

    Args:
        signed: None where there is no signature.
        later: As `added_later` gives it.
        trust: Whose signature of all of the recording is demanded, if any.

    Raises:
        RecordingError: A signature is demanded and there is none, it is by another key,
            or it does not cover every segment.
    """
    signer = None if signed is None else named(signed.public_key, trust)
    if trust is None:
        return signer
    if signer is None or signer.name is None:
        names = ", ".join(key.name for key in trust) or "nobody"
        found = "none" if signer is None else f"one by key {signer.public_key[:16]}"
        raise RecordingError(f"expected a signature by {names}, found {found}")
    for name, segments in later.items():
        if segments:
            raise RecordingError(
                f"{name}: expected no segment that {signer.name} has not signed, found "
                f"{', '.join(segments)}. Added afterwards, or recorded unsigned."
            )
    return signer
