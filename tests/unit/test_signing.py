"""Signed bundles and galleries: keys on disk, the golden messages, the exact files."""

import json
import os
import stat

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from runtime.bundle import open_bundle
from runtime.errors import ArtifactError, BundleError, UsageError
from runtime.gallery import open_gallery, write_gallery
from runtime.sealed import SIGNATURE
from runtime.signing import Signature, decoded, sign, signing_key
from runtime.signing_keys import (
    folder_signer,
    make_signing_key,
    read_signing_key,
    read_trust,
    sign_folder,
)
from runtime.small_json import encoded
from tests.sealed_folder import write_folder

KEY = signing_key("author", bytes(range(32)))
OTHER = signing_key("other", bytes(32))
TRUST = (KEY.public,)
SHORT = KEY.public_key[:16]


@pytest.fixture
def bundle(tmp_path):
    write_folder(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def gallery(tmp_path):
    write_gallery(
        tmp_path / "gallery",
        latents=np.ones((2, 3, 4), np.float32),
        ids=["a", "b"],
        labels=["x", "y"],
    )
    return tmp_path / "gallery"


def refusal(folder, trust=TRUST):
    with pytest.raises(BundleError) as caught:
        open_bundle(folder, trust=trust)
    return str(caught.value)


def test_the_key_and_signature_are_those_of_the_standard():
    # RFC 8032, section 7.1, test 2.
    secret = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
    key = signing_key("rfc", bytes.fromhex(secret))
    signature = decoded(sign(b"\x72", key), Signature, "test")

    assert key.public_key == (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    )
    assert signature.signature == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


def test_a_signed_bundle_and_gallery_say_who_signed(bundle, gallery):
    shas = [sign_folder(folder, KEY) for folder in (bundle, gallery)]
    with open_bundle(bundle, trust=TRUST) as opened:
        found = [(opened.signer, opened.sha256)]
    chosen = open_gallery(gallery, trust=TRUST)
    found.append((chosen.signer, chosen.sha256))

    assert [sha for _, sha in found] == shas
    for signer, _ in found:
        assert str(signer) == f"signed by author (key {SHORT}), verified"


def test_a_signature_covers_the_exact_bytes_of_the_manifest(bundle):
    sign_folder(bundle, KEY)
    found = decoded((bundle / SIGNATURE).read_bytes(), Signature, "test")
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(found.public_key))
    signature = bytes.fromhex(found.signature)
    manifest = (bundle / "manifest.json").read_bytes()

    public.verify(signature, manifest)
    with pytest.raises(InvalidSignature):
        public.verify(signature, manifest + b" ")


def test_signing_changes_neither_hash_nor_cached_copy(bundle, tmp_path):
    with open_bundle(bundle) as before:
        sha256 = before.sha256
    sign_folder(bundle, KEY)
    cached = [open_bundle(bundle, tmp_path / "cache", trust=TRUST) for _ in range(2)]

    assert {one.sha256 for one in cached} == {sha256}
    assert not (cached[0].folder / SIGNATURE).exists()


def test_a_signature_by_a_key_that_is_not_known_is_never_called_verified(bundle):
    sign_folder(bundle, KEY)
    with open_bundle(bundle) as opened:
        assert str(opened.signer) == f"signed by unknown key {SHORT}, not verified"
    with open_bundle(bundle, trust=(OTHER.public, *TRUST)) as opened:
        assert opened.signer.name == "author"


def test_what_is_demanded_and_not_there_is_named(bundle):
    both = (OTHER.public, *TRUST)
    unsigned = refusal(bundle, both)
    sign_folder(bundle, KEY)
    foreign = refusal(bundle, (OTHER.public,))

    remedy = "Get a signed copy, or trust that signer's key."
    assert unsigned == (
        f"bundle: expected a signature by other, author, found none. {remedy}"
    )
    assert foreign == (
        f"bundle: expected a signature by other, found one by key {SHORT}. {remedy}"
    )


def test_a_signature_that_does_not_fit_is_refused_even_where_none_is_demanded(bundle):
    sign_folder(bundle, KEY)
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text.replace('"01"', '"02"'))
    changed = [refusal(bundle, trust) for trust in (None, TRUST)]
    (bundle / SIGNATURE).write_bytes(b"{}")
    damaged = refusal(bundle, None)
    (bundle / SIGNATURE).write_bytes(b"x" * 10_000)
    long = refusal(bundle, None)

    line = (
        "bundle: manifest.sig: expected a signature that fits the manifest, "
        "found another. Copy the folder again."
    )
    assert changed == [line, line]
    assert damaged == (
        "bundle: manifest.sig: damaged: Object missing required field `public_key`. "
        "Copy the folder again."
    )
    assert long == (
        "bundle: manifest.sig: expected at most 4096 bytes, found more. "
        "Copy the folder again."
    )


def test_a_signature_has_one_spelling_only(bundle):
    sign_folder(bundle, KEY)
    data = (bundle / SIGNATURE).read_bytes()
    for other in (data + b"\n", data.replace(b" ", b""), data.upper()):
        (bundle / SIGNATURE).write_bytes(other)

        assert "bundle: manifest.sig: " in refusal(bundle)


def test_the_signature_of_one_folder_does_not_serve_another(bundle, gallery):
    sign_folder(gallery, KEY)
    (bundle / SIGNATURE).write_bytes((gallery / SIGNATURE).read_bytes())

    assert "expected a signature that fits" in refusal(bundle)


