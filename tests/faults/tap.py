"""Every frame that a server announces: ``python -m tests.faults.tap PUBLISH LOG``.

A bare SUB socket that understands nothing, imports nothing of this project, and drops
nothing: a subscriber by the package that others install would leave out what it has
had already, so that an outcome that is announced twice could not be seen.
"""

import json
import os
import signal
import sys

import zmq


def main(publish: str, log: str) -> None:
    """Write down what comes, a line for each message, until told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        # Its publisher is killed and comes back: nothing of that is to be missed.
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(publish)
        while True:
            frames = [frame.hex() for frame in socket.recv_multipart()]
            os.write(fd, json.dumps({"frames": frames}).encode() + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
