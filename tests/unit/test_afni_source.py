"""What AFNI's real-time plugin sends, in both byte orders, with and without a mask."""

import contextlib
import struct

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bci_bridge.sources.afni import Grid, afni
from bci_bridge.sources.listening import place_of
from bci_bridge.sources.source import SeriesEnded
from bci_bridge.sources.tcp_source import TcpSource
from runtime.errors import ScanError
from tests.conversing import Peer, gathered, heard

SHAPE = (5, 4, 3)
AFFINE = np.array(
    [[-2.0, 0.1, 0, 90], [0.1, 2.0, 0, -70], [0, 0, 3.5, -40], [0, 0, 0, 1]]
)
GOODBYE = b"\xde\xad\xde\xad"


def grid(*, is_masked=False):
    mask = np.ones(SHAPE, bool)
    if is_masked:
        mask = np.random.default_rng(1).random(SHAPE) < 0.4
    return Grid(AFFINE, mask)


def volume(seed):
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def hello(mode, count, order="<"):
    return b"\xab\xcd\xef" + bytes([0xAB + mode]) + struct.pack(f"{order}i", count)


def said(made, where, *, order="<", heavy=False, shift_mm=0.0):
    """One TR: six motion parameters, then the voxels, the first index fastest."""
    rows = []
    for place, (k, j, i) in enumerate(np.argwhere(where.mask.transpose(2, 1, 0))):
        x, y, z = (AFFINE @ [i, j, k, 1])[:3]
        value = made[i, j, k]
        row = [place, i, j, k, -x + shift_mm, -y, z, value] if heavy else [value]
        rows.append(row)
    motion = np.zeros(6, f"{order}f4").tobytes()
    return motion + np.array(rows).astype(f"{order}f4").tobytes()


def check(found, made, where):
    shown = np.where(where.mask, made, 0).astype(np.float32)
    wanted = nibabel.as_closest_canonical(nibabel.Nifti1Image(shown, AFFINE))
    np.testing.assert_array_equal(found.voxels, wanted.dataobj)
    np.testing.assert_allclose(found.geometry.affine, wanted.affine, atol=1e-4)
    assert np.isnan(found.geometry.tr_s)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("heavy", [False, True])
def test_voxels_lie_where_the_grid_has_them(order, is_masked, heavy):
    where = grid(is_masked=is_masked)
    volumes = [volume(seed) for seed in range(3)]
    data = hello(2 if heavy else 3, int(where.mask.sum()), order)
    data += b"".join(said(one, where, order=order, heavy=heavy) for one in volumes)
    found, _, left = heard(afni(where), data + GOODBYE)

    assert left == 0
    assert found[-1] == SeriesEnded("peer")
    assert [one.number for one in found[:-1]] == [0, 1, 2]
    for one, made in zip(found[:-1], volumes, strict=True):
        check(one, made, where)


def test_a_run_that_breaks_off_is_aborted():
    where = grid()
    data = hello(3, 60) + said(volume(0), where)
    found, _, _ = heard(afni(where), data)

    assert found[-1] == SeriesEnded("peer", is_aborted=True)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.0", "expected AFNI's hello, found none"),
        (hello(9, 60), "expected AFNI's hello, found none"),
        (hello(0, 60), "or All_Data, found Motion_Only"),
        (hello(1, 60), "or All_Data, found ROI_means"),
        (hello(4, 60), "or All_Data, found ROIs_and_data"),
        (hello(3, 0), "expected a number of voxels, found 0"),
        (hello(3, -5), "expected a number of voxels, found -5"),
        (hello(3, 61), "expected 60 voxels as in the grid of --like, .* found 61"),
    ],
)
def test_what_cannot_be_placed_ends_the_conversation(data, words):
    with pytest.raises(ScanError, match=words):
        heard(afni(grid()), data)


def test_a_grid_that_is_not_afnis_is_noticed_where_coordinates_are_told():
    where = grid()
    data = hello(2, 60) + said(volume(0), where, heavy=True, shift_mm=2.0)
    with pytest.raises(ScanError, match="found some 2 mm away"):
        heard(afni(where), data)


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(data):
    with contextlib.suppress(ScanError):
        heard(afni(grid()), data)
    with contextlib.suppress(ScanError):
        heard(afni(grid()), hello(3, 60) + data)


def test_afni_is_heard_over_a_real_connection():
    where = grid()
    source = TcpSource(place_of("127.0.0.1:0"), "afni", afni(where))
    peer = Peer(source.port, hello(3, 60), said(volume(0), where), GOODBYE)
    peer.start()
    found = gathered(source, 2)
    peer.join(10)
    source.close()

    check(found[0], volume(0), where)
    assert found[1] == SeriesEnded(found[0].series)
