"""Reorientation to RAS+ against nibabel, on any affine."""

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bci_bridge.sources.volume import to_ras
from runtime.errors import ScanError


@given(st.integers(0, 2**32 - 1))
def test_voxels_and_affine_are_nibabels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = rotation * rng.uniform(0.5, 4.0, size=3)
    affine[:3, 3] = rng.normal(size=3) * 50
    voxels = rng.integers(-999, 999, size=(3, 4, 5)).astype(np.int16)

    turned, turned_affine, old_of = to_ras(voxels, affine)

    oracle = nibabel.as_closest_canonical(nibabel.Nifti1Image(voxels, affine))
    assert np.array_equal(turned, np.asarray(oracle.dataobj))
    np.testing.assert_allclose(turned_affine, oracle.affine, atol=1e-9)
    assert turned.flags.c_contiguous
    assert turned.shape == tuple(voxels.shape[old] for old in old_of)


def test_an_affine_without_an_inverse_is_refused() -> None:
    affine = np.diag([2.0, 0.0, 2.0, 1.0])
    with pytest.raises(ScanError, match="inverse"):
        to_ras(np.zeros((2, 2, 2), np.int16), affine)
