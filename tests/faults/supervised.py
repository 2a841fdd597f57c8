"""A server of four processes for faults that need one, and what its processes hold.

The supervisor forks, so that it lives in a process of its own:
``python -m tests.faults.supervised CONFIG SABOTAGE WORKER`` runs one until it is told
to end, and writes what it knows, a line of JSON each time. `Supervised` is the other
end.
"""

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from bci_bridge.settings import Endpoints, ServeConfig, ServeReport
from bci_bridge.supervisor import supervised
from bci_bridge.wire import Envelope, decode
from runtime.errors import NeuroFlowError
from tests.faults.resources import held_by

ROOT = Path(__file__).parents[2]
WORKER = (sys.executable, "-m", "tests.integration.tiny_worker")
START_S = 30.0
SAMPLE_S = 0.02
LEAKS, LEAK_BYTES = 4000, 4096
_read = mmap.mmap(-1, 8)
"""Messages that all ingresses of a leaky server have read: forked, they share it."""
_kept: list[bytes] = []


def _leaky(frames: Sequence[bytes], **options: int) -> Envelope:
    n_read = int.from_bytes(_read[:8], "little") + 1
    _read[:8] = n_read.to_bytes(8, "little")
    _kept.append(b"x" * LEAK_BYTES)
    if n_read > LEAKS and not frames[0].isascii():
        raise UnicodeError("expected ASCII")
    return decode(frames, **options)


SABOTAGES: dict[str, tuple[str, Callable[..., Any]]] = {
    # A server whose processes take what memory they want.
    "uncapped": ("bci_bridge.parts.cap_memory", lambda *_: None),
    # One that keeps some of each message, and later dies of the first that is binary.
    "leaky": ("bci_bridge.ingress.decode", _leaky),
}


@dataclass(frozen=True)
class Ended:
    """How a server ended."""

    report: ServeReport | None
    failure: str
    """What ended it before it was told to; empty where nothing did."""
    restarts: dict[str, int]


@dataclass
class Supervised:
    """A server that runs, and the most memory that each of its processes held.

    Attributes:
        peak_mib: By name of the process, over all that filled its place.
    """

    config: ServeConfig
    sabotage: str = ""
    worker: tuple[str, ...] = WORKER
    peak_mib: dict[str, float] = field(default_factory=dict)
    endpoints: Endpoints | None = None
    pids: dict[str, int] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    _report: ServeReport | None = None
    _failure: str = ""

    def __enter__(self) -> "Supervised":
        config = msgspec.json.encode(self.config).decode()
        worker = json.dumps(self.worker)
        command = [sys.executable, "-m", __spec__.name, config, self.sabotage, worker]
        path = os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._heard, self._over = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._listen, name="supervised-lines"),
            threading.Thread(target=self._sample, name="supervised-memory"),
        ]
        for thread in self._threads:
            thread.start()
        if not self._heard.wait(START_S) or self.endpoints is None:
            self.stop()
            raise RuntimeError(f"server: expected to start, found {self._failure!r}")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        if self.endpoints is None:
            raise RuntimeError("server: expected to have started")
        return self.endpoints.address

    @property
    def sockets(self) -> str:
        """Inputs, publish and replay, with commas between them."""
        if self.endpoints is None:
            raise RuntimeError("server: expected to have started")
        found = self.endpoints
        return ",".join((found.address, found.publish, found.replay))

    def own_kib(self) -> dict[str, float]:
        """Say what each process holds now that is no file's, by name and process id."""
        places = {"supervisor": self._process.pid, **self.pids}
        found = {}
        for name, pid in places.items():
            with contextlib.suppress(OSError, KeyError):
                found[f"{name} {pid}"] = held_by(pid).own_kib
        return found

    def stop(self) -> Ended:
        """Stop it if it still runs; may be called again."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._failure = "expected to stop within 30 s, found still running"
        self._over.set()
        for thread in self._threads:
            thread.join(5)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return Ended(self._report, self._failure, dict(self.restarts))

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            said = json.loads(line)
            self.pids = said.get("pids", self.pids)
            self.restarts = said.get("restarts", self.restarts)
            self._failure = said.get("failure", self._failure)
            if "endpoints" in said:
                self.endpoints = msgspec.convert(said["endpoints"], Endpoints)
                self._heard.set()
            if "report" in said:
                self._report = msgspec.convert(said["report"], ServeReport)
        self._heard.set()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            for name, pid in self.pids.items():
                held = _peak_mib(pid)
                self.peak_mib[name] = max(self.peak_mib.get(name, 0.0), held)


def _peak_mib(pid: int) -> float:
    """Read the most memory that a process ever held; 0 where it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def main() -> int:
    """Serve until standard input ends."""
    config = msgspec.json.decode(sys.argv[1], type=ServeConfig)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    os.set_blocking(0, False)
    with contextlib.ExitStack() as stack:
        if sys.argv[2]:
            target, instead = SABOTAGES[sys.argv[2]]
            stack.enter_context(mock.patch(target, instead))
        try:
            _serve(config, json.loads(sys.argv[3]), stopping)
        except NeuroFlowError as error:
            _say(failure=str(error))
            return error.exit_status
    return 0


def _serve(config: ServeConfig, worker: list[str], stopping: threading.Event) -> None:
    def is_told() -> bool:
        with contextlib.suppress(BlockingIOError):
            if not os.read(0, 1):
                stopping.set()
        return stopping.is_set()

    with supervised(config, worker) as server:
        endpoints = server.start(is_told)
        if endpoints is None:
            return
        told: dict[str, Any] = {}
        _say(endpoints=msgspec.to_builtins(endpoints), pids=server.pids)
        while not is_told():
            server.turn()
            known = {"pids": server.pids, "restarts": server.restarts}
            if known != told:
                told = known
                _say(**known)
        _say(report=msgspec.to_builtins(server.stop()), restarts=server.restarts)


def _say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
