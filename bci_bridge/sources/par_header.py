"""Philips' PAR file: what the images of its REC file are, and where they lie.

Text, one line for each image (one slice of one volume), in the columns of the export
tool's versions 4 to 4.2. Only what a volume needs is read; the lines with the patient
and the examination are never looked at. Pure: no file.

Geometry is that of the image lines. The general lines say the same in files of the
usual export tool, and nothing (zeros) in those of the real-time one.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from bci_bridge.header import MAX_PAYLOAD_BYTES, MAX_SIDE
from runtime.arrays import Float64
from runtime.errors import ScanError

MAX_IMAGES: Final = 1 << 20
_LONGEST_S: Final = 20.0
"""A repetition time beyond this is in milliseconds, as its name says; real-time tools
write seconds there."""
_NUMBERS: Final = re.compile(r"\.\s+(.{1,40}?)\s*:\s*(.*)")
_COLUMNS: Final = 31
_ACQUISITION, _DYNAMICS = "Acquisition nr", "Max. number of dynamics"
_SLICES, _TR = "Max. number of slices/locations", "Repetition time [ms]"
_TR_EARLIER: Final = "Repetition time [msec]"
_WANTED: Final = (_ACQUISITION, _DYNAMICS, _SLICES, _TR, _TR_EARLIER)
_PATIENT_TO_RAS: Final = np.array([[0.0, 0, -1], [-1, 0, 0], [0, 1, 0]])
"""Philips' patient axes run to the back, to the head and to the left."""
_IMAGE_TO_PATIENT: Final = {
    1: np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]),  # transverse
    2: np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]]),  # sagittal
    3: np.array([[0.0, 0, 1], [0, -1, 0], [1, 0, 0]]),  # coronal
}
"""Axes of an image (to the right, downwards, to the next slice) in patient axes."""


@dataclass(frozen=True, slots=True)
class ParImage:
    """One slice of one volume."""

    slice_number: int
    """From 1."""
    dynamic: int
    """From 1."""
    kind: int
    """0 magnitude, 3 phase; real-time tools number otherwise."""
    index: int
    """Place in the REC file, in images."""
    intercept: float
    slope: float
    scale_slope: float


@dataclass(frozen=True, slots=True, eq=False)
class ParHeader:
    """What a PAR file says."""

    acquisition: int
    """Number of the acquisition, from 1."""
    dynamics: int
    """How many the scan has, as the file says."""
    tr_s: float
    """NaN where it is not told."""
    bits: int
    rows: int
    columns: int
    images: tuple[ParImage, ...] = field(repr=False)
    """Those of the magnitude and of the first echo, in the file's order."""
    n_images: int
    """All in the REC file."""
    n_slices: int
    affine: Float64[np.ndarray, "4 4"] = field(repr=False)
    """Indices of column, row and slice to RAS+ millimetres."""

    @property
    def image_bytes(self) -> int:
        """Size of one image in the REC file."""
        return self.rows * self.columns * self.bits // 8


def read_par(text: str) -> ParHeader:
    """Read the text of a PAR file.

    Raises:
        EOFError: It is not whole: slices are missing.
        ScanError: It is another file, or of a kind that is not sent.
    """
    general, lines = _split(text)

    def said(name: str) -> int:
        return _whole(general.get(name, "1"))

    if not lines:
        raise EOFError("no line of an image")
    rows = [_values(line) for line in lines]
    head = rows[0]
    alike = (7, 9, 10, 22, 23, 25, 28, 29)
    if any(row[place] != head[place] for row in rows for place in alike):
        raise ScanError("expected images of one size and orientation, found several")
    # Magnitude is 0; where there is none, the lowest number is it.
    kind = min(row[4] for row in rows)
    echo = min(row[1] for row in rows if row[4] == kind)
    kept = [row for row in rows if (row[4], row[1]) == (kind, echo)]
    n_slices = said(_SLICES)
    phases = {row[3] for row in kept}
    if len(phases) > 1:
        raise ScanError(f"expected one cardiac phase, found {len(phases)}")
    bits, columns, height = int(head[7]), int(head[9]), int(head[10])
    if bits not in (8, 16):
        raise ScanError(f"expected 8 or 16 bits, found {bits}")
    if not all(1 <= side <= MAX_SIDE for side in (columns, height, n_slices)):
        raise ScanError(
            f"expected sides of 1 to {MAX_SIDE}, found {[columns, height, n_slices]}"
        )
    if columns * height * n_slices * 4 > MAX_PAYLOAD_BYTES:
        raise ScanError(f"expected volumes of up to {MAX_PAYLOAD_BYTES >> 20} MiB")
    places = sorted(int(row[6]) for row in rows)
    if places != list(range(len(rows))):
        raise EOFError("images that are not listed")
    images = tuple(
        ParImage(int(r[0]), int(r[2]), int(r[4]), int(r[6]), r[11], r[12], r[13])
        for r in kept
    )
    return ParHeader(
        acquisition=said(_ACQUISITION),
        dynamics=said(_DYNAMICS),
        tr_s=_tr_s(general.get(_TR, general.get(_TR_EARLIER, ""))),
        bits=bits,
        rows=height,
        columns=columns,
        images=images,
        n_images=len(rows),
        n_slices=n_slices,
        affine=_affine(np.array(kept), n_slices),
    )


