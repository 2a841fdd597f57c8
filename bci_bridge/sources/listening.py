"""Where a source listens for a scanner's software: one port, on loopback by default."""

import ipaddress
from dataclasses import dataclass

from bci_bridge.endpoints import is_loopback, is_one_interface
from runtime.errors import UsageError


@dataclass(frozen=True, slots=True)
class Place:
    """A host's address and a port on it."""

    host: str
    port: int

    @property
    def is_plain(self) -> bool:
        """Others than this machine can speak to it, and nothing is encrypted."""
        return not is_loopback(self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def place_of(text: str) -> Place:
    """Read HOST:PORT; the host is a number, or "localhost".

    Raises:
        UsageError: It is not that.
    """
    host, _, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        ipaddress.ip_address(host)
        number = int(port)
    except ValueError as error:
        raise UsageError(
            f"--listen: expected HOST:PORT with the number of one interface, such as "
            f"127.0.0.1:{port if port.isdecimal() else '5555'}, found {text!r}"
        ) from error
    if not is_one_interface(host):
        raise UsageError(
            f"--listen: expected the number of one interface, found {host}. Name the "
            "one that the scanner reaches"
        )
    if not 0 <= number <= 65535:
        raise UsageError(f"--listen: expected a port up to 65535, found {number}")
    return Place(host, number)


def warning(place: Place, what: str) -> str:
    """Say what the operator must know of a port that others can reach; else nothing."""
    if not place.is_plain:
        return ""
    return (
        f"warning: {what} has no encryption and no keys: whoever reaches {place} can "
        "send volumes. Use a network of its own, or a tunnel to loopback"
    )
