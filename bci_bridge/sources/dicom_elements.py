"""The elements of a DICOM file that a volume is made of, and no others.

Elements outside `PUBLIC` and `PRIVATE` never leave this module: no name, identifier or
date of birth. Whether two files belong to one person is told by a hash whose salt the
caller holds in memory. Pure: bytes in, plain values out.
"""

import hashlib
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Final

from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from bci_bridge.sources.dicom_values import NONE, Elements, IncompleteError, Values
from runtime.errors import ScanError

MAX_FILE_BYTES: Final = 1 << 29
"""Half a gibibyte: an hour of 64 x 64 x 36 voxels at a TR of 1.5 s, in one file."""

HEAD_BYTES: Final = 1 << 16
"""Series and image number lie well within."""

IMPLICIT: Final = "1.2.840.10008.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
"""PS3.5, section 10: the transfer syntaxes that are read, both little endian."""

MR_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.4.1"
"""PS3.4, table B.5-1: the SOP classes that hold volumes."""

PUBLIC: Final = (
    "ImageType", "SOPClassUID", "AcquisitionDateTime", "AcquisitionTime", "Modality",
    "Manufacturer", "SeriesDescription", "ComplexImageComponent", "ScanningSequence",
    "EchoPlanarPulseSequence", "RepetitionTime", "EchoNumbers", "SliceThickness",
    "SpacingBetweenSlices", "SeriesInstanceUID", "SeriesNumber", "AcquisitionNumber",
    "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient",
    "TemporalPositionIdentifier", "NumberOfTemporalPositions", "ImagesInAcquisition",
    "ImageComments", "SamplesPerPixel", "NumberOfFrames", "Rows", "Columns",
    "PixelSpacing", "BitsAllocated", "PixelRepresentation", "RescaleIntercept",
    "RescaleSlope",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    # Within the functional groups (PS3.3, C.7.6.16.2 and C.8.13.5):
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence",
    "PixelValueTransformationSequence", "FrameContentSequence",
    "MRTimingAndRelatedParametersSequence", "MRImageFrameTypeSequence", "FrameType",
    "MREchoSequence", "EffectiveEchoTime", "TemporalPositionIndex",
    "FrameAcquisitionDateTime",
)  # fmt: skip
PRIVATE: Final = {
    "SiemensCreator": 0x00190010,
    "NumberOfImagesInMosaic": 0x0019100A,
    "MosaicRefAcqTimes": 0x00191029,
    "GECreator": 0x00210010,
    "LocationsInAcquisition": 0x0021104F,
    "CSACreator": 0x00290010,
    "CSAImageHeaderInfo": 0x00291010,
    "PhilipsCreator": 0x20010010,
    "NumberOfSlicesMR": 0x20011018,
}
_CREATORS: Final = {
    "NumberOfImagesInMosaic": ("SiemensCreator", "SIEMENS MR HEADER"),
    "MosaicRefAcqTimes": ("SiemensCreator", "SIEMENS MR HEADER"),
    "LocationsInAcquisition": ("GECreator", "GEMS_RELA"),
    "CSAImageHeaderInfo": ("CSACreator", "SIEMENS CSA HEADER"),
    "NumberOfSlicesMR": ("PhilipsCreator", "Philips Imaging DD"),
}
"""Whose a private element must be: others give its number other meanings."""
_PATIENT: Final = ("PatientID", "PatientName", "PatientBirthDate")

_NAMES: Final[Mapping[BaseTag, str]] = {
    **{Tag(name): name for name in PUBLIC},
    **{Tag(number): name for name, number in PRIVATE.items()},
}
_WANTED: Final = [*_NAMES, *map(Tag, _PATIENT)]

_MALFORMED: Final = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
"""What pydicom raises on bytes that are no DICOM, as found by mutating files."""


