"""MRD images; the reference library builds what is sent, and is the oracle."""

import contextlib
import struct

import ismrmrd
import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bci_bridge.sources.listening import place_of
from bci_bridge.sources.mrd import mrd
from bci_bridge.sources.source import Refused, SeriesEnded
from bci_bridge.sources.tcp_source import TcpSource
from bci_bridge.sources.volume import ScannedVolume
from runtime.errors import ScanError
from tests.conversing import Peer, gathered, heard

COLUMNS, ROWS, SLICES = 5, 4, 3
VIEW_MM = np.array([10.0, 10.0, 9.0])
XML = b"""<?xml version="1.0"?><ismrmrdHeader><encoding><encodingLimits>
<slice> <minimum>0</minimum> <maximum>%d</maximum> <center>0</center></slice>
</encodingLimits></encoding><sequenceParameters> <TR>720</TR></sequenceParameters>
</ismrmrdHeader>\0"""


def turned(angle=0.2):
    """Directions of rows, columns and slices, oblique."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) @ np.array(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )


def image(repetition=0, dtype=np.int16, *, place=None, seed=0, **changes):
    """One volume, or one slice of it, as the library makes it."""
    rng = np.random.default_rng(seed + repetition)
    pixels = rng.integers(0, 1000, (SLICES, ROWS, COLUMNS)).astype(dtype)
    view, position, directions = VIEW_MM.copy(), np.array([3.0, -4.0, 5.0]), turned()
    if place is not None:
        pixels = pixels[place : place + 1]
        view[2] /= SLICES
        position = position + directions[:, 2] * view[2] * (place - (SLICES - 1) / 2)
    made = ismrmrd.Image.from_array(pixels, transpose=False)
    made.repetition, made.image_type, made.image_series_index = repetition, 1, 1
    made.field_of_view, made.position = tuple(view), tuple(position)
    made.read_dir, made.phase_dir, made.slice_dir = map(tuple, directions.T)
    if place is not None:
        made.slice = place
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def message(made):
    parts = [struct.pack("<H", 1022)]
    made.serialize_into(parts.append)
    return b"".join(bytes(part) for part in parts)


def metadata(n_slices=1):
    text = XML % (n_slices - 1)
    return struct.pack("<HI", 3, len(text)) + text


CLOSE = struct.pack("<H", 4)


def oracle(made):
    """The volume in RAS+, by nibabel, its affine from the standard's words."""
    step = turned() * (VIEW_MM / [COLUMNS, ROWS, SLICES])
    centre = (np.array([COLUMNS, ROWS, SLICES]) - 1) / 2
    affine = np.eye(4)
    affine[:3, :3] = step
    affine[:3, 3] = np.array([3.0, -4.0, 5.0]) - step @ centre
    pixels = made.data[0].transpose(2, 1, 0)
    image = nibabel.Nifti1Image(
        pixels.astype(np.float64), np.diag([-1.0, -1, 1, 1]) @ affine
    )
    return nibabel.as_closest_canonical(image)


# The library cannot make int32 images.
@pytest.mark.parametrize(
    "dtype", [np.int16, np.uint16, np.uint32, np.float32, np.float64]
)
def test_volumes_are_turned_as_nibabel_turns_them(dtype):
    images = [image(number, dtype) for number in range(3)]
    data = b"".join([metadata(), *map(message, images), CLOSE])
    found, sent, left = heard(mrd(), data)

    assert (sent, left) == (CLOSE, 0)
    assert found[-1] == SeriesEnded("peer")
    for volume, made in zip(found[:-1], images, strict=True):
        wanted = oracle(made)
        assert (volume.series, volume.number) == ("peer", made.repetition)
        np.testing.assert_array_equal(volume.voxels, wanted.get_fdata())
        np.testing.assert_allclose(volume.geometry.affine, wanted.affine, atol=1e-4)
        assert volume.geometry.tr_s == 0.72


def test_slices_are_stacked_in_whatever_order_they_come():
    whole = image(0)
    slices = [message(image(0, place=place)) for place in (2, 0, 1)]
    found, _, _ = heard(mrd(), metadata(SLICES) + b"".join(slices))
    wanted = oracle(whole)

    assert found[1:] == [SeriesEnded("peer", is_aborted=True)]
    np.testing.assert_array_equal(found[0].voxels, wanted.get_fdata())
    np.testing.assert_allclose(found[0].geometry.affine, wanted.affine, atol=1e-4)


def test_a_volume_of_which_a_slice_is_missing_is_refused():
    parts = [message(image(0, place=0)), message(image(0, place=2))]
    for repetition in (1, 2, 3):
        parts += [message(image(repetition, place=place)) for place in range(2)]
    found, _, _ = heard(mrd(), metadata(SLICES) + b"".join(parts))

    assert found[0] == Refused("an MRD image", "expected 3 slices, found 2")


def test_a_slice_that_no_volume_has_is_refused():
    parts = [message(image(0, place=place)) for place in (0, 1)]
    stray = image(0, place=2)
    stray.slice = 7
    found, _, _ = heard(mrd(), metadata(SLICES) + b"".join([*parts, message(stray)]))

    assert found[0] == Refused("an MRD image", "expected slices 0 to 2, found 7")
    assert len(found) == 2


