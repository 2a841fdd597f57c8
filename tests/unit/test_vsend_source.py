"""MURFI's struct and images, and a port that outlives whoever speaks to it."""

import contextlib
import math
import struct

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bci_bridge.sources.listening import place_of
from bci_bridge.sources.source import Refused
from bci_bridge.sources.tcp_source import IDLE_S, MESSAGE_S, TcpSource
from bci_bridge.sources.volume import ScannedVolume
from bci_bridge.sources.vsend import HEADER_BYTES, vsend
from runtime.errors import ScanError
from tests.conversing import Peer, gathered, heard

SHAPE = (5, 4, 3)
AFFINE = np.array(
    [[-2.0, 0.1, 0, 90], [0.1, 2.0, 0, -70], [0, 0, 3.5, -40], [0, 0, 0, 1]]
)


def header(current=1, *, shape=SHAPE, mosaic=False, **changes):
    """The struct, field by field at the offsets of the compiled one."""
    made = bytearray(HEADER_BYTES)
    values = {
        "magic": (0, "5s", b"ERTI\0"),
        "version": (8, "<i", 4),
        "uid": (12, "64s", b"1.2.3.4"),
        "scan": (76, "64s", b"EPI"),
        "image": (140, "16s", b"3D"),
        "data": (412, "16s", b"int16_t"),
        "little": (428, "B", 1),
        "mosaic": (429, "B", int(mosaic)),
        "columns": (464, "<i", shape[0]),
        "rows": (468, "<i", shape[1]),
        "slices": (472, "<i", shape[2]),
        "matrix": (476, "<16f", *AFFINE.ravel()),
        "tr": (540, "<i", 1500),
        "current": (548, "<i", current),
        "total": (552, "<i", 200),
    }
    for name, value in changes.items():
        values[name] = (*values[name][:2], value)
    for at, kind, *value in values.values():
        struct.pack_into(kind, made, at, *value)
    return bytes(made)


def voxels(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(-99, 999, shape).astype("<i2")


def tiled(volume):
    """A square of slices, as a scanner puts them, by plain loops."""
    columns, rows, slices = volume.shape
    tiles = math.ceil(math.sqrt(slices))
    square = np.zeros((tiles * rows, tiles * columns), "<i2")
    for place in range(slices):
        row, column = divmod(place, tiles)
        square[
            row * rows : (row + 1) * rows, column * columns : (column + 1) * columns
        ] = volume[:, :, place].T
    return square.tobytes()


def check(found, volume):
    wanted = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume, AFFINE))
    np.testing.assert_array_equal(found.voxels, wanted.dataobj)
    np.testing.assert_allclose(found.geometry.affine, wanted.affine, atol=1e-4)


@pytest.mark.parametrize("pre_header", [False, True])
def test_an_image_is_turned_as_nibabel_turns_it(pre_header):
    volume = voxels()
    data = header(7) + volume.tobytes("F")
    if pre_header:
        data = struct.pack("<ii", HEADER_BYTES, volume.nbytes) + data
    (found,), _, left = heard(vsend, data)

    assert (found.series, found.number, left) == ("1.2.3.4", 6, 0)
    assert found.geometry.tr_s == 1.5
    check(found, volume)


@pytest.mark.parametrize("slices", [1, 3, 4, 9, 10])
def test_a_mosaic_is_taken_apart(slices):
    shape = (5, 4, slices)
    volume = voxels(shape)
    data = header(shape=shape, mosaic=True) + tiled(volume)
    (found,), _, left = heard(vsend, data)

    assert left == 0
    check(found, volume)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 3}, "expected header version 4, found 3"),
        ({"data": b"float"}, "expected int16_t, found 'float'"),
        ({"little": 0}, "expected little-endian voxels"),
        ({"rows": 0}, "expected sides of 1 to 1024"),
        ({"rows": -4}, "expected sides of 1 to 1024"),
        ({"rows": 1 << 30}, "expected sides of 1 to 1024"),
        ({"shape": (1024, 1024, 1024)}, "expected up to 256 MiB"),
        ({"current": 0}, "expected images counted from 1, found 0"),
    ],
)
def test_a_bad_header_ends_the_conversation(changes, words):
    with pytest.raises(ScanError, match=words):
        heard(vsend, header(**changes) + voxels().tobytes())


def test_what_is_no_image_ends_the_conversation():
    with pytest.raises(ScanError, match="expected an image of MURFI's"):
        heard(vsend, b"GET / HTTP/1.0\r\n\r\n")


@given(st.binary(max_size=700))
def test_any_bytes_are_survived(data):
    with contextlib.suppress(ScanError):
        heard(vsend, data)
    with contextlib.suppress(ScanError):
        heard(vsend, bytes(a ^ b for a, b in zip(header(), data, strict=False)))


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        self.now_s += 1e-4
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def port(clock):
    source = TcpSource(place_of("127.0.0.1:0"), "murfi", vsend, clock_s=clock)
    yield source
    source.close()


def test_each_image_comes_over_a_connection_of_its_own(port):
    volumes = [voxels(seed=n) for n in range(3)]
    for n, volume in enumerate(volumes):
        peer = Peer(port.port, header(n + 1), volume.tobytes("F"))
        peer.start()
        (found,) = gathered(port, 1)
        peer.join(10)

        assert found.number == n
        check(found, volume)


def test_torn_and_foreign_images_are_refused_and_the_next_one_is_heard(port):
    whole = header(1) + voxels().tobytes("F")
    for data in (whole[:300], whole[:-1], b"x" * 700, b""):
        peer = Peer(port.port, data)
        peer.start()
        found = gathered(port, 1, 20)
        peer.join(10)
        assert [type(one) for one in found] == ([Refused] if data else [])
    peer = Peer(port.port, whole)
    peer.start()
    found = gathered(port, 1)
    peer.join(10)

    assert isinstance(found[0], ScannedVolume)


def test_a_peer_that_stops_in_mid_message_is_sent_away(port, clock):
    peer = Peer(port.port, header(1)[:100], hangs_up=False)
    peer.start()
    assert gathered(port, 1, 20) == []
    clock.now_s += MESSAGE_S + 1
    (refused,) = gathered(port, 1)
    peer.join(10)

    assert refused.why == "expected 608 bytes within 10 s, found 92"


def test_a_silent_peer_makes_room_for_another(port, clock):
    silent = Peer(port.port, hangs_up=False)
    silent.start()
    assert gathered(port, 1, 20) == []
    peer = Peer(port.port, header(1), voxels().tobytes("F"))
    peer.start()
    assert gathered(port, 1, 20) == []
    clock.now_s += IDLE_S + 1
    (found,) = gathered(port, 1)
    silent.join(10)
    peer.join(10)

    assert isinstance(found, ScannedVolume)


def test_a_port_that_is_taken_is_one_clear_line(port):
    with pytest.raises(ScanError, match="expected a free port, found: Address already"):
        TcpSource(place_of(f"127.0.0.1:{port.port}"), "murfi", vsend)
