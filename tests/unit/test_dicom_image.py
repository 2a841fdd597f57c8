"""Files of every layout become the same volume: nothing interpolated, all in place."""

import warnings
import zlib

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEGLosslessSV1

from bci_bridge.sources.dicom_elements import read_elements, transfer_syntax
from bci_bridge.sources.dicom_image import Broken, contents, facts_of
from bci_bridge.sources.dicom_values import IncompleteError
from bci_bridge.sources.slice_collector import PATIENCE_S, SliceCollector
from bci_bridge.sources.source import Refused
from bci_bridge.sources.volume import ScannedVolume
from runtime.errors import ScanError
from tests import dicom_files as files


def read(made):
    elements = read_elements(files.dumped(made))
    return list(contents(elements, facts_of(elements).key))


def ras(voxels, affine):
    """The same volume by nibabel."""
    image = nib.as_closest_canonical(nib.Nifti1Image(voxels, affine))
    return np.asarray(image.dataobj), image.affine


def require_same(volume, voxels, affine=None):
    expected, turned = ras(voxels, files.affine() if affine is None else affine)
    assert volume.voxels.dtype == expected.dtype
    np.testing.assert_array_equal(volume.voxels, expected)
    np.testing.assert_allclose(volume.geometry.affine, turned, atol=1e-4)
    assert volume.voxels.flags.c_contiguous
    assert volume.geometry.shape == volume.voxels.shape


def collected(slices, count=None, now_s=0.0):
    collector = SliceCollector("s", count)
    return [v for one in slices for v in collector.add(one, now_s)], collector


def slices_of(voxels, time=0, **changes):
    count = voxels.shape[2]
    return [
        one
        for index in range(count)
        for one in read(files.classic(voxels, index, time, **changes))
    ]


@pytest.mark.parametrize("dtype", ["<i2", "<u2"])
@pytest.mark.parametrize(
    "order", ["slices", "times", [11, 3, 5, 0, 7, 1, 10, 2, 9, 4, 8, 6]]
)
def test_enhanced_frames_go_where_their_positions_say(order, dtype):
    volumes = [files.volume(seed, dtype=dtype) for seed in range(3)]

    found = read(files.enhanced(volumes, order))

    assert [one.number for one in found] == [0, 1, 2]
    for one, voxels in zip(found, volumes, strict=True):
        require_same(one, voxels)
        assert one.geometry.tr_s == 1.5


def test_frames_without_a_time_are_counted_at_each_place():
    volumes = [files.volume(seed) for seed in range(2)]

    found = read(files.enhanced(volumes, "times", is_timed=False))

    for one, voxels in zip(found, volumes, strict=True):
        require_same(one, voxels)


def test_a_file_of_one_volume_is_numbered_as_an_image():
    (found,) = read(files.enhanced([files.volume()], InstanceNumber=17))

    assert found.number == 16


def test_frames_tell_the_times_of_their_slices():
    first, second = read(files.enhanced([files.volume(0), files.volume(1)]))

    assert sorted(first.geometry.slice_times_s) == [0.0, 0.0, 0.5, 0.5]
    assert first.acquired_s == 12 * 3600
    assert second.acquired_s == 12 * 3600 + 1.5


def test_slice_times_stay_with_their_slices_where_the_normal_points_down():
    (found,) = read(files.enhanced([files.volume()]))
    made = files.enhanced([files.volume()])
    shared = made.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    cosines = shared.ImageOrientationPatient
    shared.ImageOrientationPatient = [*cosines[:3], *(-x for x in cosines[3:])]

    (flipped,) = read(made)

    assert found.geometry.slice_times_s == (0.0, 0.5, 0.0, 0.5)
    assert flipped.geometry.slice_times_s == found.geometry.slice_times_s
    assert found.geometry.slice_axis == flipped.geometry.slice_axis == 2


def test_a_slope_makes_numbers_of_float32():
    made = files.enhanced([files.volume()])
    scaling = made.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0]
    scaling.RescaleSlope, scaling.RescaleIntercept = 0.25, -3.0

    (found,) = read(made)

    require_same(found, (files.volume() * 0.25 - 3.0).astype("f4"))


def test_only_the_first_echo_and_no_phase_is_taken():
    made = files.enhanced([files.volume(0), files.volume(1)], is_timed=False)
    for frame in made.PerFrameFunctionalGroupsSequence[4:]:
        frame.MREchoSequence[0].EffectiveEchoTime = 60.0

    (found,) = read(made)

    require_same(found, files.volume(0))


def test_a_file_of_phase_alone_is_refused():
    made = files.enhanced([files.volume()])
    phase = Dataset()
    phase.FrameType = ["ORIGINAL", "PRIMARY", "P", "NONE"]
    shared = made.SharedFunctionalGroupsSequence[0]
    shared.MRImageFrameTypeSequence = Sequence([phase])

    with pytest.raises(ScanError, match="expected images of magnitude, found none"):
        read(made)


