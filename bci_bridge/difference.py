"""What two outcomes, one on record and one computed again, differ in.

Pure. Fields are compared as the wire spells them, so that NaN equals NaN and -0.0 does
not equal 0.0; a field that is not named in `TIMES` is compared, a new one included. Of
a volume's quality, what the record measures is compared.
"""

import zlib
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from bci_bridge.arrays import arrays_from_bytes
from bci_bridge.header import Header
from bci_bridge.messages import kind_of
from bci_bridge.wire import Envelope
from runtime.errors import PeerError

TIMES: Final = frozenset(
    {
        "sent_ns",
        "received_ns",
        "decided_ns",
        "published_ns",
        "stage_ns",
        "clock_offset_ns",
        "clock_uncertainty_ns",
    }
)
"""Read from a clock: no two computations agree in them. `acquired_ns` is the sender's
and `deadline_ns` follows from it; both are compared."""

DISK: Final = "RECORDING_DEGRADED"
"""A reason that tells of the recording's disk, not of the answer."""

SHOWN_CHARACTERS: Final = 80


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that is not what the recording says."""

    run: str
    outcome_index: int
    """-1 where an input or a decision of the server is at fault."""
    field: str
    expected: str
    """As recorded; of an input, as the order of the log demands."""
    found: str
    """As computed again; of an input, as recorded."""

    def __str__(self) -> str:
        place = "log" if self.outcome_index < 0 else f"outcome {self.outcome_index}"
        return (
            f"{self.run}: {place}: {self.field}: expected {self.expected}, "
            f"found {self.found}"
        )


def differences(run: str, recorded: Envelope, found: Envelope) -> list[Difference]:
    """List the fields and arrays that differ, times excepted."""
    index = getattr(recorded.record, "outcome_index", -1)
    one, other = recorded.record, found.record
    if type(one) is not type(other):
        return [Difference(run, index, "kind", kind_of(one), kind_of(other))]
    listed = [
        Difference(run, index, name, _shown(wanted), _shown(value))
        for name in one.__struct_fields__
        if name not in TIMES
        for wanted, value in [_pair(one, other, name)]
        if _bits(wanted) != _bits(value)
    ]
    if recorded.payload != found.payload:
        wanted, given = _arrays(recorded.payload), _arrays(found.payload)
        names = [
            name
            for name in sorted(wanted.keys() | given.keys())
            if wanted.get(name) != given.get(name)
        ]
        listed += [
            Difference(
                run, index, name, wanted.get(name, "none"), given.get(name, "none")
            )
            for name in names or ["payload"]
        ]
    return listed


def _pair(one: Header, other: Header, name: str) -> tuple[Any, Any]:
    wanted, value = _comparable(one, name), _comparable(other, name)
    if name == "quality":
        # A record is not wrong about what its server did not measure.
        value = {measure: x for measure, x in value.items() if measure in wanted}
    return wanted, value


def _comparable(record: Header, name: str) -> Any:
    value = getattr(record, name)
    if name == "degraded":
        return tuple(reason for reason in value if reason != DISK)
    return value


def _bits(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def _shown(value: Any) -> str:
    text = repr(value)
    if len(text) <= SHOWN_CHARACTERS:
        return text
    # Long values differ somewhere in what is cut off: the CRC tells them apart.
    return f"{text[:SHOWN_CHARACTERS]}... (CRC {zlib.crc32(_bits(value)):08x})"


def _arrays(payload: bytes) -> dict[str, str]:
    try:
        arrays = arrays_from_bytes(payload)
    except PeerError:
        return {"payload": f"{len(payload)} bytes (CRC {zlib.crc32(payload):08x})"}
    return {
        name: f"{array.dtype} {list(array.shape)} "
        f"(CRC {zlib.crc32(array.tobytes()):08x})"
        for name, array in arrays.items()
    }
