"""DICOM files of known geometry, written with pydicom: classic and enhanced."""

import struct
from io import BytesIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from bci_bridge.sources.dicom_elements import ENHANCED_MR_IMAGE, MR_IMAGE

OBLIQUE = np.array([[0.96, 0.0, -0.28], [-0.168, 0.8, -0.576], [0.224, 0.6, 0.768]])
"""A rotation; its columns are the directions of columns, rows and slices."""
SPACING = (2.5, 2.0, 3.0)
"""From column to column, row to row, slice to slice, mm."""
ORIGIN = (-61.5, -72.25, 10.5)
SERIES = "1.2.3.4.5"
IDENTITY = {
    "PatientName": "SECRET^PERSON",
    "PatientID": "SECRET-4711",
    "PatientBirthDate": "19010203",
}


def affine(rotation=OBLIQUE, spacing=SPACING, origin=ORIGIN):
    """Columns, rows, slices to RAS+ millimetres."""
    found = np.eye(4)
    found[:3, :3] = rotation * spacing
    found[:3, 3] = origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ found


def volume(seed=0, shape=(6, 5, 4), dtype="<i2"):
    """Columns, rows, slices; no two values alike."""
    low = -900 if np.dtype(dtype).kind == "i" else 30_000
    size = int(np.prod(shape))
    values = np.random.default_rng(seed).permutation(size) + low + size * seed
    return values.astype(dtype).reshape(shape)


def _base(sop_class, **changes):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID = sop_class
    made.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    made.Modality, made.Manufacturer = "MR", "Nobody"
    made.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.3.4", SERIES
    made.FrameOfReferenceUID = "1.2.3.4.9"
    made.SeriesNumber, made.InstanceNumber, made.AcquisitionNumber = 7, 1, 1
    made.SeriesDescription = "task-look_bold"
    for name, value in {**IDENTITY, **changes}.items():
        setattr(made, name, value)
    return made


def _pixels(made, frames):
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = frames.shape[1:]
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit = 15
    made.PixelRepresentation = int(frames.dtype.kind == "i")
    made.add_new("PixelData", "OW", np.ascontiguousarray(frames).tobytes())


def dumped(made):
    """The file's bytes."""
    file = BytesIO()
    pydicom.dcmwrite(file, made, enforce_file_format=True)
    return file.getvalue()


def _position(index, rotation=OBLIQUE):
    return [float(x) for x in ORIGIN + rotation[:, 2] * SPACING[2] * index]


def _cosines(rotation=OBLIQUE):
    return [float(x) for x in rotation[:, :2].T.reshape(-1)]


def classic(voxels, index, time=0, *, rotation=OBLIQUE, **changes):
    """One slice of one volume, as a scanner without mosaics writes it."""
    made = _base(MR_IMAGE)
    made.ScanningSequence, made.SequenceVariant = "EP", "NONE"
    made.MRAcquisitionType, made.ScanOptions, made.EchoNumbers = "2D", "", 1
    made.RepetitionTime, made.EchoTime = 1500, 30
    made.SliceThickness = made.SpacingBetweenSlices = SPACING[2]
    made.PixelSpacing = [SPACING[1], SPACING[0]]
    made.ImagePositionPatient = _position(index, rotation)
    made.ImageOrientationPatient = _cosines(rotation)
    made.AcquisitionNumber = time + 1
    made.InstanceNumber = time * voxels.shape[2] + index + 1
    _pixels(made, voxels[:, :, index].T[None])
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def mosaic(voxels, *, is_reversed=False, has_elements=True, times_ms=None, **changes):
    """A volume as Siemens writes it.

    Args:
        voxels: Columns, rows, slices.
        is_reversed: Slices follow each other against the cross product of rows and
            columns, which the CSA header alone tells.
        has_elements: Number and times of slices stand outside the CSA header, too.
        times_ms: Of the slices.
        changes: Elements of the file.
    """
    columns, rows, slices = voxels.shape
    side = int(np.ceil(np.sqrt(slices)))
    tiles = np.zeros((side * side, rows, columns), voxels.dtype)
    tiles[:slices] = voxels.transpose(2, 1, 0)
    image = tiles.reshape(side, side, rows, columns).swapaxes(1, 2)
    image = image.reshape(side * rows, side * columns)
    made = classic(voxels, 0)
    made.Manufacturer, made.SoftwareVersions = "SIEMENS", "syngo MR E11"
    made.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    # The centre of the large slice is that of the first small one.
    wide = np.array([side * columns - columns, side * rows - rows]) / 2 * SPACING[:2]
    made.ImagePositionPatient = list(ORIGIN - OBLIQUE[:, :2] @ wide)
    normal = OBLIQUE[:, 2] * (-1 if is_reversed else 1)
    tags = {
        "NumberOfImagesInMosaic": [str(slices)],
        "SliceNormalVector": [f"{x:.8f}" for x in normal],
    }
    if times_ms is not None:
        tags["MosaicRefAcqTimes"] = [str(time) for time in times_ms]
    made.add_new(0x00290010, "LO", "SIEMENS CSA HEADER")
    made.add_new(0x00291010, "OB", csa(tags))
    if has_elements:
        made.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
        made.add_new(0x0019100A, "US", slices)
        if times_ms is not None:
            made.add_new(0x00191029, "FD", list(times_ms))
    _pixels(made, image[None])
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def csa(tags):
    """A CSA header of texts."""
    parts = [b"SV10\4\3\2\1", struct.pack("<2i", len(tags), 77)]
    for name, texts in tags.items():
        parts.append(
            struct.pack(
                "<64si4s3i", name.encode(), len(texts), b"FD", 4, len(texts), 77
            )
        )
        for text in texts:
            raw = text.encode() + b"\0"
            parts.append(struct.pack("<4i", 77, len(raw), 77, 77))
            parts.append(raw + bytes(-len(raw) % 4))
    return b"".join(parts)


