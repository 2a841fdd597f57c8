"""The live system: four processes, each of which may die at any instant.

The supervisor starts them, sees at once when one has died or stands still, and puts
another in its place; it meets no peer, holds no state, and reads no log. What a process
must know to go on is in the log, so that whoever is killed is replaced and not mourned.

Ingress and publisher are copies of this process (fork), which has loaded all that they
need and opened nothing: they are there again in milliseconds. Workers are programs of
their own, because engine libraries cannot be copied; that is why one stands by.
"""

import contextlib
import functools
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from bci_bridge.children import Child, died, spawned
from bci_bridge.endpoints import check_address
from bci_bridge.examination import resident_bytes
from bci_bridge.health import checked_health
from bci_bridge.memory_guard import Held, MemoryGuard
from bci_bridge.oversight import Overseer
from bci_bridge.parts import forked, run_ingress, run_publisher
from bci_bridge.places import Places, held_places
from bci_bridge.recording_folder import lacking
from bci_bridge.settings import (
    INGRESS,
    PUBLISHER,
    WORKERS,
    Endpoints,
    IngressReport,
    PublisherReport,
    ServeConfig,
    ServeReport,
    report_from,
)
from bci_bridge.setup import (
    Account,
    Beat,
    Failure,
    Ready,
    Setup,
    path_of,
    read_if_there,
    write_whole,
)
from bci_bridge.unread import UnreadTold
from bci_bridge.urgency import SUPERVISOR, urgent
from bci_bridge.vitals import Patience
from runtime.errors import BackendError, NeuroFlowError, UsageError

POLL_MS: Final = 20
STOP_S: Final = 10.0
"""A process that is told to end and does not is killed after this."""

QUICK_DEATHS: Final = 20
"""Deaths in a row, each soon after the start and before anything could be served, that
no restart will mend. Who was ready and dies is under attack, and goes on."""

QUICK_NS: Final = 1_000_000_000
LOOK_NS: Final = 1_000_000_000
"""How often the accounts of the others are read for trouble."""


