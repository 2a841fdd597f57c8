"""A bell between the processes of one server: look, there is something new.

A datagram without content; what is new is in the log. A bell that is not heard costs
time until its process looks by itself, and nothing else.
"""

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SUFFIX: Final = ".bell"


class Bell:
    """One process's own bell, and those of the others in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        """Hang it up, in place of one that a killed process left."""
        self._path = folder / f"{name}{SUFFIX}"
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(self._path))
        self._folder = folder
        self._addresses: dict[str, str] = {}

    def fileno(self) -> int:
        """Become readable when it rings."""
        return self._socket.fileno()

    def hush(self) -> None:
        """Forget all rings so far; look for news after this, not before."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)

    def ring(self, names: Sequence[str]) -> None:
        """Ring at others; one that is not there, or rings already, does not mind."""
        for name in names:
            address = self._addresses.get(name)
            if address is None:
                address = self._addresses[name] = str(self._folder / f"{name}{SUFFIX}")
            with contextlib.suppress(OSError):
                self._socket.sendto(b"", address)

    def close(self) -> None:
        """Take it down."""
        self._socket.close()
