"""A supervised server in a process of its own: ``python -m tests.faults.host PLAN``.

A supervisor forks, and must not share a process with threads; so faults start it here
and look at it from outside, through a file that says who fills which place.
"""

import sys
import time
from pathlib import Path

import msgspec

from bci_bridge.settings import WORKERS, ServeConfig
from bci_bridge.setup import path_of, read_if_there, write_whole
from bci_bridge.signals import stop_on_signals
from bci_bridge.supervisor import Supervisor, supervised
from tests.faults.jsonlog import JsonLog


class HostPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to serve with."""

    config: ServeConfig
    worker: tuple[str, ...]
    folder: str
    """Where `state.json` and `starts.jsonl` go."""


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """Who fills a place."""

    pid: int
    restarts: int
    is_up: bool
    """It takes turns, if only to catch up."""
    is_ready: bool
    is_active: bool
    """Of a worker: it answers."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A server as its host sees it."""

    address: str
    publish: str
    replay: str
    health: str
    """HOST:PORT; empty where nobody is to ask."""
    host: int
    seats: dict[str, Seat]


def _seats(server: Supervisor) -> dict[str, Seat]:
    found = {}
    for name, pid in server.pids.items():
        ready = server._ready(name)
        found[name] = Seat(
            pid=pid,
            restarts=server.restarts[name],
            is_up=ready is not None,
            is_ready=ready is not None and not ready.is_behind,
            is_active=ready is not None and ready.is_active,
        )
    return found


class _Starts:
    """Writes down how long each worker took until it was up, and until it was ready."""

    def __init__(self, moment: Path, log: JsonLog) -> None:
        self._moment, self._log = moment, log
        self._seen: set[tuple[str, int]] = set()

    def look(self, seats: dict[str, Seat]) -> None:
        for name in WORKERS:
            seat = seats.get(name)
            if seat is not None and seat.is_up:
                self._note("start", name, seat.pid)
            if seat is not None and seat.is_ready:
                self._note("caught up", name, seat.pid)

    def _note(self, what: str, name: str, pid: int) -> None:
        if (what, pid) in self._seen:
            return
        self._seen.add((what, pid))
        ordered = path_of(self._moment, name, "setup").stat().st_mtime_ns
        said = path_of(self._moment, name, "ready").stat().st_mtime_ns
        self._log.write(what, pid=pid, total_ms=(said - ordered) / 1e6)


def main(file: str) -> None:
    plan = msgspec.json.decode(Path(file).read_bytes(), type=HostPlan)
    folder = Path(plan.folder)
    with (
        stop_on_signals() as stop,
        supervised(plan.config, plan.worker) as server,
    ):
        endpoints = server.start(stop)
        if endpoints is None:
            return
        starts = _Starts(server._places.moment, JsonLog(folder / "starts.jsonl"))
        said = None
        while not stop():
            seats = _seats(server)
            starts.look(seats)
            if seats != said:
                said = seats
                state = State(
                    address=endpoints.address,
                    publish=endpoints.publish,
                    replay=endpoints.replay,
                    health=endpoints.health,
                    host=server._setup.supervisor,
                    seats=seats,
                )
                write_whole(folder / "state.json", state)
            server.turn()
        begin = time.monotonic()
        report = server.stop()
        if time.monotonic() - begin > 5:
            sys.stderr.write("host: expected to stop within 5 s\n")
        write_whole(folder / "report.json", report)


def state_in(folder: Path) -> State | None:
    """Read who fills which place; None before the server can be reached."""
    return read_if_there(folder / "state.json", State)


if __name__ == "__main__":
    main(sys.argv[1])
