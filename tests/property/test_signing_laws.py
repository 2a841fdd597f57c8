"""Laws of signatures: what was changed, by however little, is not what was signed."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.bundle import open_bundle
from runtime.errors import BundleError
from runtime.sealed import SIGNATURE
from runtime.signing import TrustedKey, sign, signer_of, signing_key
from tests.sealed_folder import write_folder

KEY = signing_key("author", bytes(range(32)))
TRUST = (KEY.public,)


def flipped(data, draw):
    at = draw(st.integers(0, len(data) - 1))
    changed = bytearray(data)
    changed[at] ^= draw(st.integers(1, 255))
    return bytes(changed)


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signed") / "bundle"
    write_folder(folder)
    manifest = (folder / "manifest.json").read_bytes()
    (folder / SIGNATURE).write_bytes(sign(manifest, KEY))
    return folder


@given(manifest=st.binary(max_size=300), secret=st.binary(min_size=32, max_size=32))
def test_what_was_signed_is_known_by_its_signer(manifest, secret):
    key = signing_key("someone", secret)

    found = signer_of(manifest, sign(manifest, key), what="b", trust=(key.public,))

    assert found is not None
    assert (found.name, found.public_key) == ("someone", key.public_key)


@given(manifest=st.binary(min_size=1, max_size=300), data=st.data())
def test_any_changed_byte_of_the_manifest_is_refused_trusted_or_not(manifest, data):
    signature = sign(manifest, KEY)
    trust = data.draw(st.sampled_from([TRUST, None]))

    with pytest.raises(BundleError):
        signer_of(flipped(manifest, data.draw), signature, what="b", trust=trust)


@given(manifest=st.binary(max_size=300), data=st.data())
def test_any_changed_byte_of_the_signature_is_refused_trusted_or_not(manifest, data):
    signature = sign(manifest, KEY)
    trust = data.draw(st.sampled_from([TRUST, None]))

    with pytest.raises(BundleError):
        signer_of(manifest, flipped(signature, data.draw), what="b", trust=trust)


@given(manifest=st.binary(max_size=300), data=st.data())
def test_any_changed_byte_of_the_trusted_key_is_refused(manifest, data):
    other = flipped(bytes.fromhex(KEY.public_key), data.draw).hex()
    trust = (TrustedKey(name="author", public_key=other),)

    with pytest.raises(BundleError, match="by key"):
        signer_of(manifest, sign(manifest, KEY), what="b", trust=trust)


@given(signature=st.binary(max_size=300), manifest=st.binary(max_size=20))
def test_any_bytes_are_a_signature_or_a_bundle_error(signature, manifest):
    with pytest.raises(BundleError):
        signer_of(manifest, signature, what="b", trust=None)


@given(manifest=st.binary(max_size=20), has_signature=st.booleans())
def test_nobody_satisfies_an_empty_list_of_trusted_keys(manifest, has_signature):
    signature = sign(manifest, KEY) if has_signature else None

    with pytest.raises(BundleError, match="expected a signature by nobody"):
        signer_of(manifest, signature, what="b", trust=())


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_changed_byte_of_any_file_of_a_signed_bundle_is_refused(signed, data):
    names = [str(p.relative_to(signed)) for p in signed.rglob("*.*") if p.is_file()]
    name = data.draw(st.sampled_from(sorted(names)))
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "bundle")
        shutil.copytree(signed, copy)
        (copy / name).write_bytes(flipped((copy / name).read_bytes(), data.draw))

        with pytest.raises(BundleError):
            open_bundle(copy, trust=TRUST)
