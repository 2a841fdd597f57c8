"""Signing keys on disk, and the signing of sealed folders: the edge of `signing`."""

import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from runtime.bundle import MANIFEST, MAX_MANIFEST_BYTES, open_bundle
from runtime.errors import ArtifactError, BundleError, UsageError
from runtime.gallery import GALLERY, MAX_GALLERY_BYTES, open_gallery
from runtime.overlay import MAX_OVERLAY_BYTES, OVERLAY, open_overlay
from runtime.private_file import (
    OTHERS_READ,
    OTHERS_WRITE,
    read_private,
    refuse_open_folder,
    replace_whole,
)
from runtime.sealed import SIGNATURE, read_manifest, read_signature
from runtime.signing import (
    MAX_KEY_BYTES,
    Signer,
    SigningKey,
    Trust,
    TrustedKey,
    checked_pair,
    decoded,
    sign,
    signer_of,
    signing_key,
)
from runtime.small_json import encoded

PRIVATE: Final = ".key"
PUBLIC: Final = ".pub"


def make_signing_key(file: Path) -> Path:
    """Make a signer's key.

    Args:
        file: `NAME.key`, where the secret goes; NAME is the signer's.

    Returns:
        The file with the public half, `NAME.pub` beside it.

    Raises:
        UsageError: It is no such name, or one of the two files exists.
        ArtifactError: The folder cannot be written.
    """
    public = file.with_suffix(PUBLIC)
    if file.suffix != PRIVATE:
        raise UsageError(f"{file}: expected a name that ends in {PRIVATE}, found none")
    for one in (file, public):
        if os.path.lexists(one):
            raise UsageError(f"{one}: expected no such file yet, found one")
    try:
        key = signing_key(file.stem, secrets.token_bytes(32))
    except ArtifactError as error:
        raise UsageError(
            f"{file}: expected a name of letters, digits, _ and -, found another"
        ) from error
    replace_whole(file, encoded(key), 0o600)
    replace_whole(public, encoded(key.public), 0o644)
    return public


def read_signing_key(file: Path) -> SigningKey:
    """Read a signer's secret.

    Raises:
        ArtifactError: If it is missing, damaged, or others can read it.
    """
    data = read_private(file, OTHERS_READ, max_bytes=MAX_KEY_BYTES)
    return checked_pair(decoded(data, SigningKey, str(file)), str(file))


def read_trust(places: Sequence[Path]) -> tuple[TrustedKey, ...]:
    """Read the public keys of those whose signatures count.

    Args:
        places: `NAME.pub` files, and folders of them.

    Raises:
        ArtifactError: A file is missing or damaged, a folder has none, or others could
            have changed one; or one name has two keys.
    """
    keys: dict[str, TrustedKey] = {}
    for place in places:
        files = [place]
        if place.is_dir():
            refuse_open_folder(place)
            files = sorted(place.glob(f"*{PUBLIC}"))
            if not files:
                raise ArtifactError(f"{place}: expected NAME{PUBLIC} files, found none")
        for file in files:
            data = read_private(file, OTHERS_WRITE, max_bytes=MAX_KEY_BYTES)
            key = decoded(data, TrustedKey, str(file))
            if keys.setdefault(key.name, key) != key:
                raise ArtifactError(
                    f"{file}: expected one key of the name {key.name}, found two"
                )
    return tuple(keys.values())


def folder_signer(folder: Path, trust: Trust) -> Signer | None:
    """Say who signed a bundle, gallery or overlay, without looking at its files.

    Raises:
        BundleError: As `signer_of`; or it is none of them.
    """
    manifest, signature = _manifest(folder), read_signature(folder)
    return signer_of(manifest, signature, what=folder.name, trust=trust)


def sign_folder(folder: Path, key: SigningKey) -> str:
    """Sign a bundle, gallery or overlay after checking that it is whole.

    Returns:
        Its sha256.

    Raises:
        BundleError: It is not exactly what its manifest lists, or changes meanwhile.
        UsageError: It is signed already.
        ArtifactError: The signature cannot be written.
    """
    if read_signature(folder) is not None:
        raise UsageError(
            f"{folder}: expected no signature, found one. "
            f"Remove {SIGNATURE} to sign it anew"
        )
    data = _manifest(folder)
    name = manifest_name(folder)
    if name == MANIFEST:
        with open_bundle(folder) as bundle:
            sha256 = bundle.sha256
    elif name == GALLERY:
        sha256 = open_gallery(folder).sha256
    else:
        sha256 = open_overlay(folder).sha256
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(f"{folder}: expected one manifest, found it changing")
    _write_new(folder / SIGNATURE, sign(data, key))
    return sha256


_LIMITS: Final = {
    MANIFEST: MAX_MANIFEST_BYTES,
    GALLERY: MAX_GALLERY_BYTES,
    OVERLAY: MAX_OVERLAY_BYTES,
}


def manifest_name(folder: Path) -> str:
    """Say by its manifest's name what a sealed folder is.

    Raises:
        BundleError: It is no bundle, gallery or overlay, or more than one.
    """
    names = [name for name in _LIMITS if os.path.lexists(folder / name)]
    if len(names) != 1:
        raise BundleError(
            f"{folder}: expected a bundle with {MANIFEST}, a gallery with {GALLERY} or "
            f"an overlay with {OVERLAY}, found {' and '.join(names) or 'none'}"
        )
    return names[0]


def _manifest(folder: Path) -> bytes:
    name = manifest_name(folder)
    return read_manifest(folder, name, max_bytes=_LIMITS[name])


def _write_new(file: Path, data: bytes) -> None:
    # In place: a temporary file would be one too many in a sealed folder.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(file, flags, 0o644), "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise ArtifactError(
            f"{file}: expected a place to write, found: {error.strerror}"
        ) from error
