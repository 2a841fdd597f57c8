"""The folder of keys on disk: `server.key`, `server.pub`, `NAME.key`, `allowed.json`.

The edge around `bci_bridge.keyring`. A secret is created readable by its owner alone,
and refused where others can read it; the allow-list is refused where others can write
it. Files are replaced whole, so that a server that reloads never sees half of one.
"""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import zmq

from bci_bridge.header import Role
from bci_bridge.keyring import (
    MAX_FILE_BYTES,
    SERVER,
    AllowList,
    Credentials,
    Device,
    KeyPair,
    PublicKey,
    checked,
    decoded,
    with_device,
    with_revoked,
)
from bci_bridge.names import DEVICE, require_name
from runtime.errors import ArtifactError, UsageError
from runtime.private_file import (
    OTHERS_READ,
    OTHERS_WRITE,
    locked,
    read_private,
    refuse_open_folder,
    replace_whole,
)
from runtime.small_json import encoded

ALLOWED: Final = "allowed.json"


def read_allow_list(folder: Path) -> AllowList:
    """Read who is allowed.

    Raises:
        ArtifactError: If it is missing, damaged, or others can change it.
    """
    refuse_open_folder(folder)
    file = folder / ALLOWED
    return decoded(_read(file, OTHERS_WRITE), AllowList, str(file))


def read_key_pair(file: Path) -> KeyPair:
    """Read a secret.

    Raises:
        ArtifactError: If it is missing, damaged, or others can read it.
    """
    pair = decoded(_read(file, OTHERS_READ), KeyPair, str(file))
    if zmq.curve_public(pair.secret_key.encode()).decode() != pair.public_key:
        raise ArtifactError(
            f"{file}: expected a public key that belongs to the secret, found another"
        )
    return pair


def read_credentials(key: Path | None, server_key: Path | None) -> Credentials | None:
    """Read what a device needs; None where neither file is named.

    Args:
        key: The device's own `NAME.key`.
        server_key: The server's `server.pub`.

    Raises:
        UsageError: If only one is named.
        ArtifactError: If one is missing, damaged, or others can read the secret.
    """
    if key is None and server_key is None:
        return None
    if key is None or server_key is None:
        raise UsageError("--key and --server-key: expected both or neither, found one")
    public = decoded(_read(server_key, 0), PublicKey, str(server_key))
    return Credentials(pair=read_key_pair(key), server_key=public.public_key)


def version_of(folder: Path) -> tuple[int, int, int, int] | None:
    """Tell one state of the allow-list from another; None where there is none."""
    try:
        found = (folder / ALLOWED).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_ctime_ns


def make_server(folder: Path) -> None:
    """Make the folder and the server's key pair in it.

    Raises:
        UsageError: If there is one already.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder):
        if (folder / f"{SERVER}.key").exists():
            raise UsageError(
                f"{folder}: expected no server key, found one. Give --name and --roles "
                "to make a device's key"
            )
        _write_server(folder)


def make_device(folder: Path, name: str, roles: tuple[Role, ...]) -> Path:
    """Make a device's key pair and allow it; make the server's where there is none.

    Returns:
        The file with the device's secret, to be carried to the device.

    Raises:
        UsageError: If the name is in force, or no name.
        ArtifactError: If the folder is damaged.
    """
    if name == SERVER:
        raise UsageError(f"--name: expected a device, found {SERVER!r}")
    require_name("--name", name, DEVICE)
    pair = _new_pair(name)
    device = checked(
        Device(name=name, public_key=pair.public_key, roles=tuple(dict.fromkeys(roles)))
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder):
        if not (folder / f"{SERVER}.key").exists():
            _write_server(folder)
        allowed = with_device(read_allow_list(folder), device)
        # The list last: a crash between leaves a key that nobody lets in.
        file = folder / f"{name}.key"
        replace_whole(file, encoded(pair), 0o600)
        replace_whole(folder / ALLOWED, encoded(allowed), 0o600)
    return file


def revoke_device(folder: Path, name: str, now: datetime) -> None:
    """Refuse a device from now on; running servers notice within a second.

    Raises:
        UsageError: If no key of that name is in force.
        ArtifactError: If the folder is missing or damaged.
    """
    with _locked(folder):
        allowed = with_revoked(read_allow_list(folder), name, now)
        replace_whole(folder / ALLOWED, encoded(allowed), 0o600)


def _new_pair(name: str) -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(name=name, public_key=public.decode(), secret_key=secret.decode())


def _write_server(folder: Path) -> None:
    pair = _new_pair(SERVER)
    public = PublicKey(name=SERVER, public_key=pair.public_key)
    if not (folder / ALLOWED).exists():
        replace_whole(folder / ALLOWED, encoded(AllowList(version=1)), 0o600)
    replace_whole(folder / f"{SERVER}.pub", encoded(public), 0o644)
    replace_whole(folder / f"{SERVER}.key", encoded(pair), 0o600)


def _read(file: Path, forbidden: int) -> bytes:
    return read_private(file, forbidden, max_bytes=MAX_FILE_BYTES)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # Two people who make keys at once must not lose one another's entry.
    refuse_open_folder(folder)
    with locked(folder):
        yield
