"""Whatever bytes arrive: a volume within bounds comes out, or a ScanError."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bci_bridge.sources.dicom_elements import read_elements
from bci_bridge.sources.dicom_image import Slice, contents, facts_of
from bci_bridge.sources.mosaic import tiled
from bci_bridge.sources.siemens_csa import csa_values
from bci_bridge.sources.slices import MAX_SIDE
from bci_bridge.sources.volume import ScannedVolume
from runtime.errors import ScanError
from runtime.preprocess.mask import VOLUME_DTYPES
from tests import dicom_files as files

RECORDED = (
    Path(__file__).parents[3]
    / "shared/data/siemens_mosaic_tr1000/001_000013_000002.dcm"
)


def mosaic():
    if not RECORDED.is_file():
        pytest.skip(f"no data in {RECORDED}")
    return RECORDED.read_bytes()


def require_volumes_or_error(data):
    found = []
    with suppress(ScanError):
        elements = read_elements(data)
        found = list(contents(elements, facts_of(elements).key))
    for one in found:
        if isinstance(one, ScannedVolume):
            assert one.voxels.dtype.name in VOLUME_DTYPES
            assert max(one.voxels.shape) <= MAX_SIDE
            assert np.isfinite(one.geometry.affine).all()
            assert np.isfinite(one.voxels).all()
            assert one.number >= 0
        else:
            assert isinstance(one, Slice) or one.number >= 0


@st.composite
def mutated(draw, whole, end):
    data = bytearray(whole[:end])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        how = draw(st.sampled_from(["flip", "set", "cut", "insert"]))
        if how == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "set":
            some = draw(st.binary(min_size=1, max_size=8))
            data[at : at + len(some)] = some
        elif how == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        else:
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
    return bytes(data) + whole[end:]


@pytest.mark.recording
@given(st.data())
@settings(max_examples=100)
def test_a_recorded_mosaic_with_changed_bytes(data):
    whole = mosaic()
    # The elements before and within the image header: where lengths and values are.
    require_volumes_or_error(data.draw(mutated(whole, 20_000)))


SMALL = files.dumped(files.enhanced([files.volume(0), files.volume(1)]))


@given(mutated(SMALL, len(SMALL)))
@settings(max_examples=100)
def test_an_enhanced_file_with_changed_bytes(data):
    require_volumes_or_error(data)


MOSAIC = files.dumped(files.mosaic(files.volume(), times_ms=[0.0, 9.0, 1.0, 8.0]))


@given(mutated(MOSAIC, len(MOSAIC)))
def test_a_mosaic_with_changed_bytes(data):
    require_volumes_or_error(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_no_csa_header_or_a_short_one(data):
    for header in (data, b"SV10\4\3\2\1" + data):
        with suppress(ScanError):
            csa_values(header, {"SliceNormalVector"})


@given(st.integers(1, 70), st.integers(1, 5), st.integers(1, 5))
def test_tiles_are_cut_row_by_row(slices, rows, columns):
    side = int(np.ceil(np.sqrt(slices)))
    image = np.arange(side * rows * side * columns).reshape(side * rows, side * columns)

    found = tiled(image, slices)

    for index in range(slices):
        down, right = divmod(index, side)
        np.testing.assert_array_equal(
            found[index],
            image[down * rows :, right * columns :][:rows, :columns],
        )
