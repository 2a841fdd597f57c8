"""A sender that is killed at any moment: its successor loses and doubles nothing."""

import random
import time

import pytest
from neuroflow_client import Client, TrialOutcome, VolumeOutcome

from bci_bridge.recording_reader import read_recording
from bci_bridge.unfinished import held_run
from tests.integration.restarting import killed, started

COUNT = 3000
PLAYER = f"""
import sys, time
from pathlib import Path
from bci_bridge.player import play
from bci_bridge.sender import Sender
from tests.integration.tiny import PlayedRun, PlayedEvent
events = tuple(PlayedEvent(f"t-{{n}}", 10.0 * n) for n in range({COUNT} // 10))
print("ready", flush=True)
play(PlayedRun("run-1", {COUNT}, events), sys.argv[1], None, spool=Path(sys.argv[2]))
print("done", flush=True)
"""


@pytest.mark.slow
def test_a_player_killed_again_and_again_loses_and_doubles_nothing(running, tmp_path):
    server = running(recording=str(tmp_path / "log"))
    spool, dice = tmp_path / "spool", random.Random(20)
    # All of it takes several times as long as these lives together.
    for _ in range(8):
        player = started(PLAYER, server.address, spool)
        assert player.stdout.readline() == "ready\n"
        time.sleep(dice.uniform(0.0, 0.12))
        assert killed(player)
    with started(PLAYER, server.address, spool) as last:
        lines = last.stdout.read()
        assert last.wait(60) == 0
    outcomes = list(Client(server.address, run="run-1"))
    report = server.stop()
    logged = [
        entry.envelope.record for entry in read_recording(tmp_path / "log" / "inputs")
    ]

    volumes = [o for o in outcomes if isinstance(o, VolumeOutcome)]
    trials = [o.trial_id for o in outcomes if isinstance(o, TrialOutcome)]
    said = [record for record in logged if record.stream == "scanner"]
    assert lines == "ready\ndone\n"
    assert [(o.volume_index, o.input) for o in volumes] == [
        (index, "OK") for index in range(COUNT)
    ]
    assert [o.label for o in volumes] == [str(index) for index in range(COUNT)]
    assert sorted(trials) == sorted(f"t-{n}" for n in range(COUNT // 10))
    assert [record.sequence for record in said] == list(range(len(said)))
    # Of each event, what was shown is on record as well.
    assert len(said) == 1 + COUNT + 2 * (COUNT // 10) + 1
    assert report.runs == 1
    assert held_run(spool).is_finished


LIVE_PLAYER = """
import sys
from pathlib import Path
from bci_bridge.player import play
from tests.integration.tiny import PlayedRun
print("ready", flush=True)
play(PlayedRun("run-1", 60, tr_s=0.1), sys.argv[1], 1.0, spool=Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_live_player_that_was_killed_keeps_the_time_base_of_its_run(
    running, tmp_path
):
    server = running(recording=str(tmp_path / "log"))
    spool = tmp_path / "spool"
    for _ in range(3):
        player = started(LIVE_PLAYER, server.address, spool)
        assert player.stdout.readline() == "ready\n"
        time.sleep(0.7)
        assert killed(player)
    with started(LIVE_PLAYER, server.address, spool) as last:
        assert last.wait(60) == 0
    indices = [
        outcome.volume_index
        for outcome in Client(server.address, run="run-1")
        if isinstance(outcome, VolumeOutcome)
    ]
    server.stop()
    acquired_ns = {
        record.volume_index: record.acquired_ns
        for entry in read_recording(tmp_path / "log" / "inputs")
        if type(record := entry.envelope.record).__name__ == "Volume"
    }

    first_ns = acquired_ns[0]
    drift_s = [
        abs((acquired_ns[index] - first_ns) / 1e9 - 0.1 * index) for index in range(60)
    ]
    assert indices == list(range(60))
    # What a start takes, thrice, would show; what a busy machine is late does not.
    assert max(drift_s) < 0.25
