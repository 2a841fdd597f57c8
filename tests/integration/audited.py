"""A server under the interpreter's own eyes: what does it execute while it serves?

Run as a program in a fresh interpreter. Everything is imported first; then every event
by which Python says that it makes code of data, loads a library or starts a program is
recorded while a run is played, hostile peers send garbage and a bundle is opened.
Prints the events as JSON. A hook cannot be taken back: no test may install this one.
"""

import encodings.idna  # noqa: F401  # a socket imports it at its first use
import json
import pickle
import random
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import zmq
from neuroflow_client import Client, VolumeOutcome

from bci_bridge.player import play
from bci_bridge.server import Endpoints, ServeConfig, serve
from runtime.bundle import open_bundle
from tests.integration.hostile import storm
from tests.integration.lines import dealer
from tests.integration.tiny import MeanDecoder, PlayedEvent, PlayedRun
from tests.sealed_folder import write_folder

WATCHED = (
    "code.__new__",
    "compile",
    "ctypes.",
    "exec",
    "marshal.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pickle.",
    "pty.spawn",
    "subprocess.",
)
COUNT = 30
seen: list[tuple[str, str]] = []
is_watching = threading.Event()


def hook(event: str, arguments: tuple[object, ...]) -> None:
    """Note an event with the file that caused it."""
    if is_watching.is_set() and event.startswith(WATCHED):
        frame = sys._getframe(1)
        seen.append((event, f"{frame.f_code.co_filename}: {arguments!r:.300}"))


class Exploit:
    """What would run if anyone unpickled it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Name a function and its argument, as an attacker would."""
        return eval, ("print('run')",)


class PlantedDecoder(MeanDecoder):
    """Does once what must be found."""

    def __init__(self, event: str) -> None:
        super().__init__()
        self._event = event

    def start_run(self, run: object) -> None:
        """Start, and plant one event."""
        super().start_run(run)
        if self._event == "exec":
            eval("1 + 1")
        elif self._event == "pickle.find_class":
            pickle.loads(pickle.dumps(PlayedEvent("t", 0.0)))
        elif self._event == "subprocess.Popen":
            import subprocess

            subprocess.run(["true"], check=True)


def garbage(address: str) -> int:
    """Say what no decent peer would, in every wrapping; return how much."""
    chance = random.Random(5)
    contents = [pickle.dumps(Exploit()), b"\x80\x04.", b"__import__('os')", b"{}", b""]
    contents += [chance.randbytes(size) for size in (1, 9, 80, 700, 9000)]
    sent = 0
    with dealer(address) as peer:
        for header in contents:
            for payload in contents:
                for frames in ([header, payload], [payload], [header, payload, b""]):
                    peer.send_multipart(frames, zmq.DONTWAIT)
                    sent += 1
    return sent


def serve_a_run(folder: Path, decoder: MeanDecoder) -> int:
    """Serve, play, and be attacked; return how many volumes were answered."""
    config = ServeConfig(address="tcp://127.0.0.1:*", recording=str(folder / "log"))
    ready, stop = threading.Event(), threading.Event()
    endpoints: list[Endpoints] = []
    thread = threading.Thread(
        target=serve,
        args=(config, decoder, stop.is_set),
        kwargs={"on_ready": lambda found: (endpoints.append(found), ready.set())},
    )
    thread.start()
    try:
        assert ready.wait(20)
        address = endpoints[0].address
        events = (PlayedEvent("t-1", 0.0), PlayedEvent("t-2", 3.2))
        garbage(address)
        storm(address, 28)
        play(PlayedRun("run-1", COUNT, events), address, None)
        garbage(address)
        outcomes = list(Client(address, run="run-1"))
    finally:
        stop.set()
        thread.join(20)
    return sum(isinstance(one, VolumeOutcome) for one in outcomes)


def main(planted: str) -> None:
    """Watch a whole session; print what was seen and what was done."""
    decoder = PlantedDecoder(planted) if planted else MeanDecoder()
    sys.addaudithook(hook)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_folder(folder / "bundle")
        is_watching.set()
        answered = serve_a_run(folder, decoder)
        with open_bundle(folder / "bundle") as bundle:
            is_open = bool(np.any(bundle.mask)) and len(bundle.golden()) > 0
        is_watching.clear()
    sys.stdout.write(
        json.dumps({"answered": answered, "is_open": is_open, "events": seen})
    )


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
