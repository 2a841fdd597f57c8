"""Laws of the bundle's loader: whatever is changed, it is noticed."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.bundle import decode_manifest, open_bundle
from runtime.errors import BundleError
from tests.sealed_folder import write_folder


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sealed") / "bundle"
    return folder, write_folder(folder)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_changed_byte_of_any_listed_file_is_refused(sealed, data):
    folder, manifest = sealed
    spec = data.draw(st.sampled_from(manifest.files))
    position = data.draw(st.integers(0, spec.size - 1))
    flip = data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "bundle")
        shutil.copytree(folder, copy)
        content = bytearray((copy / spec.path).read_bytes())
        content[position] ^= flip
        (copy / spec.path).write_bytes(content)

        with pytest.raises(BundleError, match=spec.path):
            open_bundle(copy)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_a_bundle_error(data):
    with pytest.raises(BundleError):
        decode_manifest(data)
