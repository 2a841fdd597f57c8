"""A z_n that is lent is the z_n; what is made of it is the caller's own."""

import numpy as np
import pytest

from runtime.bundle import open_bundle
from runtime.errors import TensorMismatchError, UsageError
from runtime.graphs import SERVED
from runtime.maps import InPlace
from runtime.model import open_model
from tests.models import tiny_bundle


@pytest.mark.parametrize("backend", ["ort", "openvino"])
@pytest.mark.parametrize("form", ["unrolled", "step"])
def test_what_is_decoded_in_place_is_what_is_decoded(form, backend, monkeypatch):
    monkeypatch.setattr("runtime.buffers.READ_BYTES", 0)
    with open_bundle(tiny_bundle()) as bundle:
        rows = bundle.golden()["voxels"][:2].astype(np.float32)
        with open_model(bundle, backend=backend, form=form, parts=SERVED) as model:
            wanted = [model.decode_latent(model.encode_voxels(row)) for row in rows]
            lending = InPlace(model)

            first = lending.encode_voxels(rows[0])
            found = [lending.decode_latent(lending.encode_voxels(row)) for row in rows]
            second = lending.encode_voxels(rows[0])

    np.testing.assert_array_equal(found, wanted)
    assert np.shares_memory(first, second)
    assert not first.flags.writeable
    assert not any(np.shares_memory(z_v, first) for z_v in found)
    assert not np.shares_memory(*found)


def test_what_is_no_input_is_refused_in_place_too():
    with open_bundle(tiny_bundle()) as bundle:
        with open_model(bundle, parts=SERVED) as model:
            voxels = model.manifest.voxels.count
            with pytest.raises(TensorMismatchError, match="voxels"):
                InPlace(model).encode_voxels(np.zeros(voxels + 1, np.float32))
        with pytest.raises(UsageError, match="found it closed"):
            InPlace(model).encode_voxels(np.zeros(voxels, np.float32))
