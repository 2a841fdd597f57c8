"""The wire as this client speaks it: two frames, msgpack header, payload, CRC-32."""

import zlib
from collections.abc import Sequence
from typing import Any, Optional

import msgspec
import safetensors.numpy
from safetensors import SafetensorError

from neuroflow_client.errors import ProtocolError
from neuroflow_client.outcomes import KINDS, Arrays, Outcome

VERSION = 1


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What any message of the server may say about itself and its surroundings."""

    kind: str
    version: int = VERSION
    run: str = ""
    nbytes: int = 0
    outcome_index: Optional[int] = None
    outcome_count: int = 0
    next_index: int = 0
    has_ended: bool = False
    is_known: bool = True
    run_before: Optional[str] = None
    """None from a server that does not say."""
    publish: str = ""
    replay: str = ""
    reason: str = ""
    detail: str = ""
    sequence: int = 0
    sent_ns: int = 0
    crit: tuple[str, ...] = ()


class Frames(msgspec.Struct, frozen=True, kw_only=True):
    """One message: what it says, and its two frames."""

    said: Said
    header: bytes
    payload: bytes


_SAID = msgspec.msgpack.Decoder(tuple[Said, bytes])
_OUTCOMES: "dict[str, Any]" = {
    kind: msgspec.msgpack.Decoder(tuple[outcome, bytes])  # type: ignore[valid-type]
    for kind, outcome in KINDS.items()
}


def frames_from(parts: Sequence[bytes]) -> Frames:
    """Read and check the frames of one message.

    Raises:
        ProtocolError: If they are not a message.
    """
    if len(parts) != 2:
        raise ProtocolError(f"message: expected 2 frames, found {len(parts)}")
    header, payload = parts
    said = _decoded(_SAID, header)
    if said.version != VERSION:
        raise ProtocolError(
            f"message: expected version {VERSION}, found {said.version}. "
            "Install the client that belongs to the server"
        )
    crc = zlib.crc32(payload, zlib.crc32(header[:-4]))
    if len(payload) != said.nbytes or crc.to_bytes(4, "little") != header[-4:]:
        raise ProtocolError("message: expected its length and CRC, found others")
    return Frames(said=said, header=header, payload=payload)


def outcome_from(frames: Frames) -> Optional[Outcome]:
    """Decode an outcome with its arrays; None for a kind that is not known here.

    Raises:
        ProtocolError: If a known kind lacks what it must say.
    """
    decoder = _OUTCOMES.get(frames.said.kind)
    if decoder is None:
        return None
    outcome = _decoded(decoder, frames.header)
    unknown = set(frames.said.crit) - set(outcome.__struct_fields__)
    if unknown:
        raise ProtocolError(
            f"{frames.said.kind}: expected known fields, found {sorted(unknown)}. "
            "Install a newer client"
        )
    arrays: Arrays = {}
    if frames.payload:
        try:
            arrays = safetensors.numpy.load(frames.payload)
        except (SafetensorError, KeyError, ValueError) as error:
            raise ProtocolError(f"arrays: {error}") from error
    replaced = msgspec.structs.replace(outcome, arrays=arrays)
    return replaced if isinstance(replaced, Outcome) else None


def request(kind: str, **fields: Any) -> list[bytes]:
    """Build the frames of a message without payload."""
    record = {"kind": kind, "version": VERSION, "nbytes": 0, **fields}
    body = b"\x92" + msgspec.msgpack.encode(record) + b"\xc4\x04"
    return [body + zlib.crc32(body).to_bytes(4, "little"), b""]


def _decoded(decoder: Any, header: bytes) -> Any:
    try:
        value, _crc = decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"header: {error}") from error
    return value