class Supervisor:
    """Keeps a server's processes alive.

    Attributes:
        guard: Watches the memory of the workers.
        restarts: Deaths so far, by name of the process.
    """

    def __init__(
        self, config: ServeConfig, places: Places, worker: Sequence[str]
    ) -> None:
        """Describe the server; `start` starts it.

        Args:
            config: Where to listen and what to keep.
            places: Held for this server alone.
            worker: Command of a worker, to which setup file and name are added.
        """
        self._places, self._worker = places, tuple(worker)
        self._overseer = Overseer(places.moment)
        self.guard = MemoryGuard(config.worker_memory_mb, self._held)
        recording = None if places.recording is None else str(places.recording)
        self._setup = Setup(
            config=config,
            recording=recording,
            moment=str(places.moment),
            supervisor=os.getpid(),
        )
        self._deaths: list[str] = []
        self._unread = UnreadTold()
        self._children = {
            name: Child(
                name, start, Beat(places.moment, name), Patience.of(config, name)
            )
            for name, start in (
                (PUBLISHER, self._start_publisher),
                *((name, self._worker_starter(name)) for name in WORKERS),
                (INGRESS, self._start_ingress),
            )
        }

    @property
    def restarts(self) -> dict[str, int]:
        """Deaths so far, by name of the process."""
        return {name: child.restarts for name, child in self._children.items()}

    def notices(self) -> list[str]:
        """Give once what ended nothing but must be told: deaths, and what led there."""
        notices = [*self.guard.notices(), *self._deaths]
        self._deaths.clear()
        return notices

    @property
    def pids(self) -> dict[str, int]:
        """Who fills which place."""
        return {name: child.pid for name, child in self._children.items() if child.pid}

    @property
    def trouble(self) -> str:
        """What must not stay silent, but stops nothing; empty while all is well."""
        came, went = self._account(INGRESS), self._account(PUBLISHER)
        state = (came.came or IngressReport()).recording
        return came.trouble or went.trouble or lacking(self._places.recording, state)

    def losses(self) -> list[str]:
        """Give once, as far as it is known, what of the logs cannot be read."""
        return [
            line
            for name in (PUBLISHER, *WORKERS)
            for line in self._unread.news(self._account(name).unread)
        ]

    def start(self, stop: Callable[[], bool]) -> Endpoints | None:
        """Start all in turn, at last the standby; return when peers can connect.

        Raises:
            NeuroFlowError: A process cannot begin its work.
        """
        gc.collect()
        gc.freeze()
        for name in self._children:
            path_of(self._places.moment, name, "account").unlink(missing_ok=True)
        # One worker loads alone: two would both be late.
        for name in (PUBLISHER, WORKERS[0], INGRESS):
            self._start(self._children[name])
            if not self._wait_until(functools.partial(self._is_ready, name), stop):
                return None
            if name in WORKERS:
                self.guard.require_room(name)
            self._learn(name)
        ready = self._wait_until(
            lambda: all(map(self._is_safe, (INGRESS, PUBLISHER))), stop
        )
        outlet = self._setup.outlet
        if not ready or outlet is None:
            return None
        for name in WORKERS[1:]:
            self._start(self._children[name])
        self._overseer.ready()
        return Endpoints(
            address=self._setup.config.address,
            publish=outlet.publish,
            replay=outlet.replay,
            health=self._setup.config.health or "",
        )

    def turn(self) -> None:
        """Sleep until someone dies, or for a moment; replace who must be replaced.

        Raises:
            NeuroFlowError: One dies again and again, or its sockets are not guarded.
        """
        for child in died(self._children.values(), POLL_MS):
            self._replace(child)
        now_ns = time.monotonic_ns()
        too_large = self.guard.whom_to_end(now_ns)
        for child in self._children.values():
            if child.name == too_large:
                child.condemn("too much memory")
            elif child.is_due(now_ns):
                self._refill(child)
            elif child.pid and not child.is_alive(now_ns):
                child.condemn("no sign of life")
        self._overseer.tell(self._children.values())

    def stop(self) -> ServeReport:
        """End the run and the processes, in the order in which work flows."""
        self._overseer.stopping()
        for names in ((INGRESS,), WORKERS, (PUBLISHER,)):
            self._end([self._children[name] for name in names])
        came, went = self._account(INGRESS).came, self._account(PUBLISHER).went
        return report_from(came or IngressReport(), went or PublisherReport())

    def kill(self) -> None:
        """End all processes at once."""
        for child in self._children.values():
            child.tell(signal.SIGKILL)
            if child.pid:
                child.bury()
            child.beat.close()

    def _start(self, child: Child) -> None:
        for what in ("ready", "failure"):
            path_of(self._places.moment, child.name, what).unlink(missing_ok=True)
        child.start()

    def _start_publisher(self) -> int:
        return forked(run_publisher, self._setup)

    def _start_ingress(self) -> int:
        return forked(run_ingress, self._setup)

    def _worker_starter(self, name: str) -> Callable[[], int]:
        def start() -> int:
            file = path_of(self._places.moment, name, "setup")
            write_whole(file, self._setup)
            return spawned([*self._worker, str(file), name])

        return start

    def _is_ready(self, name: str) -> bool:
        return self._ready(name) is not None

    def _is_safe(self, name: str) -> bool:
        ready = self._ready(name)
        return ready is not None and ready.is_safe

    def _ready(self, name: str) -> Ready | None:
        return read_if_there(path_of(self._places.moment, name, "ready"), Ready)

    def _held(self, name: str) -> Held:
        resident = resident_bytes(self._children[name].pid)
        return Held.by(name, resident, self._ready(name))

    def _account(self, name: str) -> Account:
        path = path_of(self._places.moment, name, "account")
        return read_if_there(path, Account) or Account()

    def _learn(self, name: str) -> None:
        """Keep what a process has found out, for those that start after it."""
        ready = self._ready(name)
        if ready is not None:
            self._setup = self._setup.after(ready)

    def _wait_until(
        self, is_done: Callable[[], bool], stop: Callable[[], bool]
    ) -> bool:
        while not stop():
            if is_done():
                return True
            for child in died(self._children.values(), POLL_MS):
                child.bury()
                # What tells a server to stop may have told this one, too.
                if not stop():
                    raise self._reason(child)
        return False

    def _replace(self, child: Child) -> None:
        child.bury()
        failure = self._failure(child)
        if failure is not None and failure.is_final:
            raise self._reason(child)
        if failure is not None:
            child.ended = failure.message
        child.restarts += 1
        lived_ns = time.monotonic_ns() - child.started_ns
        is_quick = lived_ns < QUICK_NS and not self._is_ready(child.name)
        child.quick_deaths = child.quick_deaths + 1 if is_quick else 0
        if child.quick_deaths == QUICK_DEATHS:
            raise self._reason(child)
        death = f"{child.name} died ({child.ended})"
        try:
            self._start(child)
        except BackendError as error:
            # The rest goes on; the system may make one in a moment.
            said = f"{death} and is not replaced yet: {error}"
            self._deaths.append(f"{said}; it is tried again every second")
        else:
            self._deaths.append(f"{death} and was replaced")

    def _refill(self, child: Child) -> None:
        with contextlib.suppress(BackendError):
            self._start(child)
            self._deaths.append(f"{child.name} was replaced at last")

    def _failure(self, child: Child) -> Failure | None:
        path = path_of(self._places.moment, child.name, "failure")
        return read_if_there(path, Failure)

    def _reason(self, child: Child) -> NeuroFlowError:
        failure = self._failure(child)
        if failure is None:
            return BackendError(
                f"{child.name}: expected it to run, found it dead ({child.ended})"
            )
        kind = UsageError if failure.exit_status == UsageError.exit_status else None
        return (kind or BackendError)(failure.message)

    def _end(self, children: list[Child]) -> None:
        for child in children:
            child.tell(signal.SIGTERM)
        until_ns = time.monotonic_ns() + round(STOP_S * 1e9)
        for child in children:
            if not child.pid:
                continue
            left_ms = max(until_ns - time.monotonic_ns(), 0) // 1_000_000
            if not child.is_over(left_ms):
                child.tell(signal.SIGKILL)
            child.bury()


