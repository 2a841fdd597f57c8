"""From the bytes of a DICOM file to what it holds: volumes, or a slice of one.

Pure. Identity stops here: see `bci_bridge.sources.dicom_elements`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from bci_bridge.sources.clock_text import seconds_of_day
from bci_bridge.sources.dicom_elements import series_key
from bci_bridge.sources.dicom_pixels import read_pixels, scaling_of
from bci_bridge.sources.dicom_values import Elements
from bci_bridge.sources.enhanced import Frames
from bci_bridge.sources.mosaic import is_mosaic, mosaic_stack
from bci_bridge.sources.series_choice import SeriesFacts
from bci_bridge.sources.slices import Plane, plane_of, scanned
from bci_bridge.sources.volume import ScannedVolume
from runtime.arrays import Shaped
from runtime.errors import ScanError

LONGEST_TR_MS = 60_000.0


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One slice of a volume that comes in several files."""

    number: int
    """Of its acquisition, from 0."""
    plane: Plane
    pixels: Shaped[np.ndarray, "rows columns"] = field(repr=False)
    scaling: tuple[float, float]
    tr_s: float
    slices: int | None
    """In its volume; None where the file does not say."""
    thickness: float | None
    acquired_s: float | None


@dataclass(frozen=True, slots=True)
class Broken:
    """A volume of which a file holds too little."""

    number: int
    why: str


def facts_of(elements: Elements) -> SeriesFacts:
    """Read what an image says about its series.

    Raises:
        IncompleteError: It names no series, as every whole file does.
    """
    return SeriesFacts(
        key=series_key(elements),
        number=elements.whole("SeriesNumber"),
        description=elements.text("SeriesDescription"),
        sop_class=elements.text("SOPClassUID"),
        image_type=elements.texts("ImageType"),
        component=elements.text("ComplexImageComponent"),
        is_echo_planar="EP" in elements.texts("ScanningSequence")
        or elements.text("EchoPlanarPulseSequence") == "YES"
        or is_mosaic(elements),
        echo=elements.whole("EchoNumbers") or 1,
        comments=elements.text("ImageComments"),
    )


def contents(
    elements: Elements, series: str
) -> Iterator[ScannedVolume | Slice | Broken]:
    """Read the volumes of a file, or its slice.

    Args:
        elements: Of the file.
        series: What its volumes say of their series.

    Raises:
        IncompleteError: The file ends early.
        ScanError: It holds neither.
    """
    if elements.items("PerFrameFunctionalGroupsSequence"):
        yield from _enhanced(elements, series)
    elif is_mosaic(elements):
        yield scanned(
            mosaic_stack(elements),
            series=series,
            number=_acquisition(elements),
            tr_s=_tr_s(elements.number("RepetitionTime")),
            acquired_s=seconds_of_day(elements.text("AcquisitionTime")),
        )
    else:
        yield _slice(elements)


def _enhanced(elements: Elements, series: str) -> Iterator[ScannedVolume | Broken]:
    frames = Frames(elements)
    points = frames.time_points()
    if not points:
        raise ScanError("frames: expected images of magnitude, found none")
    tr_ms = frames.tr_ms
    tr_s = _tr_s(elements.number("RepetitionTime") if tr_ms is None else tr_ms)
    most = max(len(point.frames) for point in points)
    for point in points:
        # A file of one volume is numbered as an image, one of all by its frames.
        number = _instance(elements) if len(points) == 1 else point.time - 1
        if len(point.frames) < most:
            yield Broken(number, f"expected {most} slices, found {len(point.frames)}")
            continue
        yield scanned(
            frames.stack(point),
            series=series,
            number=number,
            tr_s=tr_s,
            acquired_s=frames.acquired_s(point),
        )


def _slice(elements: Elements) -> Slice:
    pixels = read_pixels(elements)
    if len(pixels) != 1:
        raise ScanError(f"image: expected one frame, found {len(pixels)}")
    is_ge = elements.text("Manufacturer").upper().startswith("GE")
    told = (
        elements.whole("LocationsInAcquisition")
        or elements.whole("NumberOfSlicesMR")
        or elements.whole("ImagesInAcquisition")
    )
    slices = told if told is not None and told > 0 else None
    time = elements.whole("TemporalPositionIdentifier")
    if time is not None and time > 0:
        number = time - 1
    elif is_ge and slices is not None:
        # GE counts images through a series, and repeats its acquisition's number.
        number = _instance(elements) // slices
    else:
        number = _acquisition(elements)
    thickness = elements.number("SpacingBetweenSlices")
    return Slice(
        number=number,
        plane=plane_of(elements, elements, elements),
        pixels=pixels[0],
        scaling=scaling_of(elements),
        tr_s=_tr_s(elements.number("RepetitionTime")),
        slices=slices,
        thickness=elements.number("SliceThickness") if thickness is None else thickness,
        # GE writes the time at which the series began on each of its images.
        acquired_s=None if is_ge else seconds_of_day(elements.text("AcquisitionTime")),
    )


def _acquisition(elements: Elements) -> int:
    found = elements.whole("AcquisitionNumber")
    return _instance(elements) if found is None else _from_zero("Acquisition", found)


def _instance(elements: Elements) -> int:
    found = elements.whole("InstanceNumber")
    if found is None:
        raise ScanError("InstanceNumber: expected one, found none")
    return _from_zero("Instance", found)


def _from_zero(what: str, number: int) -> int:
    if number < 1:
        raise ScanError(f"{what}Number: expected 1 or more, found {number}")
    return number - 1


def _tr_s(tr_ms: float | None) -> float:
    if tr_ms is None or not 1 <= tr_ms <= LONGEST_TR_MS:
        raise ScanError(f"RepetitionTime: expected 1 to 60000 ms, found {tr_ms}")
    return tr_ms / 1000
