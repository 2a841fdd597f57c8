"""Words to systemd: a datagram to the socket that it names, and nothing else.

A supervisor that nobody waits for says nothing, and never fails by it.
"""

import contextlib
import socket
from collections.abc import Mapping

VARIABLE = "NOTIFY_SOCKET"


class Notifier:
    """Says lines like ``READY=1`` (sd_notify(3))."""

    def __init__(self, address: str | None) -> None:
        """Remember where to.

        Args:
            address: Path of a datagram socket, or @ and an abstract name; None where
                nobody listens.
        """
        is_known = address is not None and address[:1] in ("/", "@")
        self._address = address if is_known else None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Notifier":
        """Find the address where systemd puts it."""
        return cls(environ.get(VARIABLE))

    def say(self, *lines: str) -> bool:
        """Send; return whether somebody could take it."""
        if self._address is None:
            return False
        to = self._address
        to = f"\0{to[1:]}" if to.startswith("@") else to
        with (
            contextlib.suppress(OSError),
            socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
            ) as line,
        ):
            # A manager that does not read must not hold up who is watched by it.
            line.setblocking(False)
            line.sendto("\n".join(lines).encode(), to)
            return True
        return False