@contextlib.contextmanager
def supervised(
    config: ServeConfig,
    worker: Sequence[str],
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Supervisor]:
    """Hold a server's places for as long as its processes live.

    Args:
        config: Where to listen and what to keep.
        worker: Command of a worker.
        tell: As of `held_places`.

    Raises:
        UsageError: An address or the recording is not allowed.
    """
    for address in (config.address, config.publish, config.replay):
        check_address(address, has_keys=config.keys is not None)
    if config.health is not None:
        checked_health(config.health)
    recording = None if config.recording is None else Path(config.recording)
    with (
        held_places(recording, tell) as places,
        urgent(SUPERVISOR, is_wanted=config.is_urgent),
    ):
        server = Supervisor(config, places, worker)
        try:
            yield server
        finally:
            server.kill()


def serve_supervised(
    config: ServeConfig,
    worker: Sequence[str],
    stop: Callable[[], bool],
    on_ready: Callable[[Endpoints], None],
    *,
    on_trouble: Callable[[str], None] = lambda _: None,
) -> ServeReport:
    """Serve until `stop` says so; then end a run that is under way as aborted.

    Args:
        config: Where to listen and what to keep.
        worker: Command of a worker, to which setup file and name are added.
        stop: Asked at least every `POLL_MS`.
        on_ready: Called once, when peers can connect.
        on_trouble: Told once of each trouble and each death that ends nothing.

    Raises:
        NeuroFlowError: A process cannot begin its work, or dies again and again.
    """
    with supervised(config, worker, on_trouble) as server:
        endpoints = server.start(stop)
        if endpoints is not None:
            on_ready(endpoints)
        told, looked_ns, is_over = "", 0, stop()
        while not is_over:
            server.turn()
            is_over = stop()
            for notice in server.notices():
                on_trouble(notice)
            # At the end once more: what came within the last second is told, too.
            if time.monotonic_ns() - looked_ns < LOOK_NS and not is_over:
                continue
            trouble, looked_ns = server.trouble, time.monotonic_ns()
            if trouble and trouble != told:
                on_trouble(trouble)
            told = trouble
            for loss in server.losses():
                on_trouble(loss)
        return server.stop()
