"""Peers that flood a server and are killed in the middle of it.

Two bare sockets of libzmq 4.3.5 can be made to abort like this: input stops at its
mark, the peer dies, and the reader's process ends at an assertion. An ingress that
reads less than comes in must not.
"""

import os
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
        outcomes = list(Client(server.endpoints.address))
        os.kill(ingress, 0)
        report = server.stop()

    volumes = [o.volume_index for o in outcomes if isinstance(o, VolumeOutcome)]
    assert volumes == list(range(RUN_VOLUMES))
    # The floods were read, in part, and refused: they did not merely fail to arrive.
    assert report.rejected["RATE"] >= FLOODERS
