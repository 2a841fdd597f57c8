"""ISMRMRD (MRD) images over TCP, as FIRE, Gadgetron and their clients send them.

Messages are a number of 16 bits and a body, little-endian. Images are taken, the
header's XML tells the TR and the number of slices; texts, configurations and waveforms
are passed over; raw data are refused: let the scanner's reconstruction send images.

An image is a volume (its third side above 1), or a slice of one: then its ``slice`` and
``repetition`` say which. Its position is that of its centre, as the standard has it, or
of its first voxel, as programs that came from DICOM write it: the operator says which.
Pure: no socket.
"""

import math
import re
import struct
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from bci_bridge.header import MAX_PAYLOAD_BYTES, MAX_SIDE
from bci_bridge.sources.conversation import Conversation, NewConversation
from bci_bridge.sources.source import Arrival, Refused, SeriesEnded
from bci_bridge.sources.volume import Geometry, ScannedVolume, to_ras
from bci_bridge.sources.voxels import to_wire
from runtime.arrays import Float64, Shaped
from runtime.errors import ScanError

DEFAULT_PORT: Final = 9002
Position = Literal["centre", "corner"]

_CONFIG_FILE, _CONFIG_TEXT, _METADATA, _CLOSE, _TEXT = 1, 2, 3, 4, 5
_ACQUISITION, _IMAGE, _WAVEFORM = 1008, 1022, 1026
_CONFIG_FILE_BYTES: Final = 1024
_MAX_TEXT_BYTES: Final = 16 << 20
_IMAGE_HEADER_BYTES: Final = 198
_WAVEFORM_HEADER_BYTES: Final = 40
_DTYPES: Final = {1: "<u2", 2: "<i2", 3: "<u4", 4: "<i4", 5: "<f4", 6: "<f8"}
_MAGNITUDE: Final = (0, 1)
_TICK_S: Final = 0.0025
"""Of the time stamp; since midnight."""
_LPS_TO_RAS: Final = np.diag([-1.0, -1.0, 1.0])


def mrd(position: Position = "centre") -> NewConversation:
    """Hear a client of an MRD server."""

    def begin(name: str, arrivals: list[Arrival]) -> Conversation:
        return _conversation(_Scan(name, position), arrivals)

    return begin


def _conversation(scan: "_Scan", arrivals: list[Arrival]) -> Conversation:
    try:
        while True:
            (kind,) = struct.unpack("<H", (yield 2))
            if kind == _CONFIG_FILE:
                yield _CONFIG_FILE_BYTES
            elif kind in (_CONFIG_TEXT, _METADATA, _TEXT):
                (length,) = struct.unpack("<I", (yield 4))
                if length > _MAX_TEXT_BYTES:
                    raise ScanError(
                        f"expected texts of up to {_MAX_TEXT_BYTES >> 20} MiB, "
                        f"found {length} bytes"
                    )
                text = yield length
                if kind == _METADATA:
                    scan.learn(text)
            elif kind == _WAVEFORM:
                header = yield _WAVEFORM_HEADER_BYTES
                samples, channels = struct.unpack_from("<HH", header, 28)
                yield 4 * samples * channels
            elif kind == _IMAGE:
                header = yield _IMAGE_HEADER_BYTES
                (n_attributes,) = struct.unpack("<Q", (yield 8))
                if n_attributes > _MAX_TEXT_BYTES:
                    raise ScanError("expected attributes of up to 16 MiB, found more")
                yield n_attributes
                image = _Image(header)
                arrivals.extend(scan.take(image, (yield image.n_bytes)))
            elif kind == _CLOSE:
                arrivals.append(SeriesEnded(scan.series))
                yield struct.pack("<H", _CLOSE)
                return
            elif kind == _ACQUISITION:
                raise ScanError(
                    "expected images, found raw data. Let the reconstruction send "
                    "images to this port"
                )
            else:
                raise ScanError(f"expected a message of MRD, found number {kind}")
    except EOFError:
        arrivals.append(SeriesEnded(scan.series, is_aborted=True))


class _Image:
    """The header of an image."""

    def __init__(self, header: bytes) -> None:
        """Read it.

        Raises:
            ScanError: It is of a size or kind that is not sent.
        """
        (dtype,) = struct.unpack_from("<H", header, 2)
        self.measurement, *matrix = struct.unpack_from("<I3H", header, 12)
        self.columns, self.rows, self.slices = matrix
        if dtype not in _DTYPES:
            raise ScanError(
                f"expected real images of data type 1 to 6, found {dtype}. "
                "Send magnitudes"
            )
        if not all(1 <= side <= MAX_SIDE for side in matrix):
            raise ScanError(f"expected sides of 1 to {MAX_SIDE}, found {matrix}")
        self.dtype = np.dtype(_DTYPES[dtype])
        self.view_mm = np.array(struct.unpack_from("<3f", header, 22), np.float64)
        (self.channels,) = struct.unpack_from("<H", header, 34)
        self.n_bytes = math.prod(matrix) * max(1, self.channels) * self.dtype.itemsize
        if self.n_bytes > 2 * MAX_PAYLOAD_BYTES:
            raise ScanError("expected images of up to 512 MiB, found more")
        vectors = np.array(struct.unpack_from("<12f", header, 36), np.float64)
        self.position_mm = vectors[:3]
        self.directions = vectors[3:].reshape(3, 3).T
        _, self.slice, self.contrast, _, self.repetition, self.set = struct.unpack_from(
            "<6H", header, 96
        )
        (self.stamp,) = struct.unpack_from("<I", header, 108)
        self.kind, _, self.image_series = struct.unpack_from("<3H", header, 124)


