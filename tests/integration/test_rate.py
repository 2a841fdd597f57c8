"""A peer that floods a server: refused, then put out; nobody else is any worse off."""

import threading
import time

import pytest
import zmq
from msgspec import structs
from neuroflow_client import Client, VolumeOutcome

from bci_bridge.messages import Heartbeat, Hello, Reject, Welcome
from bci_bridge.player import play
from bci_bridge.wire import decode, encode
from tests.integration.lines import dealer
from tests.integration.tiny import PlayedRun

# Floods take their time.
pytestmark = pytest.mark.slow

LIMITS = {"rate_per_s": 100, "burst": 100}
FLOOD = 600
"""More than the burst, what comes meanwhile, and what a peer is forgiven."""


def _flood(peer: "zmq.Socket[bytes]", stream: str) -> list[object]:
    """Say hello and far too much, and return what was answered."""
    peer.send_multipart(encode(Hello(stream=stream, role="stimulus")).frames)
    for number in range(FLOOD):
        beat = structs.replace(Heartbeat(stream=stream), sent_ns=number)
        peer.send_multipart(encode(beat).frames)
    answers = []
    while peer.poll(500):
        answers.append(decode(peer.recv_multipart()).record)
    return answers


def test_a_flood_is_refused_by_one_answer_and_loses_its_lease(running):
    server = running(**LIMITS)
    with dealer(server.address) as peer, dealer(server.address) as successor:
        answers = _flood(peer, "loud")
        begin = time.monotonic()
        successor.send_multipart(encode(Hello(stream="loud", role="stimulus")).frames)
        assert successor.poll(4500)
        answer = decode(successor.recv_multipart()).record
        took_s = time.monotonic() - begin
    report = server.stop()

    refusals = [one.reason for one in answers if isinstance(one, Reject)]
    assert refusals == ["RATE"]
    assert isinstance(answer, Welcome)
    assert took_s < 4.5, "the lease was not given up, it ran out"
    assert set(report.rejected) == {"RATE"}
    assert FLOOD // 2 < report.rejected["RATE"] < FLOOD


def test_a_run_plays_on_beside_a_flood(running):
    server = running(**LIMITS)
    is_over, sent = threading.Event(), [0]
    beat = encode(Heartbeat(stream="loud")).frames

    def flood() -> None:
        with dealer(server.address) as peer:
            while not is_over.is_set():
                peer.send_multipart(beat)
                sent[0] += 1

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        while sent[0] < FLOOD:
            time.sleep(0.001)
        before = sent[0]
        play(PlayedRun("run-1", 20), server.address, None)
        beside = sent[0] - before
        outcomes = list(Client(server.address, run="run-1"))
    finally:
        is_over.set()
        flooder.join()

    volumes = [o.volume_index for o in outcomes if isinstance(o, VolumeOutcome)]
    assert volumes == list(range(20))
    assert beside > LIMITS["burst"]
    assert server.stop().rejected["RATE"] > 0


def test_a_sender_that_is_refused_for_its_rate_sends_again_and_loses_nothing(running):
    # The run needs more than the burst: what is refused waits for tokens.
    server = running(rate_per_s=200, burst=40)

    play(PlayedRun("run-1", 150), server.address, None)
    outcomes = list(Client(server.address, run="run-1"))
    report = server.stop()

    volumes = [o.volume_index for o in outcomes if isinstance(o, VolumeOutcome)]
    assert volumes == list(range(150))
    assert report.rejected["RATE"] > 0
