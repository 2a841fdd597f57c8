"""Pyneal's receiver and results server, as a process that a comparison talks to.

Started with the path of a checkout of Pyneal, which is not part of this project. Prints
the two ports, then answers questions on standard input: which volumes are complete.
"""

import json
import logging
import socket
import sys
import tempfile


def free_ports() -> list[int]:
    """Find two ports that nobody has at the moment."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], other.getsockname()[1]]


def main() -> None:
    """Serve until standard input ends."""
    sys.path.insert(0, sys.argv[1])
    from src.resultsServer import ResultsServer  # type: ignore[import-not-found]
    from src.scanReceiver import ScanReceiver  # type: ignore[import-not-found]

    logging.disable(logging.CRITICAL)
    ports = free_ports()
    settings = {
        "numTimepts": 5,
        "pynealHost": "127.0.0.1",
        "pynealScannerPort": ports[0],
        "resultsServerPort": ports[1],
        "seriesOutputDir": tempfile.mkdtemp(prefix="peer-"),
        "launchDashboard": False,
    }
    said = sys.stdout
    sys.stdout = sys.stderr  # they print; only answers go out here
    receiver, results = ScanReceiver(settings), ResultsServer(settings)
    for thread in (receiver, results):
        thread.daemon = True
        thread.start()
    results.updateResults(0, {"average": 1.0})
    said.write(json.dumps(ports) + "\n")
    said.flush()
    for _ in sys.stdin:
        state = {
            "is_alive": [receiver.is_alive(), results.is_alive()],
            "complete": [int(index) for index in receiver.completedVols.nonzero()[0]],
            "first": None
            if receiver.imageMatrix is None
            else [float(value) for value in receiver.imageMatrix[0, 0, 0, :]],
        }
        said.write(json.dumps(state) + "\n")
        said.flush()


if __name__ == "__main__":
    main()
