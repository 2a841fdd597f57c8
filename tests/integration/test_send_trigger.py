"""The scanner's pulses beside its volumes, both into one server's log."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bci_bridge.messages import RunStart
from bci_bridge.recording_reader import read_recording
from bci_bridge.sender import Sender
from bci_bridge.sources.pulses import PulsePlan
from bci_bridge.sources.trigger import send_triggers
from tests.integration.restarting import ROOT
from tests.integration.tiny import SHAPE

SECOND = 1_000_000_000


def start(run):
    return RunStart(run=run, shape=SHAPE, tr_s=1.0, expected_volumes=9, budget_s=1.0)


def triggers(folder, run):
    """What the log of inputs holds of a run: volume indices and instants."""
    records = [entry.envelope.record for entry in read_recording(folder / "inputs")]
    return [
        (one.volume_index, one.pulsed_ns)
        for one in records
        if type(one).__name__ == "Trigger" and one.run == run
    ]


class Script:
    """A device whose pulses come between other things that happen."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.rest_until_s = 0.0

    def pulses(self, wait_s):
        time.sleep(0.01)
        if not self.steps or time.monotonic() < self.rest_until_s:
            return []
        # Longer than the loop needs to learn which run is under way.
        self.rest_until_s = time.monotonic() + 0.5
        return self.steps.pop(0)() or []

    def close(self):
        pass


def test_pulses_of_two_runs_go_on_record_with_their_own(running, tmp_path):
    server, lines, scanners = running(recording=str(tmp_path / "log")), [], []

    def begin(run):
        scanners.append(Sender(server.address, start(run)))

    def end():
        scanners[-1].volume(0, np.zeros(SHAPE, np.int16), time.monotonic_ns())
        scanners[-1].close(1)

    script = Script(
        lambda: [0, SECOND, 2 * SECOND],
        lambda: begin("rest"),
        lambda: [3 * SECOND],
        end,
        lambda: [20 * SECOND, 21 * SECOND],
        lambda: begin("rest-2"),
        end,
    )
    send_triggers(
        script,
        PulsePlan(run="rest", runs=2, discard=1),
        server.address,
        tell=lines.append,
    )
    server.stop()

    assert triggers(tmp_path / "log", "rest") == [
        (0, SECOND),
        (1, 2 * SECOND),
        (2, 3 * SECOND),
    ]
    assert triggers(tmp_path / "log", "rest-2") == [(0, 21 * SECOND)]
    assert lines == [
        "waiting for pulses",
        "run rest: triggers go on record",
        "run rest: 3 triggers",
        "run rest-2: triggers go on record",
        "run rest-2: 1 triggers",
    ]


@pytest.mark.parametrize("device", ["parallel", "serial", "lsl:"])
def test_an_unknown_device_is_wrong_usage(device):
    process = command(device, "--run", "rest")
    lines = process.communicate(timeout=60)[1].decode()

    assert process.returncode == 2
    assert lines == (
        "neuroflow: device: expected keyboard, serial:PORT or lsl:STREAM, "
        f"found {device!r}\n"
    )


def command(*words):
    path = os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])
    return subprocess.Popen(
        [sys.executable, "-m", "neuroflow", "send", "trigger", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_the_verb_follows_a_keyboard_until_it_is_stopped(running, tmp_path):
    server = running(recording=str(tmp_path / "log"))
    process = command("keyboard", "--run", "rest", "--to", server.address)
    assert process.stderr.readline() == b"waiting for pulses\n"
    process.stdin.write(b"5")
    process.stdin.flush()
    scanner = Sender(server.address, start("rest"))
    assert process.stderr.readline() == b"run rest: triggers go on record\n"
    process.send_signal(signal.SIGTERM)
    # Closing its input would be another end than this one.
    assert process.wait(60) == 0
    lines = process.communicate()[1]
    scanner.close()
    server.stop()

    assert lines == b"run rest: 1 triggers\n"
    assert [index for index, _ in triggers(tmp_path / "log", "rest")] == [0]
