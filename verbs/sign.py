"""`neuroflow sign`: say of bundles and galleries who made them. Prints no secret."""

import sys
from pathlib import Path

from runtime.errors import UsageError
from runtime.signing_keys import make_signing_key, read_signing_key, sign_folder


def sign_folders(
    folders: tuple[Path, ...], *, key: Path | None, make_key: Path | None
) -> None:
    """Make a signer's key, or sign folders with one.

    Args:
        folders: Bundles and galleries.
        key: The signer's secret.
        make_key: Where a new secret goes; nothing is signed then.

    Raises:
        UsageError: Neither or both is asked for, a file is there already, or a folder
            is signed already.
        BundleError: A folder is not exactly what its manifest lists.
        ArtifactError: The key is missing, damaged or open to others, or something
            cannot be written.
    """
    if make_key is not None:
        if key is not None or folders:
            raise UsageError("--make-key: expected alone, found something to sign")
        public = make_signing_key(make_key)
        print(
            f"{make_key}: signing key made; give {public} to those who shall trust it",
            file=sys.stderr,
        )
        return
    if key is None or not folders:
        raise UsageError(
            "sign: expected folders and --key, found one of them or neither. "
            "Make a key with --make-key"
        )
    secret = read_signing_key(key)
    for folder in folders:
        sha256 = sign_folder(folder, secret)
        print(f"{folder}: {sha256[:16]} signed by {secret.name}", file=sys.stderr)