def read_elements(data: bytes, salt: bytes = b"") -> Elements:
    """Read what a volume needs.

    Args:
        data: A whole DICOM file.
        salt: Of the patient's hash, at most 16 bytes; the same for all files of a run.

    Raises:
        IncompleteError: The file has no end, or is malformed: so are those that are
            still being written.
        ScanError: It is no DICOM file, too large or compressed.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ScanError(
            f"file: expected at most {MAX_FILE_BYTES >> 20} MiB,"
            f" found {len(data) >> 20} MiB. Let the console write one file per volume"
        )
    syntax = transfer_syntax(data)
    _require_plain(syntax)
    try:
        with _quiet():
            # Only now may pydicom look: it inflates a deflated file by itself.
            stream = BytesIO(data)
            dataset = dcmread(stream, stop_before_pixels=True, specific_tags=_WANTED)
            values = _plain(dataset)
            patient = "\0".join(str(dataset.get(name, "")) for name in _PATIENT)
    except _MALFORMED as error:
        # Its text may quote an element: the kind is enough.
        kind = type(error).__name__
        raise IncompleteError(
            f"file: expected a whole DICOM file, found a malformed one ({kind})"
        ) from error
    person = hashlib.blake2b(patient.encode(errors="replace"), salt=salt)
    pixels = _pixels(data, stream.tell(), syntax)
    found = Elements(values, person.digest(), pixels)
    is_image = found.text("SOPClassUID") in ("", MR_IMAGE, ENHANCED_MR_IMAGE)
    if is_image and not pixels:
        raise IncompleteError("PixelData: expected some, found none")
    return found


def read_order(head: bytes) -> tuple[str, int, int]:
    """Return what sorts files whose names mean nothing.

    Args:
        head: The first `HEAD_BYTES` of a file.

    Returns:
        The series' key (`series_key`), its number, and the image's.

    Raises:
        IncompleteError: It ends before its series.
        ScanError: It tells no numbers.
    """
    _require_plain(transfer_syntax(head))
    try:
        with _quiet():
            names = ["SeriesInstanceUID", "SeriesNumber", "InstanceNumber"]
            dataset = dcmread(
                BytesIO(head), stop_before_pixels=True, specific_tags=names
            )
            elements = Elements(_plain(dataset))
    except _MALFORMED as error:
        raise IncompleteError("file: expected a whole header, found none") from error
    number, image = elements.whole("SeriesNumber"), elements.whole("InstanceNumber")
    if number is None or image is None:
        raise ScanError("InstanceNumber: expected one, found none")
    return series_key(elements), number, image


def series_key(elements: Elements) -> str:
    """Return what tells series apart: a number, and a hash of the identifier.

    Raises:
        IncompleteError: There is no identifier.
    """
    identifier = elements.text("SeriesInstanceUID")
    if not identifier:
        raise IncompleteError("SeriesInstanceUID: expected one, found none")
    digest = hashlib.sha256(identifier.encode(errors="replace")).hexdigest()
    return f"{elements.whole('SeriesNumber') or 0:06d}-{digest[:12]}"


def transfer_syntax(data: bytes) -> str:
    """Read how a file is written from its meta information (PS3.10, section 7.1).

    Raises:
        IncompleteError: The file ends before.
        ScanError: There is no preamble, or no transfer syntax.
    """
    if not any(data[:132]):
        raise IncompleteError("file: expected a DICOM file, found nothing yet")
    if data[128:132] != b"DICM":
        raise ScanError("file: expected a DICOM file, found another")
    at = 132
    while True:
        head = data[at : at + 8]
        if len(head) < 8:
            raise IncompleteError("file: expected its meta information, found its end")
        group, element, kind, size = struct.unpack("<HH2sH", head)
        if group != 2:
            raise ScanError("TransferSyntaxUID: expected one, found none")
        at += 8
        if kind in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
            size = int.from_bytes(data[at : at + 4], "little")
            at += 4
        if at + size > len(data):
            raise IncompleteError("file: expected its meta information, found its end")
        if element == 0x0010:
            return data[at : at + size].decode("ascii", "replace").strip("\0 ")
        at += size


def _require_plain(syntax: str) -> None:
    if syntax in (IMPLICIT, EXPLICIT):
        return
    with _quiet():
        known = UID(syntax).name
    name = known if known != syntax else "an unknown transfer syntax"
    raise ScanError(
        f"TransferSyntaxUID: expected uncompressed little endian, found {name}."
        " Let the console export without compression"
    )


def _pixels(data: bytes, at: int, syntax: str) -> memoryview:
    """Find PixelData, at which pydicom has stopped, without a copy."""
    begin = at + (8 if syntax == IMPLICIT else 12)
    if data[at : at + 4] != b"\xe0\x7f\x10\x00" or len(data) < begin:
        return NONE
    size = int.from_bytes(data[begin - 4 : begin], "little")
    return memoryview(data)[begin : begin + size]


def _plain(dataset: Dataset) -> Values:
    values: Values = {}
    for element in dataset:
        name = _NAMES.get(element.tag)
        if name is None:
            continue
        value = element.value
        if element.VR == "SQ":
            values[name] = tuple(Elements(_plain(item)) for item in value)
        elif isinstance(value, MultiValue | list):
            values[name] = tuple(value)
        else:
            values[name] = value
    for name, (creator, owner) in _CREATORS.items():
        if not str(values.get(creator, "")).startswith(owner):
            values.pop(name, None)
    return values


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield
