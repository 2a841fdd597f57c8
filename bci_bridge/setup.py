"""What the processes of one server tell each other besides the logs: small files.

Written whole or not at all, in the folder of the moment. A process that starts reads
what it is to do; once it can do it, it says so, and says with every turn that it lives.
"""

import functools
import os
import struct
from pathlib import Path
from typing import TypeVar

import msgspec

from bci_bridge.admission import Admission
from bci_bridge.places import Places
from bci_bridge.settings import (
    IngressReport,
    Outlet,
    PublisherReport,
    ServeConfig,
    WorkerReport,
)

_BEAT = struct.Struct("<q")
T = TypeVar("T", bound=msgspec.Struct)


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a part must know to start."""

    config: ServeConfig
    """With real ports once they are known, so that a part comes back where it was."""
    recording: str | None
    moment: str
    supervisor: int
    """Process id; who finds it gone ends as well."""
    outlet: Outlet | None = None
    admission: Admission | None = None
    is_restart: bool = False

    @property
    def places(self) -> Places:
        """Where the logs are."""
        recording = None if self.recording is None else Path(self.recording)
        return Places(recording, Path(self.moment))

    def after(self, ready: "Ready") -> "Setup":
        """Return what to know once a part has said what it found out."""
        config, setup = self.config, self
        if ready.outlet is not None:
            config = msgspec.structs.replace(
                config, publish=ready.outlet.publish, replay=ready.outlet.replay
            )
            setup = msgspec.structs.replace(setup, outlet=ready.outlet)
        if ready.health:
            config = msgspec.structs.replace(config, health=ready.health)
        if ready.endpoint:
            config = msgspec.structs.replace(config, address=ready.endpoint)
            setup = msgspec.structs.replace(setup, is_restart=True)
        if ready.admission is not None:
            setup = msgspec.structs.replace(setup, admission=ready.admission)
        return msgspec.structs.replace(setup, config=config)


class Ready(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a part says once it does its work."""

    endpoint: str = ""
    outlet: Outlet | None = None
    admission: Admission | None = None
    is_safe: bool = True
    """Its attack on itself has failed."""
    is_active: bool = False
    """Of a worker: it answers."""
    is_behind: bool = False
    """Of a worker: it has yet to take what was said before it came."""
    health: str = ""
    """Of the publisher: HOST:PORT of health and metrics."""
    is_urgent: bool = False
    """It runs before other programs."""
    engines: dict[str, int] = {}
    """Of a worker: what became of the engines that its cache was asked for."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a part ended that should not have."""

    message: str
    exit_status: int
    is_final: bool = False
    """Whoever took its place would not be safe, or could do no better."""


class Account(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a part has done, as it says when it ends."""

    came: IngressReport | None = None
    went: PublisherReport | None = None
    wrote: WorkerReport | None = None
    trouble: str = ""
    unread: dict[str, int] = {}
    """By log, messages that it could not read."""


def write_whole(path: Path, value: msgspec.Struct) -> None:
    """Write a file that nobody ever sees half of."""
    temporary = _beside(path, os.getpid())
    temporary.write_bytes(msgspec.json.encode(value))
    temporary.replace(path)


@functools.cache
def _beside(path: Path, pid: int) -> Path:
    return path.with_name(f".{path.name}.{pid}")


def read_if_there(path: Path, kind: type[T]) -> T | None:
    """Read such a file; None where it is not there."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None


class Beat:
    """A sign of life that costs a write of eight bytes into memory."""

    def __init__(self, moment: Path, name: str) -> None:
        self._fd = os.open(path_of(moment, name, "beat"), os.O_RDWR | os.O_CREAT, 0o600)

    def beat(self, now_ns: int) -> None:
        """Be alive now."""
        os.pwrite(self._fd, _BEAT.pack(now_ns), 0)

    def last_ns(self) -> int | None:
        """Say when the last one was; None before the first."""
        data = os.pread(self._fd, _BEAT.size, 0)
        return _BEAT.unpack(data)[0] if len(data) == _BEAT.size else None

    def still(self) -> None:
        """Forget the signs of a life that has ended."""
        os.ftruncate(self._fd, 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read_beat(moment: Path, name: str) -> int | None:
    """Say when a part last showed that it lives; None where it has not."""
    try:
        data = path_of(moment, name, "beat").read_bytes()
    except OSError:
        return None
    return _BEAT.unpack(data)[0] if len(data) == _BEAT.size else None


@functools.cache
def path_of(moment: Path, name: str, what: str) -> Path:
    """Name the file in which a part says something.

    Kept, because Python interns the parts of a path: making the same one ten times a
    second for weeks makes its table of such strings anew, half a MiB at a time.
    """
    return moment / f"{name}.{what}"
