"""The folder of keys on disk: `server.key`, `server.pub`, `NAME.key`, `allowed.json`.

The edge around `bci_bridge.keyring`. A secret is created readable by its owner alone,
and refused where others can read it; the allow-list is refused where others can write
it. Files are replaced whole, so that a server that reloads never sees half of one.
"""

import contextlib
import fcntl
import os
import stat
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
    encoded,
    with_device,
    with_revoked,
)
from runtime.errors import ArtifactError, UsageError

ALLOWED: Final = "allowed.json"
_OTHERS_READ: Final = 0o077
_OTHERS_WRITE: Final = 0o022


def read_allow_list(folder: Path) -> AllowList:
    """Read who is allowed.

    Raises:
        ArtifactError: If it is missing, damaged, or others can change it.
    """
    _refuse_open_folder(folder)
    file = folder / ALLOWED
    return decoded(_read(file, _OTHERS_WRITE, "go-w"), AllowList, str(file))


def read_key_pair(file: Path) -> KeyPair:
    """Read a secret.

    Raises:
        ArtifactError: If it is missing, damaged, or others can read it.
    """
    pair = decoded(_read(file, _OTHERS_READ, "600"), KeyPair, str(file))
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
    public = decoded(_read(server_key, 0, ""), PublicKey, str(server_key))
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
        _replace(file, encoded(pair), 0o600)
        _replace(folder / ALLOWED, encoded(allowed), 0o600)
    return file


def revoke_device(folder: Path, name: str, now: datetime) -> None:
    """Refuse a device from now on; running servers notice within a second.

    Raises:
        UsageError: If no key of that name is in force.
        ArtifactError: If the folder is missing or damaged.
    """
    with _locked(folder):
        allowed = with_revoked(read_allow_list(folder), name, now)
        _replace(folder / ALLOWED, encoded(allowed), 0o600)


def _new_pair(name: str) -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(name=name, public_key=public.decode(), secret_key=secret.decode())


def _write_server(folder: Path) -> None:
    pair = _new_pair(SERVER)
    public = PublicKey(name=SERVER, public_key=pair.public_key)
    if not (folder / ALLOWED).exists():
        _replace(folder / ALLOWED, encoded(AllowList(version=1)), 0o600)
    _replace(folder / f"{SERVER}.pub", encoded(public), 0o644)
    _replace(folder / f"{SERVER}.key", encoded(pair), 0o600)


def _read(file: Path, forbidden: int, remedy: str) -> bytes:
    # One descriptor for check and content: what was checked is what is read.
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ArtifactError(
            f"{file}: expected a key file, found: {error.strerror}"
        ) from error
    with os.fdopen(descriptor, "rb") as opened:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ArtifactError(f"{file}: expected a plain file, found another kind")
        if found.st_mode & forbidden:
            what = "readable" if forbidden == _OTHERS_READ else "writable"
            raise ArtifactError(
                f"{file}: expected a file {what} by its owner alone, found mode "
                f"{stat.S_IMODE(found.st_mode):04o}. Run: chmod {remedy} {file}"
            )
        return opened.read(MAX_FILE_BYTES + 1)


def _refuse_open_folder(folder: Path) -> None:
    try:
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError as error:
        raise ArtifactError(
            f"{folder}: expected a folder of keys, found: {error.strerror}"
        ) from error
    if mode & _OTHERS_WRITE:
        raise ArtifactError(
            f"{folder}: expected a folder writable by its owner alone, found mode "
            f"{mode:04o}. Run: chmod go-w {folder}"
        )


def _replace(file: Path, data: bytes, mode: int) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, mode), "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArtifactError(
            f"{file}: expected a place to write, found: {error.strerror}"
        ) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # Two people who make keys at once must not lose one another's entry.
    _refuse_open_folder(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
