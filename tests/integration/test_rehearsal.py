"""`neuroflow serve --rehearse`: the real server, the real player, one command."""

import os
import shutil
import signal
import time

import msgspec
import pytest

from bci_bridge.configuration import Configuration
from bci_bridge.keyfolder import make_device
from bci_bridge.messages import ConfigurationNote
from bci_bridge.outcomes import RunEnded, TrialOutcome, VolumeOutcome
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.recording_reader import read_recording
from tests.integration.served_model import (
    served,
    serving,
    write_model,
    write_recording,
)
from tests.processes import children, command_of, is_gone
from tests.unit.test_missing_volumes import say_missing, sidecars

pytestmark = pytest.mark.slow

RUNS = ["sub-01_task-look_run-01", "sub-01_task-look_run-02"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("rehearsal")
    shape = write_model(out)
    write_recording(out / "fits", shape)
    write_recording(out / "long", shape, volumes=300, runs=("01",))
    write_recording(out / "other", (shape[0] + 1, *shape[1:]))
    return out


def records(log):
    return [one.envelope for one in read_recording(log)]


def player_of(process):
    """Wait for the player of a rehearsal; return its process id."""
    while process.poll() is None:
        for pid in children(process.pid):
            if b"\0play\0" in command_of(pid):
                return pid
        time.sleep(0.02)
    raise AssertionError(process.communicate())


def test_a_rehearsal_is_the_whole_way_and_ends_the_server(made, tmp_path):
    make_device(tmp_path / "keys", "player", ("scanner", "stimulus"))
    log = tmp_path / "log"
    status, error = served(
        made, "--log", log, "--keys", tmp_path / "keys", "--speed", "10",
        "--late", "drop", "--updates",
        "--rehearse", made / "fits", "--rehearse-key", tmp_path / "keys" / "player.key",
    )  # fmt: skip

    assert status == 0, error
    lines = error.splitlines()
    assert [line for line in lines if "volumes sent" in line] == [
        f"neuroflow: {run}: 20 volumes sent" for run in RUNS
    ]
    assert lines[-1].startswith("neuroflow: 2 runs, 2 RunEnded, 2 TrialOutcome, 40 Vol")
    answers = [one.record for one in records(log / OUTCOMES)]
    assert [one.run for one in answers if isinstance(one, RunEnded)] == RUNS
    assert not any(one.aborted for one in answers if isinstance(one, RunEnded))
    volumes = [one for one in answers if isinstance(one, VolumeOutcome)]
    assert [one.input for one in volumes] == ["OK"] * 40
    trials = [one for one in answers if isinstance(one, TrialOutcome)]
    assert [("LATE_DROPPED" in one.degraded) for one in trials] == [
        one.timing == "LATE" for one in trials
    ]
    assert len(trials) == 2
    frozen = [
        msgspec.json.decode(one.payload, type=Configuration)
        for folder in (INPUTS, OUTCOMES)
        for one in records(log / folder)
        if isinstance(one.record, ConfigurationNote)
    ]
    assert [(one.is_rehearsal, one.late, one.updates) for one in frozen] == [
        (True, "drop", True)
    ] * 2


def test_a_rehearsal_of_a_run_with_gaps_has_them(made, tmp_path):
    gappy = shutil.copytree(made / "fits", tmp_path / "gappy")
    say_missing(sidecars(gappy)[0], [4, 5])

    status, error = served(made, "--speed", "10", "--rehearse", gappy)

    assert status == 0, error
    lines = error.splitlines()
    assert (
        f"neuroflow: {gappy}: 2 of 40 volumes missing, as MissingVolumes says" in lines
    )
    assert "40 VolumeOutcome (2 MISSING), 0 messages refused" in lines[-1]


def test_a_player_that_is_refused_ends_the_server_in_one_line(made, tmp_path):
    status, error = served(made, "--rehearse", made / "other")

    lines = error.splitlines()
    assert status == 1, error
    assert lines[-1].startswith(
        f"neuroflow: rehearsal of {made / 'other'}: expected the player to succeed, "
        "found: "
    )
    assert sum("expected the player" in line for line in lines) == 1
    assert sum("shape" in line.lower() for line in lines) == 1
    assert "Traceback" not in error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_both_and_the_run_is_aborted_on_record(made, tmp_path, number):
    log = tmp_path / "log"
    with serving(made, "--log", log, "--rehearse", made / "long") as process:
        player = player_of(process)
        while not any((log / OUTCOMES).glob("*.mcap")) or not any(
            isinstance(one.record, VolumeOutcome) for one in records(log / OUTCOMES)
        ):
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        _, error = process.communicate(timeout=30)

    ended = [
        x.record for x in records(log / OUTCOMES) if isinstance(x.record, RunEnded)
    ]
    assert process.returncode == 0, error
    assert is_gone(player, within_s=0.5)
    assert [(one.run, one.aborted) for one in ended] == [(RUNS[0], True)]


def test_a_player_that_is_killed_ends_the_server_and_a_killed_server_the_player(made):
    with serving(made, "--rehearse", made / "long") as process:
        os.kill(player_of(process), signal.SIGKILL)
        _, error = process.communicate(timeout=30)
    with serving(made, "--rehearse", made / "long") as killed:
        player = player_of(killed)
        killed.kill()
        killed.wait()

        assert is_gone(player)
    assert process.returncode == 1
    assert error.splitlines()[-1].endswith("to succeed, found: signal 9")
