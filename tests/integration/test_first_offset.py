"""What a peer on another clock says is related to the server's from its first word."""

import threading
import time

import numpy as np
import pytest
import zmq
from msgspec import structs

from bci_bridge.line import Greeting, Line
from bci_bridge.messages import Hello, Reject, RunStart, Welcome
from bci_bridge.recording_reader import read_recording
from bci_bridge.sender import Sender
from bci_bridge.sources.pulses import PulsePlan
from bci_bridge.sources.trigger import send_triggers
from bci_bridge.wire import decode, encode
from tests.integration.tiny import SHAPE

HOUR_NS = 3600 * 10**9
HELLO = Hello(stream="stimulus", role="stimulus")
WELCOME = Welcome(publish="tcp://127.0.0.1:1", replay="tcp://127.0.0.1:2", sent_ns=7)
BUSY = Reject(reason="BUSY", detail="another sender")


def ahead():
    """The clock of a host that was started an hour earlier."""
    return time.monotonic_ns() + HOUR_NS


def scanner(server):
    start = RunStart(run="rest", shape=SHAPE, tr_s=1.0, expected_volumes=9, budget_s=9)
    return Sender(server.address, start)


def told(folder, kind):
    """What the log of inputs holds of a kind."""
    records = [entry.envelope.record for entry in read_recording(folder / "inputs")]
    return [one for one in records if type(one).__name__ == kind]


def require_an_hour(records):
    for one in records:
        error_ns = abs(one.clock_offset_ns - HOUR_NS)
        assert error_ns <= one.clock_uncertainty_ns < 10**9


def test_a_stimulus_programs_first_words_carry_its_offset(running, tmp_path):
    server = running()
    with scanner(server) as volumes:
        volumes.volume(0, np.zeros(SHAPE, np.int16), time.monotonic_ns())
        address = server.address
        with Sender(address, "rest", role="stimulus", clock_ns=ahead) as stimulus:
            for trial in ("t-0", "t-1", "t-2"):
                stimulus.event(trial, 0.0, 1.0)
                stimulus.shown("picture", ahead(), trial)
    server.stop()

    assert [one.trial_id for one in told(tmp_path, "Event")] == ["t-0", "t-1", "t-2"]
    require_an_hour(told(tmp_path, "Event"))
    assert len(told(tmp_path, "Shown")) == 3
    require_an_hour(told(tmp_path, "Shown"))


def test_the_pulse_of_volume_0_carries_its_hosts_offset(running, tmp_path):
    server, begun, lines = running(), [], []

    class Device:
        def pulses(self, wait_s):
            if begun:
                return []
            begun.append(scanner(server))
            return [ahead(), ahead() + 10**9, ahead() + 2 * 10**9]

        def close(self):
            pass

    send_triggers(
        Device(),
        PulsePlan(run="rest"),
        server.address,
        tell=lines.append,
        is_stopped=lambda: "run rest: triggers go on record" in lines,
        clock_ns=ahead,
    )
    begun[0].close()
    server.stop()

    assert [one.volume_index for one in told(tmp_path, "Trigger")] == [0, 1, 2]
    require_an_hour(told(tmp_path, "Trigger"))


@pytest.mark.parametrize(
    ("answers", "asked_ns", "heard_ns"),
    [
        ([WELCOME], 2, 3),
        # Its first question has an answer, so that this one is the second's.
        ([BUSY, WELCOME], 3, 4),
        # Nobody knows whether it is the first or the second that is answered.
        ([None, WELCOME], 2, 4),
    ],
)
def test_a_greetings_answer_is_never_earlier_than_its_question(
    answers, asked_ns, heard_ns
):
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")

        def answer():
            for one in answers:
                peer, *frames = router.recv_multipart()
                assert isinstance(decode(frames).record, Hello)
                if one is not None:
                    router.send_multipart([peer, *encode(one).frames])

        server = threading.Thread(target=answer)
        server.start()
        line = Line(f"tcp://127.0.0.1:{port}", "stimulus")
        while not line._socket.poll(0, zmq.POLLOUT):
            pass  # connected, so that each question leaves
        instants = iter(range(1, 99))
        found = line.greet(HELLO, 50, lambda: next(instants), lambda: False)
        server.join()
        line.close()

    assert found == Greeting(structs.replace(WELCOME), asked_ns, heard_ns)
