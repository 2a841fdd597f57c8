"""What a Pyneal Scanner adapter says: a greeting, then volumes of two frames.

The first frame is JSON: `volIdx` from 0, `dtype`, `shape`, `affine` as JSON in a text,
`TR` as a text; other keys are left alone. The second is the voxels in C order, native
(little-endian) and in RAS+. Pure: no socket.

Three adapters tell TR in seconds; Pyneal's simulator tells milliseconds, and its
Philips adapter passes on whatever the PAR file holds. Numbers above 20 are taken as
milliseconds: no run has a TR of more than 20 s, or of less than 21 ms.
"""

import math
from typing import Annotated, Final, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from bci_bridge.header import MAX_PAYLOAD_BYTES, Shape
from bci_bridge.sources.volume import Geometry, ScannedVolume, to_ras
from bci_bridge.sources.voxels import to_wire
from runtime.errors import ScanError

MAX_GREETING_BYTES: Final = 256
MAX_HEADER_BYTES: Final = 64 << 10
MAX_VOXEL_BYTES: Final = 2 * MAX_PAYLOAD_BYTES
"""float64 is twice as long as what is sent of it."""
_LONGEST_S: Final = 20.0

_Row = tuple[float, float, float, float]
_Affine = tuple[_Row, _Row, _Row, _Row]


class _Header(msgspec.Struct, frozen=True):
    volIdx: Annotated[int, Meta(ge=0, le=1_000_000)]  # noqa: N815  # the adapters' word
    dtype: Literal[
        "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
        "float16", "float32", "float64",
    ]  # fmt: skip
    shape: Shape
    affine: str | _Affine
    TR: str | float


_HEADERS: Final = msgspec.json.Decoder(_Header)
_AFFINES: Final[msgspec.json.Decoder[_Affine]] = msgspec.json.Decoder(_Affine)
_T = TypeVar("_T")


def volume_of(frames: list[bytes], series: str) -> ScannedVolume:
    """Read one volume.

    Args:
        frames: Of one message.
        series: What to call its series.

    Raises:
        ScanError: It is no volume, or none that can be sent.
    """
    if len(frames) != 2:
        raise ScanError(f"expected two frames, found {len(frames)}")
    text, data = frames
    if len(text) > MAX_HEADER_BYTES:
        raise ScanError(
            f"expected a header of up to {MAX_HEADER_BYTES >> 10} KiB, found more"
        )
    header = _decoded(text, _HEADERS)
    dtype = np.dtype(header.dtype).newbyteorder("<")
    wanted = math.prod(header.shape) * dtype.itemsize
    if wanted > MAX_VOXEL_BYTES:
        raise ScanError(
            f"expected volumes of up to {MAX_VOXEL_BYTES >> 20} MiB, found more"
        )
    if len(data) != wanted:
        raise ScanError(
            f"expected {wanted} bytes for {list(header.shape)} of {header.dtype}, "
            f"found {len(data)}"
        )
    rows = header.affine
    if isinstance(rows, str):
        rows = _decoded(rows.encode(), _AFFINES)
    voxels = np.frombuffer(data, dtype).reshape(header.shape)
    turned, affine, _ = to_ras(voxels, np.array(rows, dtype=np.float64))
    x, y, z = turned.shape
    geometry = Geometry((x, y, z), affine, _tr_s(header.TR))
    return ScannedVolume(series, header.volIdx, to_wire(turned), geometry)


def _decoded(text: bytes, decoder: "msgspec.json.Decoder[_T]") -> _T:
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ScanError(
            f"expected a header of Pyneal Scanner, found {error}"
        ) from error


def _tr_s(said: str | float) -> float:
    try:
        value = float(said)
    except ValueError:
        return math.nan
    if not (math.isfinite(value) and value > 0):
        return math.nan
    return value / 1000 if value > _LONGEST_S else value
