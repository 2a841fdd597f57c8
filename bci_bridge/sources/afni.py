"""AFNI's real-time plugin as sender: registered voxels of each TR, without a geometry.

AFNI connects to ``AFNI_REALTIME_MP_HOST_PORT``, says hello with a version, and for each
TR six motion parameters and the voxels that ``AFNI_REALTIME_Mask_Vals`` chooses:
``All_Data_light`` their values, ``All_Data`` eight numbers each (index, i, j, k, x, y,
z, value). All is 32 bits wide, in the sender's byte order. Where the voxels lie the
operator says with a grid, a NIfTI file of what AFNI holds; of the heavy form, which
tells coordinates, that is checked. Pure: no socket, no file.
"""

import math
import struct
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from bci_bridge.header import MAX_PAYLOAD_BYTES
from bci_bridge.sources.conversation import Conversation, NewConversation
from bci_bridge.sources.source import Arrival, SeriesEnded
from bci_bridge.sources.volume import Geometry, ScannedVolume, to_ras
from runtime.arrays import Bool, Float32, Float64
from runtime.errors import ScanError

DEFAULT_PORT: Final = 53214
_HELLO: Final = bytes((0xAB, 0xCD, 0xEF))
_GOODBYE: Final = bytes((0xDE, 0xAD, 0xDE, 0xAD))
_FIRST_VERSION: Final = 0xAB
_MODES: Final = (
    "Motion_Only",
    "ROI_means",
    "All_Data",
    "All_Data_light",
    "ROIs_and_data",
)
_HEAVY, _LIGHT = 2, 3
_PER_VOXEL: Final = {_HEAVY: 8, _LIGHT: 1}
_MOTION_BYTES: Final = 24
_TOLERANCE_MM: Final = 0.1
"""Coordinates come as float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where AFNI's voxels lie."""

    affine: Float64[np.ndarray, "4 4"]
    """Indices to RAS+ millimetres."""
    mask: Bool[np.ndarray, "x y z"] = field(repr=False)
    """Where the file is not 0: the voxels, where AFNI sends a mask's only."""


def afni(grid: Grid) -> NewConversation:
    """Hear what AFNI sends of a grid."""

    def begin(name: str, arrivals: list[Arrival]) -> Conversation:
        return _conversation(grid, name, arrivals)

    return begin


def _conversation(grid: Grid, name: str, arrivals: list[Arrival]) -> Conversation:
    hello = yield 4
    mode = hello[3] - _FIRST_VERSION
    if hello[:3] != _HELLO or not 0 <= mode < len(_MODES):
        raise ScanError("expected AFNI's hello, found none")
    if mode not in _PER_VOXEL:
        raise ScanError(
            "expected AFNI_REALTIME_Mask_Vals All_Data_light or All_Data, "
            f"found {_MODES[mode]}"
        )
    count_bytes = yield 4
    order, count = _ordered(count_bytes)
    places = _places(grid, count)
    n_bytes = 4 * count * _PER_VOXEL[mode]
    if n_bytes > 8 * MAX_PAYLOAD_BYTES:
        raise ScanError(f"expected up to {8 * MAX_PAYLOAD_BYTES >> 20} MiB, found more")
    number = 0
    try:
        while (begin := (yield 4)) != _GOODBYE:
            yield _MOTION_BYTES - len(begin)
            values = np.frombuffer((yield n_bytes), f"{order}f4")
            if mode == _HEAVY:
                table = values.reshape(count, 8)
                if number == 0:
                    _check_places(grid, places, table)
                values = table[:, 7]
            arrivals.append(_volume(grid, places, values, name, number))
            number += 1
    except EOFError:
        arrivals.append(SeriesEnded(name, is_aborted=True))
        return
    arrivals.append(SeriesEnded(name))


def _ordered(count: bytes) -> tuple[str, int]:
    """Read a count in the byte order in which it is plausible."""
    (little,), (big,) = struct.unpack("<i", count), struct.unpack(">i", count)
    plausible = [
        (order, found)
        for order, found in (("<", little), (">", big))
        if 1 <= found <= MAX_PAYLOAD_BYTES
    ]
    if not plausible:
        raise ScanError(f"expected a number of voxels, found {little}")
    return min(plausible, key=lambda found: found[1])


def _places(grid: Grid, count: int) -> Float64[np.ndarray, "voxels 3"]:
    """List the voxels' indices in AFNI's order: the first index runs fastest."""
    n_all, n_masked = grid.mask.size, int(grid.mask.sum())
    if count not in (n_all, n_masked):
        raise ScanError(
            f"expected {n_all} voxels as in the grid of --like, or the {n_masked} that "
            f"are not 0 there, found {count}"
        )
    chosen = grid.mask if count != n_all else np.ones_like(grid.mask)
    return np.argwhere(chosen.transpose(2, 1, 0))[:, ::-1].astype(np.float64)


def _check_places(
    grid: Grid,
    places: Float64[np.ndarray, "voxels 3"],
    table: Float32[np.ndarray, "voxels 8"],
) -> None:
    """Compare the grid's coordinates with those that the heavy form tells."""
    mm = places @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    # AFNI's x and y run to the left and to the back.
    far_mm = np.abs(mm * [-1.0, -1.0, 1.0] - table[:, 4:7]).max()
    if not far_mm <= _TOLERANCE_MM:
        raise ScanError(
            "expected voxels where the grid of --like has them, found some "
            f"{far_mm:.3g} mm away"
        )


def _volume(
    grid: Grid,
    places: Float64[np.ndarray, "voxels 3"],
    values: Float32[np.ndarray, " voxels"],
    series: str,
    number: int,
) -> ScannedVolume:
    stored = np.zeros(grid.mask.shape, np.float32)
    i, j, k = places.T.astype(np.intp)
    stored[i, j, k] = values
    voxels, affine, old_of = to_ras(stored, grid.affine)
    x, y, z = voxels.shape
    geometry = Geometry((x, y, z), affine, math.nan, None, old_of.index(2))
    return ScannedVolume(series, number, voxels, geometry)
