"""`neuroflow keys`: who may speak with a server. Prints no secret, ever."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from bci_bridge.header import Role
from bci_bridge.keyfolder import (
    make_device,
    make_server,
    read_allow_list,
    revoke_device,
)
from bci_bridge.keyring import Device
from runtime.errors import UsageError


def manage_keys(
    action: Literal["make", "list", "revoke"],
    folder: Path,
    *,
    name: str | None,
    roles: tuple[Role, ...],
    as_json: bool,
) -> None:
    """Do one thing with a folder of keys.

    Raises:
        UsageError: A flag is missing or does not belong to the action, or a name is in
            force already or not at all.
        ArtifactError: The folder is missing, damaged or open to others.
    """
    if roles and (action != "make" or name is None):
        raise UsageError("--roles: expected with make and --name alone")
    if as_json and action != "list":
        raise UsageError(f"--json: expected with list alone, found {action}")
    if name is not None and action == "list":
        raise UsageError("--name: expected with make and revoke alone, found list")
    if action == "list":
        _list(folder, as_json=as_json)
    elif action == "make" and name is None:
        make_server(folder)
        print(f"{folder}: server key made", file=sys.stderr)
    elif name is None:
        raise UsageError(f"--name: expected the device to {action}, found none")
    elif action == "revoke":
        revoke_device(folder, name, datetime.now(UTC))
        print(f"{name}: revoked", file=sys.stderr)
    elif not roles:
        raise UsageError(
            "--roles: expected one or more of scanner, stimulus, observer, operator, "
            "found none"
        )
    else:
        file = make_device(folder, name, roles)
        print(
            f"{name}: carry {file} and {folder / 'server.pub'} to the device",
            file=sys.stderr,
        )


def _list(folder: Path, *, as_json: bool) -> None:
    allowed = read_allow_list(folder)
    if as_json:
        print(msgspec.json.encode(allowed.devices).decode())
        return
    for device in allowed.devices:
        print(_line(device))


def _line(device: Device) -> str:
    state = (
        "in force"
        if device.revoked is None
        else f"revoked {device.revoked.isoformat(timespec='seconds')}"
    )
    roles = ", ".join(device.roles)
    return f"{device.name:<20}  {roles:<30}  {device.public_key}  {state}"
