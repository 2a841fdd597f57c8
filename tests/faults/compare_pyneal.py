"""The same hostile cases against Pyneal's servers and ours: a table for the docs.

``python -m tests.faults.compare_pyneal PATH_OF_A_PYNEAL_CHECKOUT``. Each case begins
with servers that are new, does one thing, and then asks: is a good volume (or a good
request) still answered within two seconds? Pyneal speaks JSON headers over a PAIR
socket and bare TCP for results; each case is said in either server's own protocol.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import zmq
from neuroflow_client import Client, VolumeOutcome

from bci_bridge.player import run_start_from
from bci_bridge.recording_reader import read_recording
from bci_bridge.sender import Sender
from bci_bridge.settings import Endpoints
from runtime.errors import NeuroFlowError
from tests.integration.tiny import SHAPE, PlayedRun

ROOT = Path(__file__).parents[2]
WAIT_MS = 2000
HTTP = b"GET / HTTP/1.0\r\n\r\n"


def raw(port: int, data: bytes, *, stay_s: float = 0.2) -> None:
    """Say something on a bare connection, and leave."""
    with socket.create_connection(("127.0.0.1", port), 2) as line:
        # Whoever hangs up on it early has refused it, too.
        with contextlib.suppress(ConnectionError):
            line.sendall(data)
        time.sleep(stay_s)


class Theirs:
    """Pyneal in a process of its own, and a scanner that speaks its language."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.scanner_port, self.results_port = json.loads(process.stdout.readline())
        self.context = zmq.Context()
        self.line = self.context.socket(zmq.PAIR)
        self.line.setsockopt(zmq.LINGER, 0)
        self.is_begun = False

    def begin(self) -> None:
        """Do their handshake."""
        self.line.connect(f"tcp://127.0.0.1:{self.scanner_port}")
        self.line.send_string("hello")
        self.is_begun = bool(self.line.poll(WAIT_MS)) and bool(self.line.recv())

    def say(self, index: int, value: int, **changes: object) -> bool:
        """Send a volume; say whether it was acknowledged in time."""
        if not self.is_begun:
            self.begin()
        header = {
            "volIdx": index,
            "dtype": "int16",
            "shape": list(SHAPE),
            "affine": json.dumps(np.eye(4).tolist()),
            "TR": "1.0",
        } | changes
        payload = header.pop("payload", np.full(SHAPE, value, np.int16).tobytes())
        self.line.send_json({k: v for k, v in header.items() if v is not None})
        self.line.send(payload)
        return bool(self.line.poll(WAIT_MS)) and bool(self.line.recv())

    def state(self) -> dict[str, list[float]]:
        """Ask what it holds."""
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        found: dict[str, list[float]] = json.loads(self.process.stdout.readline())
        return found

    def result(self) -> bool:
        """Ask for a result that is there; say whether it came in time."""
        try:
            with socket.create_connection(("127.0.0.1", self.results_port), 2) as line:
                line.settimeout(WAIT_MS / 1000)
                line.sendall(b"0000")
                return b"foundResults" in line.recv(4096)
        except OSError:
            return False


