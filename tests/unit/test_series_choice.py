"""Of all that a console sends, the functional series is taken and nothing else."""

import numpy as np
import pytest

from bci_bridge.sources.dicom_receiver import DicomReceiver
from bci_bridge.sources.dicom_values import IncompleteError
from bci_bridge.sources.series_choice import Choice, SeriesFacts, why_left_out
from bci_bridge.sources.source import Refused
from bci_bridge.sources.volume import ScannedVolume
from runtime.errors import UsageError
from tests import dicom_files as files

BOLD = {
    "key": "000012-a",
    "number": 12,
    "description": "task-look_bold",
    "image_type": ("ORIGINAL", "PRIMARY", "M", "MB", "ND", "NORM", "MOSAIC"),
}

LEFT_OUT = [
    (
        {"description": "task-look_SBRef"},
        "a single-band reference. Take it with --series 12",
    ),
    (
        {"comments": "Single-band reference MB8/PE3/LB"},
        "a single-band reference. Take it with --series 12",
    ),
    (
        {"image_type": ("ORIGINAL", "PRIMARY", "M", "ND", "MOCO", "MOSAIC")},
        "the scanner's motion-corrected copy. Take it with --series 12",
    ),
    (
        {"description": "MoCoSeries"},
        "the scanner's motion-corrected copy. Take it with --series 12",
    ),
    (
        {"image_type": ("ORIGINAL", "PRIMARY", "P", "ND", "MOSAIC")},
        "phase images; the magnitude is decoded",
    ),
    ({"component": "PHASE"}, "phase images; the magnitude is decoded"),
    ({"image_type": ("ORIGINAL", "RAWDATA", "PHYSIO")}, "a physiological log"),
    ({"description": "task-look_PhysioLog"}, "a physiological log"),
    ({"sop_class": "1.2.840.10008.5.1.4.1.1.66"}, "no MR images"),
    ({"description": "AAHScout_64ch"}, "a localiser. Take it with --series 12"),
    ({"description": "localizer"}, "a localiser. Take it with --series 12"),
    (
        {"image_type": ("DERIVED", "PRIMARY", "M", "MOSAIC", "T-MAP")},
        "computed from other images. Take it with --series 12",
    ),
    (
        {"is_echo_planar": False},
        "no echo-planar images. Take it with --series 12",
    ),
    ({"echo": 2}, "echo 2; --echo 1 is decoded"),
]  # fmt: skip


def test_the_functional_series_is_taken():
    assert why_left_out(SeriesFacts(**BOLD), Choice()) is None


@pytest.mark.parametrize(("changes", "reason"), LEFT_OUT)
def test_other_series_are_left_out_with_a_reason(changes, reason):
    assert why_left_out(SeriesFacts(**{**BOLD, **changes}), Choice()) == reason


@pytest.mark.parametrize("name", ["12", "task-*_bold"])
def test_a_named_series_is_the_only_one(name):
    choice = Choice(series=(name,))
    moco = {**BOLD, "image_type": ("ORIGINAL", "PRIMARY", "M", "MOCO", "MOSAIC")}

    assert why_left_out(SeriesFacts(**moco), choice) is None
    other = SeriesFacts(**{**BOLD, "number": 13, "description": "rest"})
    assert why_left_out(other, choice) == "not named by --series"


def test_an_echo_is_counted_from_one():
    assert why_left_out(SeriesFacts(**BOLD, echo=2), Choice(echo=2)) is None
    with pytest.raises(UsageError, match="--echo: expected 1 or more, found 0"):
        Choice(echo=0)


def one_file(**changes):
    return files.dumped(files.enhanced([files.volume()], **changes))


def test_what_is_left_out_is_said_once_for_each_series():
    receiver = DicomReceiver(Choice(), b"salt")
    moco = one_file(SeriesDescription="MoCoSeries", SeriesInstanceUID="1.9")

    assert receiver.take(moco, "a", 0.0) == [
        Refused(
            "series 7",
            "left out: the scanner's motion-corrected copy. Take it with --series 7",
        )
    ]
    assert receiver.take(moco, "b", 1.0) == []
    (volume,) = receiver.take(one_file(), "c", 2.0)
    assert isinstance(volume, ScannedVolume)


def test_a_restarted_run_is_another_series_of_a_name_without_identity():
    receiver = DicomReceiver(Choice(), b"salt")

    (first,) = receiver.take(one_file(), "a", 0.0)
    (second,) = receiver.take(
        one_file(SeriesNumber=8, SeriesInstanceUID="1.2.3.4.6"), "b", 1.0
    )

    assert first.series.startswith("000007-")
    assert second.series.startswith("000008-")
    assert files.SERIES not in first.series


def test_another_persons_images_are_refused():
    receiver = DicomReceiver(Choice(), b"salt")
    receiver.take(one_file(), "a", 0.0)

    assert receiver.take(one_file(PatientID="OTHER"), "b", 1.0) == [
        Refused(
            "b",
            "patient: expected that of the first image, found another."
            " Start `neuroflow send` anew for another participant",
        )
    ]
    (volume,) = receiver.take(one_file(InstanceNumber=2), "c", 2.0)
    assert volume.number == 1


def test_a_bad_file_is_refused_and_the_next_one_is_taken():
    receiver = DicomReceiver(Choice(), b"salt")

    (refused,) = receiver.take(one_file(NumberOfFrames=0), "file 1", 0.0)
    (volume,) = receiver.take(one_file(), "file 2", 0.0)

    assert refused == Refused("file 1", "NumberOfFrames: expected 1 to 131072, found 0")
    assert volume.number == 0
    with pytest.raises(IncompleteError, match="PixelData: expected 240 bytes"):
        receiver.take(one_file()[:-2], "file 3", 0.0)


def test_unfinished_volumes_are_given_up_in_words():
    receiver = DicomReceiver(Choice(), b"salt", slices=4)
    for index in range(3):
        receiver.take(files.dumped(files.classic(files.volume(), index)), "a", 0.0)

    assert receiver.overdue(1.0) == []
    assert receiver.overdue(5.0) == [
        Refused(
            "volume 0",
            "expected 4 slices, found 3. The volume is missing; the next ones go on",
        )
    ]
    (late,) = receiver.take(files.dumped(files.classic(files.volume(), 3)), "z", 6.0)
    assert late.why == (
        "slice of volume 0: expected once and in time, found after it was given up"
    )


def test_a_volume_has_a_number_of_slices_that_volumes_have():
    with pytest.raises(UsageError, match="--slices: expected 1 to 1024, found 0"):
        DicomReceiver(Choice(), b"salt", slices=0)


def test_nothing_that_leaves_the_receiver_names_a_person():
    receiver = DicomReceiver(Choice(), b"salt")
    nested = files.enhanced([files.volume()])
    for group in nested.PerFrameFunctionalGroupsSequence:
        group.PatientComments = "SECRET"
    data = files.dumped(nested)
    assert data.count(b"SECRET") > 4

    (volume,) = receiver.take(data, "a", 0.0)
    (refused,) = receiver.take(one_file(Rows=0, PatientName="SECRET"), "b", 0.0)

    told = f"{volume!r} {volume.geometry!r} {refused!r}"
    for secret in ("SECRET", "PERSON", "4711", "1901", files.SERIES):
        assert secret not in told
    assert np.isfinite(volume.geometry.affine).all()