def test_a_peer_that_never_pauses_holds_nobody_up():
    ticks = iter(range(10_000_000))
    source = TcpSource(
        place_of("127.0.0.1:0"), "mrd", mrd(), clock_s=lambda: next(ticks) * 1e-3
    )
    texts = struct.pack("<HI4x", 5, 4) * 500
    peer = Peer(source.port, metadata(), texts, message(image(0)), CLOSE)
    peer.start()
    n_waits = 0
    while (volume := source.poll(0.01)) is None and n_waits < 1000:
        n_waits += 1
    gathered(source, 1)
    peer.join(10)
    source.close()

    assert n_waits > 50
    assert isinstance(volume, ScannedVolume)


class _Room:
    """A conversation that memory is too small for."""

    def __call__(self, name, arrivals):
        yield 4
        raise MemoryError


def test_what_memory_does_not_hold_is_refused_in_one_line():
    source = TcpSource(place_of("127.0.0.1:0"), "mrd", _Room())
    peer = Peer(source.port, b"1234")
    peer.start()
    (found,) = gathered(source, 1)
    peer.join(10)
    source.close()

    assert found.why == "expected what memory holds, found more"


def test_the_position_of_the_first_voxel_is_understood_where_it_is_said():
    centred = heard(mrd(), message(image(0)))[0][0]
    step = turned() * (VIEW_MM / [COLUMNS, ROWS, SLICES])
    corner = [3.0, -4.0, 5.0] - step @ ((np.array([COLUMNS, ROWS, SLICES]) - 1) / 2)
    made = image(0, position=tuple(corner))
    cornered = heard(mrd("corner"), message(made))[0][0]

    np.testing.assert_allclose(
        cornered.geometry.affine, centred.geometry.affine, atol=1e-4
    )


def test_the_time_of_day_is_told_and_an_untold_tr_is_left_to_the_operator():
    volume = heard(mrd(), message(image(0, acquisition_time_stamp=400)))[0][0]

    assert volume.acquired_s == 1.0
    assert np.isnan(volume.geometry.tr_s)


def test_other_messages_are_passed_over():
    wave = ismrmrd.Waveform.from_array(np.ones((2, 7), np.uint32))
    parts = [struct.pack("<H", 1026)]
    wave.serialize_into(parts.append)
    data = b"".join(
        [
            struct.pack("<H", 1) + b"fmri".ljust(1024, b"\0"),
            struct.pack("<HI", 2, 3) + b"{}\0",
            struct.pack("<HI", 5, 3) + b"hi\0",
            *(bytes(part) for part in parts),
            message(image(0, image_type=2)),
            message(image(0, contrast=1)),
            message(image(0)),
            message(image(0, image_series_index=7)),
            CLOSE,
        ]
    )
    found, _, left = heard(mrd(), data)

    assert [type(one) for one in found] == [ScannedVolume, SeriesEnded]
    assert left == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (struct.pack("<H", 1008), "expected images, found raw data"),
        (struct.pack("<H", 77), "expected a message of MRD, found number 77"),
        (struct.pack("<HI", 3, 1 << 30), "expected texts of up to 16 MiB"),
        (b"GET / HTTP/1.0\r\n\r\n", "expected a message of MRD, found number 17735"),
    ],
)
def test_what_is_no_image_ends_the_conversation(data, words):
    with pytest.raises(ScanError, match=words):
        heard(mrd(), data)


@pytest.mark.parametrize(
    ("offset", "kind", "value", "words"),
    [
        (2, "<H", 7, "expected real images of data type 1 to 6, found 7"),
        (16, "<H", 0, "expected sides of 1 to 1024"),
        (16, "<H", 60000, "expected sides of 1 to 1024"),
        (34, "<H", 60000, "expected images of up to 512 MiB"),
        (198, "<Q", 1 << 60, "expected attributes of up to 16 MiB"),
    ],
)
def test_a_bad_image_header_ends_the_conversation(offset, kind, value, words):
    data = bytearray(message(image(0, np.float64)))
    if value == 60000 and offset == 34:
        struct.pack_into("<3H", data, 2 + 16, 1000, 1000, 1)
    struct.pack_into(kind, data, 2 + offset, value)
    with pytest.raises(ScanError, match=words):
        heard(mrd(), bytes(data))


def test_an_image_that_lies_nowhere_is_refused_and_the_next_one_is_not():
    nowhere = message(image(0, read_dir=(0.0, 0.0, 0.0)))
    found, _, _ = heard(mrd(), nowhere + message(image(1)) + CLOSE)

    assert [type(one) for one in found] == [Refused, ScannedVolume, SeriesEnded]


@given(st.binary(max_size=400))
def test_any_bytes_are_survived(data):
    with contextlib.suppress(ScanError):
        heard(mrd(), data)


def test_a_client_is_heard_over_a_real_connection():
    source = TcpSource(place_of("127.0.0.1:0"), "mrd", mrd(), new_name=lambda: "7")
    peer = Peer(source.port, metadata(), *(message(image(n)) for n in range(3)), CLOSE)
    peer.start()
    found = gathered(source, 4)
    source.poll(0.05)
    peer.join(10)
    source.close()

    assert [type(one) for one in found] == [*[ScannedVolume] * 3, SeriesEnded]
    assert found[0].series == "mrd-7"
    assert peer.answer == CLOSE
