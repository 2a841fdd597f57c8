"""How a server is: what its processes say of themselves, and what follows from it.

Pure: plain values and judgement. `bci_bridge.examination` reads them, while
`bci_bridge.pages` and `bci_bridge.metrics` put them into words.

Readiness is strict: a server that is not sure is not ready. It needs a worker that
answers (which verified what it read of the bundle and computed golden vectors before it
could say so), sockets that held against the server's own attack, a log that can be
written with room to spare, and a sign of life of every process. Without standby it is
ready and says that it is degraded.
"""

from dataclasses import dataclass, field
from typing import Final

from bci_bridge.histogram import Histogram
from bci_bridge.pressure import Pressure
from bci_bridge.settings import (
    INGRESS,
    PUBLISHER,
    WORKERS,
    IngressReport,
    PublisherReport,
    ServeConfig,
    unanswered,
)
from bci_bridge.setup import Ready
from bci_bridge.unread import unread_line

SUPERVISOR: Final = "supervisor"
START_S: Final = 120.0
"""A copy of the supervisor may take as long to show life: it reads a log at most."""


@dataclass(frozen=True, slots=True)
class Process:
    """One place of a server, and who fills it."""

    name: str
    ready: Ready | None = None
    """What it said once it could do its work; None before that."""
    last_ns: int | None = None
    """Its last sign of life."""
    restarts: int = 0
    outages: Histogram = field(default_factory=Histogram)
    """From a death to the first sign of life of who came after."""
    resident_bytes: int | None = None
    trouble: str = ""
    unread: dict[str, int] = field(default_factory=dict)
    """By log, messages that it could not read."""


@dataclass(frozen=True, slots=True)
class Log:
    """Where the recording is."""

    is_writable: bool
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Vitals:
    """A server at one instant."""

    now_ns: int
    supervisor: Process
    processes: tuple[Process, ...]
    came: IngressReport
    went: PublisherReport
    log: Log | None
    """None where its folder cannot be looked at, or where nothing is recorded."""
    wrote: Histogram = field(default_factory=Histogram)
    """How long the disk of the outcomes' log took, whoever wrote it."""
    pressure: Pressure = field(default_factory=dict)
    """What the kernel tells; empty where it tells nothing."""

    @property
    def unanswered(self) -> int:
        """Acquisitions of the current run that are owed an outcome."""
        return unanswered(self.came, self.went)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a process may be silent and is taken for alive, in nanoseconds."""

    load_ns: int
    """Before its first sign of life."""
    hang_ns: int
    """After one."""

    @classmethod
    def of(cls, config: ServeConfig, name: str) -> "Patience":
        """Take that with one process, by its name, from a server's configuration."""
        load_s = config.load_s if name in WORKERS else START_S
        return cls(round(load_s * 1e9), round(config.hang_s * 1e9))

    def covers(self, last_ns: int | None, started_ns: int, now_ns: int) -> bool:
        """Say whether a process that runs can be taken for alive.

        Args:
            last_ns: Its last sign of life; None before the first.
            started_ns: When it was started.
            now_ns: This instant.
        """
        if last_ns is None:
            return now_ns - started_ns <= self.load_ns
        return now_ns - last_ns <= self.hang_ns


def why_not_live(vitals: Vitals, config: ServeConfig) -> list[str]:
    """List what keeps the server from being alive at all; empty where it is."""
    return [
        reason
        for one in (vitals.supervisor, _named(vitals, PUBLISHER))
        # Who has not begun to take turns is starting, which may take long.
        if one.last_ns is not None
        for reason in _silence(one, vitals.now_ns, config.hang_s)
    ]


def why_not_ready(vitals: Vitals, config: ServeConfig) -> list[str]:
    """List what keeps the server from being ready; empty where it is."""
    # Half the silence for which it is shot: told before that, not by chance after.
    hang_s = config.hang_s / 2
    reasons = _silence(vitals.supervisor, vitals.now_ns, hang_s)
    for name in (PUBLISHER, INGRESS):
        process = _named(vitals, name)
        if process.ready is None:
            reasons.append(f"{name}: expected it ready, found it starting")
            continue
        if not process.ready.is_safe:
            reasons.append(
                f"{name}: expected its attack on itself to have failed, "
                "found it not over"
            )
        reasons += _silence(process, vitals.now_ns, hang_s)
    workers = [_named(vitals, name) for name in WORKERS]
    active = [one for one in workers if one.ready is not None and one.ready.is_active]
    if not active:
        reasons.append("worker: expected one that answers, found none")
    for process in active:
        reasons += _silence(process, vitals.now_ns, hang_s)
    if config.recording is not None:
        reasons += _why_not_logged(vitals, config)
    return reasons


def what_is_degraded(vitals: Vitals, config: ServeConfig) -> list[str]:
    """List what is not as it should be, but keeps nobody from being answered."""
    found = []
    for name in WORKERS:
        process = _named(vitals, name)
        if process.ready is None:
            found.append(f"{name}: expected it to stand by, found it starting")
        elif process.ready.is_behind:
            found.append(f"{name}: expected it to stand by, found it catching up")
        elif not process.ready.is_active:
            found += _silence(process, vitals.now_ns, config.hang_s / 2)
    # Not a reason to refuse a run. Before a peer has connected nothing is known of its
    # clock, and waiting for it would keep it from connecting; and with a poor one the
    # volumes are answered all the same, only their deadlines are off by as much.
    found += [
        f"clock of {stream}: expected it known within {config.clock_ms:g} ms, "
        f"found {ns / 1e6:.1f} ms"
        for stream, ns in vitals.came.uncertainty_ns.items()
        if ns > config.clock_ms * 1e6
    ]
    found += [f"{one.name}: {one.trouble}" for one in vitals.processes if one.trouble]
    for process in vitals.processes:
        found += [
            f"{process.name}: {unread_line(log, count)}"
            for log, count in process.unread.items()
        ]
    return found


def _named(vitals: Vitals, name: str) -> Process:
    return next((one for one in vitals.processes if one.name == name), Process(name))


def _silence(process: Process, now_ns: int, hang_s: float) -> list[str]:
    if process.last_ns is None:
        found = "none yet"
    elif now_ns - process.last_ns <= round(hang_s * 1e9):
        return []
    else:
        found = f"the last {(now_ns - process.last_ns) / 1e9:.1f} s ago"
    return [
        f"{process.name}: expected a sign of life within {hang_s:g} s, found {found}"
    ]


def _why_not_logged(vitals: Vitals, config: ServeConfig) -> list[str]:
    reasons = []
    if vitals.came.recording != "ON":
        reasons.append(f"log: expected it ON, found it {vitals.came.recording}")
    if vitals.log is None:
        return [*reasons, "log: expected a folder, found none"]
    if not vitals.log.is_writable:
        reasons.append("log: expected a folder to write to, found another")
    free_mb = vitals.log.free_bytes >> 20
    if free_mb < config.free_mb:
        reasons.append(
            f"log: expected {config.free_mb} MiB of room, found {free_mb} MiB"
        )
    return reasons
