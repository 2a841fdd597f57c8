"""A supervised server, its scanner and its subscriber, each a process of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bci_bridge.settings import ServeConfig
from bci_bridge.setup import write_whole
from tests.faults.host import HostPlan, State, state_in
from tests.faults.scanner import Plan
from tests.faults.workers import ROOT, Served

START_S = 60.0
"""Two workers load one after the other, on a machine that may be busy."""


class Part:
    """A program of the tests, started and ended from here."""

    def __init__(self, module: str, *arguments: object) -> None:
        self._command = [sys.executable, "-m", module, *map(str, arguments)]
        self.start()

    def start(self) -> None:
        paths = os.pathsep.join((str(ROOT), str(ROOT / "clients" / "python")))
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(self._command, cwd=ROOT, env=environment)

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 30.0) -> int:
        """Ask it to end; return how it ended."""
        self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.returncode


class Server:
    """A server seen from outside: who fills which place."""

    def __init__(self, folder: Path, served: Served, config: ServeConfig) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        plan = HostPlan(config=config, worker=served.command, folder=str(folder))
        write_whole(folder / "plan.json", plan)
        self._host = Part("tests.faults.host", folder / "plan.json")
        wait_until(lambda: state_in(folder) is not None, self._is_up, START_S)

    @property
    def state(self) -> State:
        state = state_in(self.folder)
        if state is None or not self._is_up():
            raise RuntimeError("server: expected it to run, found it ended")
        return state

    @property
    def pids(self) -> dict[str, int]:
        """Every process of the server, its supervisor included."""
        state = self.state
        seats = {name: seat.pid for name, seat in state.seats.items()}
        return {"supervisor": state.host, **seats}

    def kill(self, name: str) -> tuple[int, int]:
        """SIGKILL who fills a place; return when, and return once it is replaced."""
        seat = self.state.seats[name]
        at_ns = time.monotonic_ns()
        os.kill(seat.pid, signal.SIGKILL)
        wait_until(
            lambda: self.state.seats[name].restarts > seat.restarts, self._is_up, 10.0
        )
        return at_ns, seat.pid

    def stop(self) -> int:
        return self._host.stop()

    def kill_all(self) -> None:
        """SIGKILL the supervisor; return once nobody is left."""
        pids = self.pids.values()
        self._host.kill()
        wait_until(lambda: not any(map(_lives, pids)))

    def _is_up(self) -> bool:
        return self._host.process.poll() is None


def _lives(pid: int) -> bool:
    """Say whether a process runs; one that nobody has buried yet does not."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return False
    return said.rpartition(")")[2].split()[0] != "Z"


def wait_until(
    is_done: Callable[[], bool],
    is_alive: Callable[[], bool] = lambda: True,
    timeout_s: float = 30.0,
    pause_s: float = 0.005,
) -> bool:
    """Wait; say whether it came about.

    Raises:
        RuntimeError: What was waited for has died.
    """
    end = time.monotonic() + timeout_s
    while not is_done():
        if not is_alive():
            raise RuntimeError("expected it to live, found it dead")
        if time.monotonic() > end:
            return False
        time.sleep(pause_s)
    return True


@contextmanager
def serving(
    folder: Path, served: Served, *, is_recording: bool = True, has_health: bool = False
) -> Iterator[Server]:
    """Start a server; stop it at the end, whatever happened.

    Args:
        folder: For its state, and its recording.
        served: The workers.
        is_recording: Record to the disk.
        has_health: Let a monitor ask for health and metrics.
    """
    config = ServeConfig(
        address="tcp://127.0.0.1:*",
        recording=str(folder / "recording") if is_recording else None,
        health="127.0.0.1:*" if has_health else None,
    )
    server = Server(folder, served, config)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def part(module: str, *arguments: object) -> Iterator[Part]:
    """Start a program; end it at the end, whatever happened."""
    started = Part(module, *arguments)
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.stop()


def plan_in(folder: Path, plan: Plan) -> Path:
    """Write down what a scanner is to play."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "scanner.json"
    file.write_bytes(msgspec.json.encode(plan))
    return file
