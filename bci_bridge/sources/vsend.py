"""MURFI: each image over a connection of its own, a struct of 616 bytes and int16.

The struct is that of `RtExternalImageInfo` version 4 as a C++ compiler lays it out on
x86-64, little-endian. Eight bytes may precede it (its own size and that of the data, as
MURFI's option ``scanner:preHeader`` has them). The matrix leads from voxel indices to
RAS+ millimetres: so MURFI uses it, and so its senders fill it. Pure: no socket.
"""

import math
import struct
from typing import Final

import numpy as np

from bci_bridge.header import MAX_PAYLOAD_BYTES, MAX_SIDE
from bci_bridge.sources.conversation import Conversation
from bci_bridge.sources.source import Arrival
from bci_bridge.sources.volume import Geometry, ScannedVolume, to_ras
from runtime.arrays import Int16, Shaped
from runtime.errors import ScanError

DEFAULT_PORT: Final = 15000
HEADER_BYTES: Final = 616
_MAGIC: Final = b"ERTI\0"
_VERSION: Final = 4


def vsend(name: str, arrivals: list[Arrival]) -> Conversation:
    """Hear one image."""
    del name
    begin = yield 8
    if not begin.startswith(_MAGIC):
        (size, _) = struct.unpack("<ii", begin)
        if size != HEADER_BYTES:
            raise ScanError("expected an image of MURFI's scanner protocol, found none")
        begin = yield 8
    header = begin + (yield HEADER_BYTES - 8)
    series, number, geometry, shape, is_mosaic = _parsed(header)
    columns, rows, slices = shape
    tiles = math.ceil(math.sqrt(slices)) if is_mosaic else 0
    n_voxels = columns * rows * (tiles * tiles if is_mosaic else slices)
    if 2 * n_voxels > MAX_PAYLOAD_BYTES:
        raise ScanError(f"expected up to {MAX_PAYLOAD_BYTES >> 20} MiB, found more")
    data = np.frombuffer((yield 2 * n_voxels), "<i2")
    stored = _tiled(data, shape, tiles) if is_mosaic else data.reshape(shape, order="F")
    voxels, affine, old_of = to_ras(stored, geometry.affine)
    x, y, z = voxels.shape
    turned = Geometry((x, y, z), affine, geometry.tr_s, None, old_of.index(2))
    arrivals.append(ScannedVolume(series, number, voxels, turned))


def _parsed(header: bytes) -> tuple[str, int, Geometry, tuple[int, int, int], bool]:
    (version,) = struct.unpack_from("<i", header, 8)
    if not header.startswith(_MAGIC) or version != _VERSION:
        raise ScanError(f"expected header version {_VERSION}, found {version}")
    kind = _text(header, 412, 16)
    if kind not in ("int16_t", "short"):
        raise ScanError(f"expected int16_t, found {kind[:16]!r}")
    if header[428] != 1:
        raise ScanError("expected little-endian voxels, found others")
    columns, rows, slices = struct.unpack_from("<iii", header, 464)
    if not all(1 <= side <= MAX_SIDE for side in (columns, rows, slices)):
        raise ScanError(
            f"expected sides of 1 to {MAX_SIDE}, found {[columns, rows, slices]}"
        )
    matrix = np.array(struct.unpack_from("<16f", header, 476), dtype=np.float64)
    tr_ms, _, current = struct.unpack_from("<iii", header, 540)
    if not 1 <= current <= 1_000_000:
        raise ScanError(f"expected images counted from 1, found {current}")
    shape = (columns, rows, slices)
    tr_s = tr_ms / 1000 if tr_ms > 0 else math.nan
    geometry = Geometry(shape, matrix.reshape(4, 4), tr_s)
    series = _text(header, 12, 64) or "murfi"
    return series, current - 1, geometry, shape, header[429] != 0


def _text(header: bytes, begin: int, length: int) -> str:
    text = header[begin : begin + length].split(b"\0", 1)[0]
    return text.decode("ascii", "replace")


def _tiled(
    data: Int16[np.ndarray, " voxels"], shape: tuple[int, int, int], tiles: int
) -> Shaped[np.ndarray, "x y z"]:
    """Take a square of tiles apart, the slices row by row."""
    columns, rows, slices = shape
    square = data.reshape(tiles, rows, tiles, columns)
    # Axes: row of tiles, row, column of tiles, column.
    stacked = square.transpose(0, 2, 1, 3).reshape(tiles * tiles, rows, columns)
    return stacked[:slices].transpose(2, 1, 0)
