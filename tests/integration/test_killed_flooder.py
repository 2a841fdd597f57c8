"""Peers that flood a server and are killed in the middle of it.

A socket of libzmq 4.3.5 that pings its peers aborts its process like this: input stops
at its mark, the peer dies, and the next ping is written to where nobody is. Ours ping
nobody. An ingress that reads less than comes in must outlive them.
"""

import os
import signal
import subprocess
import sys
import time

import pytest
from neuroflow_client import Client, VolumeOutcome

from bci_bridge.player import play
from tests.integration.test_supervisor import ENVIRONMENT, ROOT, supervised
from tests.integration.tiny import PlayedRun

pytestmark = pytest.mark.slow

FLOODERS = 10
RUN_VOLUMES = 20
FLOOD = """
import sys
import zmq
from bci_bridge.messages import Heartbeat, Hello
from bci_bridge.wire import encode

socket = zmq.Context().socket(zmq.DEALER)
socket.setsockopt(zmq.SNDHWM, 100_000)
socket.connect(sys.argv[1])
stream = sys.argv[2]
socket.send_multipart(encode(Hello(stream=stream, role="stimulus")).frames)
beat = encode(Heartbeat(stream=stream)).frames
for _ in range(5_000):
    socket.send_multipart(beat)
print("flooding", flush=True)
while True:
    socket.send_multipart(beat)
"""


def _flood_and_die(address: str, stream: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FLOOD, address, stream],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    ) as flooder:
        assert flooder.stdout.readline() == "flooding\n"
        # Long enough to fill what is between the two, in the middle of a message.
        time.sleep(0.2)
        flooder.kill()


def test_an_ingress_outlives_peers_that_are_killed_in_the_middle_of_a_flood(tmp_path):
    with supervised(tmp_path, rate_per_s=1000, burst=1000) as server:
        ingress = server.pids["ingress"]
        for number in range(FLOODERS):
            _flood_and_die(server.endpoints.address, f"loud-{number}")

        play(PlayedRun("run-1", RUN_VOLUMES), server.endpoints.address, None)
        outcomes = list(Client(server.endpoints.address, run="run-1"))
        os.kill(ingress, 0)
        report = server.stop()

    volumes = [o.volume_index for o in outcomes if isinstance(o, VolumeOutcome)]
    assert volumes == list(range(RUN_VOLUMES))
    # The floods were read, in part, and refused: they did not merely fail to arrive.
    assert report.rejected["RATE"] >= FLOODERS


UNREAD = """
import subprocess
import sys
import time
import zmq
from bci_bridge.endpoints import bound

FULL = '''
import sys
import zmq
socket = zmq.Context().socket(zmq.DEALER)
socket.setsockopt(zmq.SNDTIMEO, 300)
socket.connect(sys.argv[1])
try:
    while True:
        socket.send(bytes(2000))
except zmq.Again:
    print("full", flush=True)
    sys.stdin.read()
'''
context = zmq.Context()
socket, address = bound(context, zmq.ROUTER, "tcp://127.0.0.1:*", high_water=4)
if sys.argv[1] == "pings":
    # For connections from now on.
    socket.setsockopt(zmq.HEARTBEAT_IVL, 50)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10_000)
    socket.bind("tcp://127.0.0.1:*")
    address = socket.getsockopt_string(zmq.LAST_ENDPOINT)
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
with subprocess.Popen([sys.executable, "-c", FULL, address], **pipes) as peer:
    peer.stdout.readline()
    peer.kill()
time.sleep(1.0)
context.destroy(linger=0)
"""


@pytest.mark.parametrize(
    ("options", "status"), [("ours", 0), ("pings", -signal.SIGABRT)]
)
def test_a_socket_outlives_a_peer_that_dies_unread_because_it_does_not_ping(
    options, status
):
    done = subprocess.run(
        [sys.executable, "-c", UNREAD, options],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=60,
    )

    assert done.returncode == status, done.stderr