@pytest.mark.parametrize(
    "name", ["manifest.sig.bak", "Manifest.sig", "golden/manifest.sig", "gallery.sig"]
)
def test_no_other_file_may_stand_beside_the_manifest(bundle, name):
    sign_folder(bundle, KEY)
    (bundle / name).write_bytes((bundle / SIGNATURE).read_bytes())

    assert f"found extra {name}" in refusal(bundle)


def test_a_signature_that_is_a_link_or_a_folder_is_refused(bundle, tmp_path):
    (tmp_path / "spare").write_bytes(b"")
    (bundle / SIGNATURE).symlink_to(tmp_path / "spare")
    link = refusal(bundle, None)
    (bundle / SIGNATURE).unlink()
    (bundle / SIGNATURE).mkdir()
    folder = refusal(bundle, None)

    assert link.startswith("manifest.sig: expected a plain file with one name, found a")
    assert folder.startswith("manifest.sig: expected a plain file with one name")


def test_only_what_is_whole_and_unsigned_is_signed(bundle, tmp_path):
    sign_folder(bundle, KEY)
    with pytest.raises(UsageError) as twice:
        sign_folder(bundle, OTHER)
    (bundle / SIGNATURE).unlink()
    (bundle / "graphs/flow.weights").unlink()
    with pytest.raises(BundleError) as broken:
        sign_folder(bundle, KEY)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError) as neither:
        sign_folder(tmp_path / "empty", KEY)

    assert str(twice.value) == (
        f"{bundle}: expected no signature, found one. "
        "Remove manifest.sig to sign it anew"
    )
    assert "found missing graphs/flow.weights" in str(broken.value)
    assert not (bundle / SIGNATURE).exists()
    assert str(neither.value).endswith("an overlay with overlay.json, found none")


def test_the_signer_is_told_without_looking_at_the_files(bundle):
    sign_folder(bundle, KEY)
    (bundle / "graphs/flow.weights").unlink()

    assert folder_signer(bundle, TRUST).name == "author"


def test_keys_are_made_private_and_read_back(tmp_path):
    before = os.umask(0)
    try:
        public = make_signing_key(tmp_path / "ann.key")
    finally:
        os.umask(before)
    key = read_signing_key(tmp_path / "ann.key")
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}

    assert modes == {"ann.key": 0o600, "ann.pub": 0o644}
    assert read_trust([public]) == read_trust([tmp_path]) == (key.public,)
    assert key.secret_key not in repr(key)
    assert key.secret_key not in public.read_text()
    with pytest.raises(UsageError, match=r"ann\.key: expected no such file yet"):
        make_signing_key(tmp_path / "ann.key")
    assert read_signing_key(tmp_path / "ann.key") == key


@pytest.mark.parametrize("name", ["ann.pem", "ann", "a b.key", ".key"])
def test_a_key_has_a_plain_name(tmp_path, name):
    with pytest.raises(UsageError, match="expected a name"):
        make_signing_key(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_key_files_that_others_could_have_read_or_changed_are_refused(tmp_path):
    key, public = tmp_path / "ann.key", make_signing_key(tmp_path / "ann.key")
    key.chmod(0o640)
    public.chmod(0o664)
    with pytest.raises(ArtifactError) as read:
        read_signing_key(key)
    with pytest.raises(ArtifactError) as written:
        read_trust([public])
    public.chmod(0o644)
    tmp_path.chmod(0o777)
    with pytest.raises(ArtifactError) as folder:
        read_trust([tmp_path])

    assert str(read.value).endswith(f"found mode 0640. Run: chmod 600 {key}")
    assert str(written.value).endswith(f"found mode 0664. Run: chmod go-w {public}")
    assert str(folder.value).endswith(f"found mode 0777. Run: chmod go-w {tmp_path}")


def test_a_damaged_key_is_named_without_its_value(tmp_path):
    make_signing_key(tmp_path / "ann.key")
    key = read_signing_key(tmp_path / "ann.key")
    other = json.loads(encoded(key)) | {"public_key": OTHER.public_key}
    (tmp_path / "ann.key").write_text(json.dumps(other))
    with pytest.raises(ArtifactError) as swapped:
        read_signing_key(tmp_path / "ann.key")
    (tmp_path / "ann.key").write_text(json.dumps(other | {"secret_key": "12345"}))
    with pytest.raises(ArtifactError) as short:
        read_signing_key(tmp_path / "ann.key")

    assert str(swapped.value).endswith("belongs to the secret, found another")
    assert "ann.key: damaged: Expected `str` matching" in str(short.value)
    for caught in (swapped, short):
        assert key.secret_key not in str(caught.value)
        assert "12345" not in str(caught.value)


def test_trust_is_never_empty_nor_one_name_for_two(tmp_path):
    (tmp_path / "none").mkdir(mode=0o700)
    with pytest.raises(ArtifactError, match=r"expected NAME\.pub files, found none"):
        read_trust([tmp_path / "none"])
    (tmp_path / "b").mkdir(mode=0o700)
    places = [
        make_signing_key(tmp_path / "ann.key"),
        make_signing_key(tmp_path / "b" / "ann.key"),
    ]
    with pytest.raises(ArtifactError, match="expected one key of the name ann"):
        read_trust(places)