def test_a_volume_that_a_file_holds_half_is_broken_and_the_others_are_not():
    made = files.enhanced([files.volume(0), files.volume(1)])
    del made.PerFrameFunctionalGroupsSequence[7]
    made.NumberOfFrames = 7
    made.PixelData = made.PixelData[:-60]

    whole, half = read(made)

    require_same(whole, files.volume(0))
    assert half == Broken(1, "expected 4 slices, found 3")


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 0, 2, 1]])
def test_slices_of_any_order_make_a_volume(order):
    slices = slices_of(files.volume())

    (found,), _ = collected([slices[i] for i in order], 4)

    require_same(found, files.volume())
    assert found.number == 0


def test_coronal_slices_are_turned():
    rotation = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])

    (found,), _ = collected(slices_of(files.volume(), rotation=rotation), 4)

    require_same(found, files.volume(), files.affine(rotation))
    assert found.geometry.slice_axis == 1


def test_slices_are_counted_once_two_more_acquisitions_have_begun():
    volumes = [files.volume(seed) for seed in range(3)]
    slices = [one for t, each in enumerate(volumes) for one in slices_of(each, t)]

    found, _ = collected(slices)

    assert [one.number for one in found] == [0, 1, 2]
    for one, voxels in zip(found, volumes, strict=True):
        require_same(one, voxels)


def test_a_temporal_position_tells_the_volume():
    (found,) = read(
        files.classic(
            files.volume(), 2, 0, TemporalPositionIdentifier=9, AcquisitionNumber=1
        )
    )

    assert found.number == 8


def test_private_elements_count_only_under_their_makers_name():
    made = files.classic(files.volume(), 2)
    made.add_new(0x20010010, "LO", "Somebody else")
    made.add_new(0x20011018, "SL", 77)
    (found,) = read(made)
    made.add_new(0x20010010, "LO", "Philips Imaging DD 001")
    (philips,) = read(made)

    assert found.slices is None
    assert philips.slices == 77


def test_a_missing_slice_costs_its_volume_and_no_other():
    volumes = [files.volume(seed) for seed in range(4)]
    slices = [one for t, each in enumerate(volumes) for one in slices_of(each, t)]
    del slices[5]

    found, collector = collected(slices, 4)

    assert [one.number for one in found] == [0, 2, 3]
    assert collector.overdue(0.0) == [1]
    assert collector.give_up(1) == (
        "expected 4 slices, found 3. The volume is missing; the next ones go on"
    )


def test_a_last_volume_is_waited_for_and_no_longer():
    _, collector = collected(slices_of(files.volume())[:3], 4)

    assert collector.overdue(PATIENCE_S / 2) == []
    assert collector.overdue(PATIENCE_S) == [0]


def test_a_slice_that_comes_twice_is_refused():
    slices = slices_of(files.volume())
    _, collector = collected(slices[:2], 4)

    with pytest.raises(ScanError, match=r"found a second\. The first is kept"):
        collector.add(slices[1], 0.0)
    collector.add(slices[2], 0.0)
    (found,) = collector.add(slices[3], 0.0)

    require_same(found, files.volume())
    with pytest.raises(
        ScanError, match="slice of volume 0: expected once and in time, found twice"
    ):
        collector.add(slices[1], 0.0)


def test_a_gap_between_slices_is_seen():
    slices = slices_of(files.volume(shape=(6, 5, 5)))

    (found,), _ = collected([slices[i] for i in (0, 1, 2, 4)], 4)

    assert found == Refused(
        "volume 0",
        "slices: expected even distances of 3.00 mm, found 3.00 to 6.00 mm. A slice is "
        "missing",
    )


def test_an_unsound_volume_costs_those_that_are_whole_with_it_nothing():
    """Both are whole once a third has begun, which tells the number of slices."""
    volumes = [files.volume(seed) for seed in range(3)]
    slices = [one for t, each in enumerate(volumes) for one in slices_of(each, t)]
    slices[7] = slices_of(volumes[1], 1, RepetitionTime=800)[3]

    found, _ = collected(slices)

    assert [type(one) for one in found] == [ScannedVolume, Refused, ScannedVolume]
    require_same(found[0], volumes[0])
    assert found[1] == Refused("volume 1", "TR: expected one, found several")
    require_same(found[2], volumes[2])


@pytest.mark.parametrize("has_elements", [True, False])
@pytest.mark.parametrize("slices", [1, 4, 5, 9])
def test_a_mosaics_tiles_are_slices(slices, has_elements):
    voxels = files.volume(shape=(6, 5, slices), dtype="<u2")

    (found,) = read(files.mosaic(voxels, has_elements=has_elements))

    require_same(found, voxels)
    assert found.geometry.tr_s == 1.5


@pytest.mark.parametrize("has_elements", [True, False])
def test_a_mosaics_slices_and_times_run_as_its_csa_header_says(has_elements):
    voxels = files.volume()
    times = {"times_ms": [0.0, 700.0, 50.0, 750.0], "has_elements": has_elements}

    (up,) = read(files.mosaic(voxels, **times))
    (down,) = read(files.mosaic(voxels, is_reversed=True, **times))

    require_same(up, voxels)
    rotation = files.OBLIQUE * [1, 1, -1]
    require_same(down, voxels, files.affine(rotation))
    assert up.geometry.slice_times_s == (0.0, 0.7, 0.05, 0.75)
    assert down.geometry.slice_times_s == up.geometry.slice_times_s[::-1]


