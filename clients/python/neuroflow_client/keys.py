"""The two files that a device gets: its own key, and the public one of the server."""

import os
import stat
from typing import Any, NamedTuple, Optional

import msgspec

from neuroflow_client.errors import KeyFileError

_MAX_BYTES = 1 << 16


class Keys(NamedTuple):
    """What a socket needs; the secret is never printed."""

    public_key: bytes
    secret_key: bytes
    server_key: bytes

    def __repr__(self) -> str:
        """Say nothing: errors and logs print this."""
        return "Keys(...)"


class _PublicKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    public_key: str


class _KeyPair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    public_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"_KeyPair({self.name})"


def keys_from(
    key_file: Optional[str], server_key_file: Optional[str]
) -> Optional[Keys]:
    """Read both files; None where neither is named.

    Raises:
        KeyFileError: If one is missing, damaged, or others can read the secret.
    """
    if key_file is None and server_key_file is None:
        return None
    if key_file is None or server_key_file is None:
        raise KeyFileError(
            "key_file and server_key_file: expected both or neither, found one"
        )
    pair = _decoded(key_file, _KeyPair, is_secret=True)
    server = _decoded(server_key_file, _PublicKey, is_secret=False)
    return Keys(
        pair.public_key.encode(), pair.secret_key.encode(), server.public_key.encode()
    )


def _decoded(file: str, kind: Any, *, is_secret: bool) -> Any:
    try:
        with open(file, "rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            # Windows has no such modes; there, who may read is the folder's matter.
            if is_secret and os.name == "posix" and mode & 0o077:
                raise KeyFileError(
                    f"{file}: expected a file readable by its owner alone, found mode "
                    f"{mode:04o}. Run: chmod 600 {file}"
                )
            data = opened.read(_MAX_BYTES)
    except OSError as error:
        raise KeyFileError(
            f"{file}: expected a key file, found: {error.strerror}"
        ) from error
    try:
        record = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KeyFileError(f"{file}: damaged: {error}") from error
    texts = [
        getattr(record, field) for field in record.__struct_fields__ if field != "name"
    ]
    if any(len(text) != 40 or not text.isascii() for text in texts):
        raise KeyFileError(f"{file}: damaged: expected keys of 40 characters of Z85")
    return record