def _split(text: str) -> tuple[dict[str, str], list[str]]:
    general: dict[str, str] = {}
    lines: list[str] = []
    version = ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            found = re.search(r"image export tool\s+(V\S+)", stripped)
            version = found[1] if found else version
        elif stripped.startswith("."):
            matched = _NUMBERS.fullmatch(stripped)
            if matched is not None and matched[1] in _WANTED:
                general[matched[1]] = (matched[2].split() or [""])[0]
        elif stripped:
            lines.append(stripped)
        if len(lines) > MAX_IMAGES:
            raise ScanError(f"expected up to {MAX_IMAGES} images, found more")
    if not version.startswith("V4"):
        raise ScanError(
            "expected a PAR file of export tool V4 to V4.2, found "
            f"{version or 'another file'}"
        )
    return general, lines


def _values(line: str) -> list[float]:
    try:
        values = [float(word) for word in line.split()]
    except ValueError as error:
        raise ScanError("expected numbers in the line of an image") from error
    if len(values) < _COLUMNS:
        raise EOFError("a line of an image that is cut")
    if not all(map(math.isfinite, values)):
        raise ScanError("expected finite numbers in the line of an image")
    return values[:_COLUMNS]


def _whole(word: str) -> int:
    try:
        return int(word)
    except ValueError as error:
        raise ScanError(f"expected a whole number, found {word[:20]!r}") from error


def _tr_s(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        return math.nan
    if not (math.isfinite(value) and value > 0):
        return math.nan
    return value / 1000 if value > _LONGEST_S else value


def _affine(
    rows: Float64[np.ndarray, "images columns"], n_slices: int
) -> Float64[np.ndarray, "4 4"]:
    first = rows[0]
    to_patient = _IMAGE_TO_PATIENT.get(int(first[25]))
    if to_patient is None:
        raise ScanError(
            f"expected slices of orientation 1 to 3, found {int(first[25])}"
        )
    # Angles and offsets are along (front to back, feet to head, right to left).
    turn = _turned(*np.radians(first[16:19]))
    volume = rows[rows[:, 2] == first[2]][:n_slices]
    centre_mm = volume[:, 19:22].mean(axis=0)
    sizes_mm = np.array([first[28], first[29], first[22] + first[23]])
    directions = turn @ to_patient @ np.diag(sizes_mm)
    middle = (np.array([first[9], first[10], n_slices]) - 1) / 2
    affine = np.eye(4)
    affine[:3, :3] = _PATIENT_TO_RAS @ directions
    affine[:3, 3] = _PATIENT_TO_RAS @ (centre_mm - directions @ middle)
    return affine


def _turned(ap: float, fh: float, rl: float) -> Float64[np.ndarray, "3 3"]:
    """Rotate about the three patient axes: first fh, then ap, then rl."""
    (ca, sa), (cf, sf), (cr, sr) = (
        (math.cos(angle), math.sin(angle)) for angle in (ap, fh, rl)
    )
    about_ap = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_fh = np.array([[cf, 0, sf], [0, 1, 0], [-sf, 0, cf]])
    about_rl = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(about_rl @ about_ap @ about_fh)