def test_times_beyond_a_tr_are_none():
    made = files.mosaic(files.volume(), times_ms=[0.0, 700.0, 1400.0, 2100.0])

    (found,) = read(made)

    assert found.geometry.slice_times_s is None


MOSAICS = [
    (
        {"Columns": 9, "Rows": 13},
        "PixelData: expected 234 bytes, found 240",
    ),
    (
        {"Columns": 15, "Rows": 8},
        "mosaic: expected 2 x 2 tiles for 4 slices, found 8 x 15 pixels",
    ),
    (
        {"SpacingBetweenSlices": 0},
        "SpacingBetweenSlices: expected mm, found 0.0",
    ),
    (
        {"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]},
        "SliceNormalVector: expected it across the slices",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), MOSAICS)
def test_what_is_no_mosaic_is_refused_in_one_line(changes, message):
    with pytest.raises(ScanError) as error:
        read(files.mosaic(files.volume(), **changes))

    assert str(error.value) == message


def test_a_mosaic_that_does_not_say_how_many_slices_it_has_is_refused():
    made = files.mosaic(files.volume(), has_elements=False)
    del made[0x0029, 0x1010]

    with pytest.raises(ScanError, match="mosaic: expected 1 to 1024 slices, found 0"):
        read(made)


REFUSED = [
    (
        {"Rows": 9000},
        "Rows: expected 1 to 8192, found 9000",
    ),
    (
        {"NumberOfFrames": 2_000_000},
        "NumberOfFrames: expected 1 to 131072, found 2000000",
    ),
    (
        {"BitsAllocated": 8},
        "pixels: expected one sample of 16 bits, found 1 of 8 bits",
    ),
    (
        {"SamplesPerPixel": 3},
        "pixels: expected one sample of 16 bits, found 3 of 16 bits",
    ),
    (
        {"Columns": 5},
        "PixelData: expected 50 bytes, found 60",
    ),
    (
        {"PixelSpacing": [0.0, 2.0]},
        "PixelSpacing: expected millimetres, found (0.0, 2.0)",
    ),
    (
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        "ImageOrientationPatient: expected two unit vectors at right angles, found"
        " others",
    ),
    (
        {"ImagePositionPatient": None},
        "ImagePositionPatient: expected one, found none",
    ),
    (
        {"ImagePositionPatient": [0, 0]},
        "ImagePositionPatient: expected 3 finite numbers, found others",
    ),
    (
        {"RepetitionTime": 0},
        "RepetitionTime: expected 1 to 60000 ms, found 0.0",
    ),
    (
        {"RescaleSlope": 0},
        "RescaleSlope: expected a number other than 0, found 0",
    ),
    (
        {"AcquisitionNumber": 0},
        "AcquisitionNumber: expected 1 or more, found 0",
    ),
    (
        {"SeriesInstanceUID": ""},
        "SeriesInstanceUID: expected one, found none",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_is_no_slice_is_refused_in_one_line(changes, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = files.dumped(files.classic(files.volume(), 0, **changes))
    with pytest.raises(ScanError) as error:
        read_all(data)

    assert str(error.value) == message


def test_a_file_that_ends_early_is_incomplete_wherever_it_ends():
    data = files.dumped(files.classic(files.volume(), 0))

    for end in range(132, len(data), 7):
        with pytest.raises(IncompleteError):
            read_all(data[:end])


def read_all(data):
    elements = read_elements(data)
    return list(contents(elements, facts_of(elements).key))


def test_compressed_files_are_refused_before_anything_is_inflated():
    made = files.classic(files.volume(), 0)
    made.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    with pytest.raises(ScanError) as error:
        read_elements(_head_of(JPEGLosslessSV1))

    assert str(error.value) == (
        "TransferSyntaxUID: expected uncompressed little endian, found JPEG Lossless,"
        " Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])."
        " Let the console export without compression"
    )


def test_a_deflated_bomb_is_never_inflated():
    bomb = zlib.compress(bytes(1 << 24))[2:-4]
    data = _head_of("1.2.840.10008.1.2.1.99") + bomb

    with pytest.raises(ScanError, match="found Deflated Explicit VR Little Endian"):
        read_elements(data)


def _head_of(syntax):
    text = syntax.encode() + b"\0" * (len(syntax) % 2)
    element = b"\x02\x00\x10\x00UI" + len(text).to_bytes(2, "little") + text
    return bytes(128) + b"DICM" + element


def test_a_file_of_another_kind_is_no_dicom_file():
    with pytest.raises(ScanError, match="expected a DICOM file, found another"):
        transfer_syntax(b"\x89PNG" * 100)
    with pytest.raises(IncompleteError, match="found nothing yet"):
        transfer_syntax(bytes(4096))
