"""What key files and the allow-list say: parsed, checked, changed and looked up.

Pure: bytes in, values out; no file, no socket, no clock. `bci_bridge.keyfolder` reads
and writes the files. A key is 32 bytes, written as 40 characters of Z85 (ZeroMQ RFC
32). The allow-list names devices; a device has one public key and one or more roles.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, structs

from bci_bridge.header import Role
from runtime import small_json
from runtime.errors import ArtifactError, UsageError

T = TypeVar("T", bound=Struct)

SERVER: Final = "server"
"""Name of the server's own key pair; no device can have it."""

MAX_FILE_BYTES: Final = 1 << 20
"""An allow-list of 1,024 devices is a fifth of this."""

Z85: Final = (
    "0123456789abcdefghijklmnopqrstuvwxyz"
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)

# \Z and not $, which would let a newline at the end pass.
DeviceName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")]
"""One safe component of a file name."""

Key = Annotated[str, Meta(min_length=40, max_length=40)]
"""40 characters of Z85."""


def z85_from_bytes(data: bytes) -> str:
    """Write bytes, a multiple of four, as Z85 (ZeroMQ RFC 32)."""
    text = ""
    for start in range(0, len(data), 4):
        value = int.from_bytes(data[start : start + 4], "big")
        text += "".join(Z85[value // 85**place % 85] for place in (4, 3, 2, 1, 0))
    return text


def check_key(text: str) -> None:
    """Refuse what is not 32 bytes of Z85.

    Raises:
        ValueError: Without the text itself, which may be a secret.
    """
    is_z85 = len(text) == 40 and all(letter in Z85 for letter in text)
    groups = [text[start : start + 5] for start in range(0, len(text), 5)]
    # Five letters can spell more than 32 bits hold.
    if not is_z85 or any(_value(group) >= 1 << 32 for group in groups):
        raise ValueError("expected a key of 40 characters of Z85")


def _value(group: str) -> int:
    value = 0
    for letter in group:
        value = value * 85 + Z85.index(letter)
    return value


class PublicKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `server.pub` holds: whom a device expects at the other end."""

    name: DeviceName
    public_key: Key

    def __post_init__(self) -> None:
        check_key(self.public_key)


class KeyPair(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `NAME.key` and `server.key` hold."""

    name: DeviceName
    public_key: Key
    secret_key: Key

    def __post_init__(self) -> None:
        check_key(self.public_key)
        check_key(self.secret_key)

    def __repr__(self) -> str:
        """Say whose it is, never the secret: errors and logs print this."""
        return f"KeyPair({self.name})"

    def __rich_repr__(self) -> Any:
        """Say to rich what `repr` says."""
        yield self.name


class Credentials(Struct, frozen=True, kw_only=True):
    """What a device needs to speak with a server: its own pair and whom to trust."""

    pair: KeyPair
    server_key: Key


class Device(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of the allow-list."""

    name: DeviceName
    public_key: Key
    roles: Annotated[tuple[Role, ...], Meta(min_length=1, max_length=4)]
    """What this key may claim and say; `operator` may say everything."""
    revoked: Annotated[datetime, Meta(tz=True)] | None = None
    """When it was revoked; a key with any instant here is refused."""

    def __post_init__(self) -> None:
        check_key(self.public_key)

    def has_role(self, *roles: Role) -> bool:
        """Say whether one of the roles, or that of the operator, is this key's."""
        return "operator" in self.roles or any(role in self.roles for role in roles)


class AllowList(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `allowed.json` holds: every key that was ever given out."""

    version: Literal[1]
    devices: Annotated[tuple[Device, ...], Meta(max_length=1024)] = ()

    def __post_init__(self) -> None:
        keys = [device.public_key for device in self.devices]
        if len(set(keys)) != len(keys):
            raise ValueError("devices: expected every public key once")
        names = [device.name for device in self.devices if device.revoked is None]
        if len(set(names)) != len(names):
            raise ValueError("devices: expected every name once among those in force")
        if any(device.name == SERVER for device in self.devices):
            raise ValueError(f"devices: expected no device named {SERVER!r}")

    def in_force(self) -> dict[str, Device]:
        """Give the devices that may connect, by public key."""
        return {one.public_key: one for one in self.devices if one.revoked is None}


def decoded(data: bytes, kind: type[T], source: str) -> T:
    """Read one JSON file; whatever is not exactly of its kind is refused.

    Args:
        data: The file's bytes.
        kind: `AllowList`, `KeyPair` or `PublicKey`.
        source: Name of the file for the message.

    Raises:
        ArtifactError: Never with a value of the file in it.
    """
    return small_json.decoded(
        data, kind, source, most_bytes=MAX_FILE_BYTES, error=ArtifactError
    )


def with_device(allowed: AllowList, device: Device) -> AllowList:
    """Add a device.

    Raises:
        UsageError: If its name is in force already, or nothing that can be a name.
    """
    if any(one.name == device.name for one in allowed.in_force().values()):
        raise UsageError(
            f"--name: expected a new name, found {device.name!r} in force. "
            "Revoke it first: neuroflow keys revoke --folder ... --name "
            f"{device.name}"
        )
    return checked(structs.replace(allowed, devices=(*allowed.devices, device)))


def with_revoked(allowed: AllowList, name: str, now: datetime) -> AllowList:
    """Revoke the key that a name has now.

    Raises:
        UsageError: If no key of that name is in force.
    """
    if all(one.name != name for one in allowed.in_force().values()):
        raise UsageError(f"--name: expected a name in force, found {name!r}")
    devices = tuple(
        structs.replace(one, revoked=now)
        if one.name == name and one.revoked is None
        else one
        for one in allowed.devices
    )
    return checked(structs.replace(allowed, devices=devices))


def checked(record: T) -> T:
    """Give a record back if a file that held it could be read again.

    Raises:
        UsageError: Naming the field.
    """
    try:
        return msgspec.convert(msgspec.to_builtins(record), type(record))
    except msgspec.ValidationError as error:
        raise UsageError(f"keys: {error}") from error


def lost_access(before: Mapping[str, Device], after: Mapping[str, Device]) -> bool:
    """Say whether any key may do less than before."""
    return any(
        key not in after or not set(device.roles) <= set(after[key].roles)
        for key, device in before.items()
    )