@dataclass(slots=True)
class _Scan:
    """One connection's measurement."""

    name: str
    position: Position
    series: str = ""
    tr_s: float = math.nan
    n_slices: int = 1
    image_series: int | None = None
    slices: dict[int, dict[int, tuple[_Image, Shaped[np.ndarray, "x y"]]]] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        self.series = self.name

    def learn(self, xml: bytes) -> None:
        """Find the TR and the number of slices; the XML is not parsed."""
        found = re.search(rb"<TR>\s*([0-9.eE+-]{1,20})\s*</TR>", xml)
        if found is not None:
            try:
                tr_ms = float(found[1])
            except ValueError:
                tr_ms = math.nan
            self.tr_s = tr_ms / 1000 if tr_ms > 0 else math.nan
        found = re.search(
            rb"<slice>\s*<minimum>\s*\d{1,4}\s*</minimum>\s*<maximum>\s*(\d{1,4})", xml
        )
        if found is not None:
            self.n_slices = min(int(found[1]), MAX_SIDE - 1) + 1

    def take(self, image: _Image, data: bytes) -> list[Arrival]:
        """Take an image; return the volume that it completes."""
        if image.channels > 1:
            return [self._refused("one channel", f"{image.channels}")]
        if image.kind not in _MAGNITUDE or image.contrast or image.set:
            return []  # phase, further echoes: not what is decoded
        if self.image_series is None:
            self.image_series = image.image_series
        if image.image_series != self.image_series:
            return []  # maps, or the scanner's own copy after motion correction
        stored = np.frombuffer(data, image.dtype).reshape(
            image.slices, image.rows, image.columns
        )
        stored = stored.transpose(2, 1, 0)
        if image.slices > 1 or self.n_slices == 1:
            return [self._volume(image, stored, image)]
        if image.slice >= self.n_slices:
            return [self._refused(f"slices 0 to {self.n_slices - 1}", f"{image.slice}")]
        held = self.slices.setdefault(image.repetition, {})
        held[image.slice] = image, stored[:, :, 0]
        arrivals: list[Arrival] = []
        if len(held) == self.n_slices:
            del self.slices[image.repetition]
            arrivals.append(self._stacked(held))
        if len(self.slices) > 2:
            # Of so many at once the oldest will not be completed.
            lost = min(self.slices)
            found = len(self.slices.pop(lost))
            arrivals.append(self._refused(f"{self.n_slices} slices", f"{found}"))
        return arrivals

    def _stacked(
        self, held: dict[int, tuple[_Image, Shaped[np.ndarray, "x y"]]]
    ) -> Arrival:
        order = sorted(held)
        first, last = held[order[0]][0], held[order[-1]][0]
        planes = [held[place][1] for place in order]
        if any(plane.shape != planes[0].shape for plane in planes):
            return self._refused("slices of one size", "several")
        return self._volume(first, np.stack(planes, axis=-1), last)

    def _volume(
        self, first: _Image, stored: Shaped[np.ndarray, "x y z"], last: _Image
    ) -> Arrival:
        try:
            affine = self._affine(first, last, stored.shape[2])
            voxels, turned, old_of = to_ras(stored, affine)
            sent = to_wire(voxels)
        except ScanError as error:
            return Refused("an MRD image", str(error))
        x, y, z = voxels.shape
        geometry = Geometry((x, y, z), turned, self.tr_s, None, old_of.index(2))
        acquired_s = first.stamp * _TICK_S if first.stamp else None
        return ScannedVolume(self.series, first.repetition, sent, geometry, acquired_s)

    def _affine(
        self, first: _Image, last: _Image, n_slices: int
    ) -> Float64[np.ndarray, "4 4"]:
        sides = np.array([first.columns, first.rows, first.slices], np.float64)
        steps = first.directions * (first.view_mm / sides)
        first_mm = first.position_mm.copy()
        if first.slices == 1 and n_slices > 1:
            steps[:, 2] = (last.position_mm - first.position_mm) / (n_slices - 1)
            sides[2] = 1.0
        if self.position == "centre":
            first_mm -= steps @ ((sides - 1) / 2)
        affine = np.eye(4)
        affine[:3, :3] = _LPS_TO_RAS @ steps
        affine[:3, 3] = _LPS_TO_RAS @ first_mm
        return affine

    def _refused(self, expected: str, found: str) -> Refused:
        return Refused("an MRD image", f"expected {expected}, found {found}")
