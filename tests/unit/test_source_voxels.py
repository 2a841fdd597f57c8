"""Any dtype becomes one of the wire, with the same values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bci_bridge.sources.voxels import oddity, to_wire
from runtime.errors import ScanError
from runtime.preprocess.mask import VOLUME_DTYPES

CODES = ["?", "i1", "u1", "<i2", ">i2", "<u2", ">u2", "<i4", ">i4", "<f4", ">f4", "f2"]


@given(
    st.sampled_from(CODES).flatmap(
        lambda code: arrays.arrays(code, arrays.array_shapes(min_dims=3, max_dims=3))
    )
)
def test_values_stay_exactly_as_they_are(voxels):
    found = to_wire(voxels)

    assert found.dtype.name in VOLUME_DTYPES
    assert found.dtype.isnative
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found.astype("f8"), voxels.astype("f8"))


@pytest.mark.parametrize("code", ["i8", "u4", "u8"])
def test_wide_integers_become_int32_where_they_fit(code):
    voxels = np.full((2, 2, 2), 2**31 - 1, code)

    assert to_wire(voxels).dtype == np.int32
    with pytest.raises(ScanError, match="found 2147483648 to 2147483648"):
        to_wire(voxels + np.array(1, code))


def test_doubles_are_rounded_to_the_nearest_float():
    voxels = np.array([[[1 / 3, 1e300 * 0, np.nan, -np.inf]]])

    np.testing.assert_array_equal(to_wire(voxels), voxels.astype(np.float32))
    with pytest.raises(ScanError, match="expected numbers that float32 holds"):
        to_wire(np.full((1, 1, 1), 1e300))


@pytest.mark.parametrize("code", ["c8", "S3", "V4"])
def test_what_is_no_number_is_refused(code):
    with pytest.raises(ScanError, match="expected real numbers"):
        to_wire(np.zeros((1, 1, 1), code))


def test_oddities_are_named():
    usual = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    broken = usual.copy()
    broken[0, 0, :] = np.nan, np.inf

    assert oddity(usual) == ""
    assert oddity(broken) == "2 voxels are not finite"
    assert oddity(np.full((2, 2, 2), 7, np.int16)) == "all voxels are 7"