class Ours:
    """Our server under its supervisor, and a sender."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self.process, self.folder = process, folder
        line = process.stdout.readline()
        self.endpoints = msgspec.json.decode(line, type=Endpoints)
        self.pids = json.loads(process.stdout.readline())
        self.scanner_port = int(self.endpoints.address.rpartition(":")[2])
        self.results_port = int(self.endpoints.replay.rpartition(":")[2])
        self.sender: Sender | None = None

    def say(self, index: int, value: int) -> bool:
        """Send a volume; say whether it was answered in time."""
        start = run_start_from(PlayedRun("run-1", 5), speed=None)
        try:
            if self.sender is None:
                self.sender = Sender(self.endpoints.address, start, timeout_s=2)
            volume = np.full(SHAPE, value, np.int16)
            self.sender.volume(index, volume, time.monotonic_ns())
            return any(one.volume_index == index for one in self.outcomes(index))
        except NeuroFlowError:
            return False

    def outcomes(self, upto: int) -> list[VolumeOutcome]:
        """Take the volume outcomes up to an index, for two seconds at most."""
        found: list[VolumeOutcome] = []
        until = time.monotonic() + WAIT_MS / 1000
        client = Client(self.endpoints.address, run="run-1", timeout_s=WAIT_MS / 1000)
        with self.pumping():
            for outcome in client:
                if isinstance(outcome, VolumeOutcome):
                    found.append(outcome)
                is_late = time.monotonic() > until
                if found and (found[-1].volume_index >= upto or is_late):
                    break
        return found

    @contextmanager
    def pumping(self) -> Iterator[None]:
        """Let the sender hear the server, and send again, while a client waits."""
        stopping = threading.Event()

        def body() -> None:
            while self.sender is not None and not stopping.is_set():
                self.sender.pump(10)

        thread = threading.Thread(target=body)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()

    def result(self) -> bool:
        """Ask for an outcome that is there."""
        return any(one.volume_index == 0 for one in self.outcomes(0))


@contextmanager
def theirs(path: str) -> Iterator[Theirs]:
    """Start Pyneal."""
    command = [sys.executable, "-m", "tests.faults.peer_pyneal", path]
    with _process(command) as process:
        peer = Theirs(process)
        try:
            yield peer
        finally:
            peer.context.destroy(linger=0)


@contextmanager
def ours(_: str) -> Iterator[Ours]:
    """Start our server."""
    with tempfile.TemporaryDirectory() as folder:
        config = json.dumps({"address": "tcp://127.0.0.1:*", "recording": folder})
        command = [sys.executable, "-m", "tests.integration.supervised", config]
        with _process(command) as process:
            yield Ours(process, Path(folder))


@contextmanager
def _process(command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/clients/python"}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Case:
    """One thing done to both, and what each makes of it, in a few words."""

    what: str
    theirs: Callable[[Theirs], str]
    ours: Callable[[Ours], str]


def _goes_on(is_answered: bool) -> str:
    return "goes on" if is_answered else "answers nothing more"


def _after_raw(peer: Theirs | Ours, data: bytes) -> str:
    raw(peer.scanner_port, data)
    return _goes_on(peer.say(0, 1))


def _results_after(peer: Theirs | Ours, data: bytes, stay_s: float = 0.2) -> str:
    peer.say(0, 1)
    raw(peer.results_port, data, stay_s=stay_s)
    return _goes_on(peer.result())


def _idle_results(peer: Theirs | Ours) -> str:
    peer.say(0, 1)
    with socket.create_connection(("127.0.0.1", peer.results_port), 2):
        return _goes_on(peer.result())


def _bad_header(peer: Theirs | Ours) -> str:
    peer.say(0, 1)
    if isinstance(peer, Theirs):
        peer.line.send(b"\xff not a header")
    else:
        _rogue(peer, [b"\xff not a header", b""])
    return _goes_on(peer.say(1, 1))


def _short_volume(peer: Theirs | Ours) -> str:
    peer.say(0, 1)
    if isinstance(peer, Theirs):
        peer.say(1, 1, payload=b"\0\0")
        return _goes_on(peer.say(2, 1))
    _rogue(peer, [b"\x92\x80\xc4\x04\0\0\0\0", b"\0\0"])
    return _goes_on(peer.say(1, 1))


def _rogue(peer: Ours, frames: list[bytes]) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as line:
        line.setsockopt(zmq.LINGER, 500)
        line.connect(peer.endpoints.address)
        line.send_multipart(frames)
        line.poll(WAIT_MS)


def _duplicate(peer: Theirs | Ours) -> str:
    peer.say(0, 1)
    if isinstance(peer, Theirs):
        peer.say(0, 9)
        return f"volume 0 held as {peer.state()['first'][0]:g}, without a word"
    peer.say(0, 9)
    for _ in range(20):
        peer.sender.pump(20)
    (first,) = [one for one in peer.outcomes(0) if one.volume_index == 0]
    refused = [reject.reason for reject in peer.sender.refusals]
    return f"volume 0 answered as {first.label}; the second: {', '.join(refused)}"


def _gap(peer: Theirs | Ours) -> str:
    peer.say(0, 1)
    peer.say(2, 1)
    if isinstance(peer, Theirs):
        held = peer.state()["complete"]
        return f"holds {held}; says nothing of volume 1, whose result is awaited"
    found = {one.volume_index: one.input for one in peer.outcomes(2)}
    return f"volume 1 is {found.get(1, 'not answered')}"


def _beyond(peer: Theirs | Ours) -> str:
    peer.say(0, 1)
    peer.say(7, 1)
    if isinstance(peer, Theirs):
        return _goes_on(peer.say(1, 1))
    peer.say(1, 1)
    return _goes_on(bool(peer.outcomes(1)))


def _killed(peer: Theirs | Ours) -> str:
    acknowledged = sum(peer.say(index, 1) for index in range(3))
    if isinstance(peer, Theirs):
        peer.process.send_signal(signal.SIGKILL)
        peer.process.wait()
        return f"{acknowledged} acknowledged, 0 on disk"
    for pid in peer.pids.values():
        os.kill(pid, signal.SIGKILL)
    logged = [entry.topic for entry in read_recording(peer.folder / "inputs")]
    # The first input is the run's beginning.
    kept = logged.count("in/scanner") - 1
    is_back = peer.say(3, 1)
    return f"{acknowledged} answered, {kept} on disk, then {_goes_on(is_back)}"


CASES = [
    Case(
        "an HTTP request to the scanner's port",
        lambda peer: _after_raw(peer, HTTP),
        lambda peer: _after_raw(peer, HTTP),
    ),
    Case(
        "1 MiB of zeros to the scanner's port",
        lambda peer: _after_raw(peer, bytes(1 << 20)),
        lambda peer: _after_raw(peer, bytes(1 << 20)),
    ),
    Case("a header that is none", _bad_header, _bad_header),
    Case("a volume with too few bytes", _short_volume, _short_volume),
    Case("a volume beyond the announced length", _beyond, _beyond),
    Case("the same volume twice, with other voxels", _duplicate, _duplicate),
    Case("a volume that never comes", _gap, _gap),
    Case(
        "an HTTP request to the results' port",
        lambda peer: _results_after(peer, HTTP),
        lambda peer: _results_after(peer, HTTP),
    ),
    Case("an idle connection to the results' port", _idle_results, _idle_results),
    Case("SIGKILL after three acknowledged volumes", _killed, _killed),
]


def main() -> None:
    """Print the table."""
    path = sys.argv[1]
    sys.stdout.write("| what is done | Pyneal | ours |\n|---|---|---|\n")
    for case in CASES:
        with theirs(path) as peer:
            their_answer = case.theirs(peer)
        with ours(path) as server:
            our_answer = case.ours(server)
        sys.stdout.write(f"| {case.what} | {their_answer} | {our_answer} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