def _item(**values):
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def enhanced(volumes, order="slices", *, tr_ms=1500.0, is_timed=True, **changes):
    """All volumes in one file.

    Args:
        volumes: A list of them.
        order: Of the frames: "slices", "times" fastest, or a permutation of
            (time, slice) pairs.
        tr_ms: Repetition time.
        is_timed: Frames name their time.
        changes: Elements of the file.
    """
    slices = volumes[0].shape[2]
    pairs = [(t, k) for t in range(len(volumes)) for k in range(slices)]
    if order == "times":
        pairs.sort(key=lambda pair: pair[::-1])
    elif order != "slices":
        pairs = [pairs[i] for i in order]
    made = _base(ENHANCED_MR_IMAGE)
    made.ContentDate, made.ContentTime = "20200101", "120000"
    made.AcquisitionDateTime = "20200101120000.000000"
    made.EchoPlanarPulseSequence, made.PulseSequenceName = "YES", "epfid2d"
    made.MRAcquisitionType = "2D"
    made.NumberOfFrames = len(pairs)
    shared = _item(
        PixelMeasuresSequence=Sequence(
            [
                _item(
                    PixelSpacing=[SPACING[1], SPACING[0]],
                    SliceThickness=SPACING[2],
                    SpacingBetweenSlices=SPACING[2],
                )
            ]
        ),
        PlaneOrientationSequence=Sequence([_item(ImageOrientationPatient=_cosines())]),
        PixelValueTransformationSequence=Sequence(
            [_item(RescaleIntercept=0, RescaleSlope=1, RescaleType="US")]
        ),
        MRTimingAndRelatedParametersSequence=Sequence(
            [_item(RepetitionTime=tr_ms, FlipAngle=70, EchoTrainLength=1)]
        ),
    )
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for time, index in pairs:
        content = _item(
            FrameAcquisitionNumber=time + 1,
            StackID="1",
            InStackPositionNumber=index + 1,
            # Slices of a volume in two interleaved passes.
            FrameAcquisitionDateTime=_stamp(time * tr_ms / 1000 + (index % 2) * 0.5),
        )
        if is_timed:
            content.TemporalPositionIndex = time + 1
            content.DimensionIndexValues = [1, index + 1, time + 1]
        frames.append(
            _item(
                FrameContentSequence=Sequence([content]),
                PlanePositionSequence=Sequence(
                    [_item(ImagePositionPatient=_position(index))]
                ),
                MREchoSequence=Sequence([_item(EffectiveEchoTime=30.0)]),
            )
        )
    made.PerFrameFunctionalGroupsSequence = Sequence(frames)
    _pixels(made, np.stack([volumes[t][:, :, k].T for t, k in pairs]))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def _stamp(seconds):
    return f"202001011200{seconds:09.6f}"
