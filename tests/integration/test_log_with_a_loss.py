"""A server begins again on a log that has lost something: it serves, and says so."""

import pytest
from neuroflow_client import Client, GapError, VolumeOutcome

from bci_bridge.ledger import Ledger
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.player import play
from bci_bridge.recorder import Recorder
from runtime.errors import BackendError, RecordingError
from tests.integration.replaying import RIG
from tests.integration.tiny import PlayedRun
from tests.unit.test_lost_segments import said, spoilt
from verbs.replay import replay_recording
from verbs.watch import watch_server

LOST = (
    "{}: expected every message of the log, found {} lost or damaged. What they said "
    "is not given out again; `neuroflow replay` names them."
)


def answered(server, run, from_index=0):
    """What a client is told of a run's volumes, across gaps, and those gaps."""
    client, found, gaps = Client(server.address, from_index, run=run), [], []
    while client.ended is None:
        try:
            found.extend(one for one in client if isinstance(one, VolumeOutcome))
        except GapError as error:
            gaps.append((error.first, error.last))
    return [(one.volume_index, one.input, one.reason) for one in found], gaps


def whole(count):
    return [(index, "OK", "") for index in range(count)], []


@pytest.fixture
def recorded(running, tmp_path):
    """A log of three segments, each of a server that saw one run."""
    for number in range(3):
        server = running(rig=RIG)
        play(PlayedRun(f"run-{number}", 4), server.address, None)
        server.stop()
    return tmp_path


@pytest.mark.parametrize("logs", [(INPUTS,), (OUTCOMES,), (INPUTS, OUTCOMES)])
def test_a_server_goes_on_beyond_a_lost_segment(running, recorded, logs):
    for log in logs:
        (recorded / log / "000001.mcap").unlink()

    server = running(rig=RIG)
    play(PlayedRun("run-3", 5), server.address, None)
    before, new = answered(server, "run-2"), answered(server, "run-3")
    report = server.stop()

    assert (before, new) == (whole(4), whole(5))
    assert (report.unanswered, report.outcomes["VolumeOutcome"]) == (0, 5)
    # Engine, beginning, configuration, four outcomes, end. Of the inputs of a run that
    # is over nobody needs any, nor looks for them.
    lost = [LOST.format(OUTCOMES, 8)] if OUTCOMES in logs else []
    assert server.troubles == lost
    with pytest.raises(RecordingError, match=f"found lost {logs[0]}: messages"):
        replay_recording(
            recorded, recorded, recorded, backend=None, verify=True,
            skip_damaged=False, as_json=False,
        )  # fmt: skip


def damage(recorded):
    """Flip one bit of the last run's answer to acquisition 2."""
    segment = recorded / OUTCOMES / "000002.mcap"
    data = bytearray(segment.read_bytes())
    data[data.index(b"\xacvolume_index\x02") + 1] ^= 1
    segment.write_bytes(data)


def test_a_damaged_outcome_is_a_gap_and_what_comes_after_it_is_given_out(
    running, recorded
):
    damage(recorded)

    server = running(rig=RIG)
    play(PlayedRun("run-3", 5), server.address, None)
    before, new = answered(server, "run-2"), answered(server, "run-3")
    report = server.stop()

    assert before == ([one for one in whole(4)[0] if one[0] != 2], [(2, 2)])
    assert new == whole(5)
    # What was on record before is not counted as this server's.
    assert report.outcomes["VolumeOutcome"] == 5
    assert server.troubles == [LOST.format(OUTCOMES, 1)]


def test_who_watches_is_told_the_gap_where_it_is_and_fails_at_the_end(
    running, recorded, capsys
):
    damage(recorded)
    server = running(rig=RIG)

    with pytest.raises(BackendError, match="run run-2: expected outcomes 2 to 2"):
        watch_server(server.address, run="run-2", follow=False, as_json=False)

    shown = capsys.readouterr()
    assert [line.split()[1] for line in shown.out.splitlines()] == ["0", "1", "3"]
    assert shown.err == (
        "neuroflow: run run-2: expected outcomes 2 to 2, found that the server no "
        "longer has them\n"
    )


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_run_that_began_in_a_lost_segment_is_answered_to_its_end(
    running, tmp_path, is_damaged
):
    """Its volumes that are lost are missing; those that are there are decoded.

    Where only the segment's state and the run's start are damaged, its volumes can be
    read, and belong to no run that is known. A segment that is not there may have been
    removed on purpose: its outcomes alone say what it held.
    """
    ledger, run = Ledger(), list(said("run-b", range(4), 4))
    order = 0
    for number, part in enumerate((list(said("run-a", range(2), 2)), run[:3], run[3:])):
        recorder = Recorder(tmp_path / INPUTS, first_order=order, preface=ledger.note)
        for logged in part:
            recorder.append(logged.topic, logged.envelope, 0)
            ledger.fold(logged.envelope, 0, segment=number)
        order = recorder.appended
        recorder.close()
    if is_damaged:
        spoilt(tmp_path / INPUTS, 1, (0, 1))
    else:
        (tmp_path / INPUTS / "000001.mcap").unlink()

    server = running()
    found = answered(server, "run-b")
    report = server.stop()

    assert found == (
        [(0, "MISSING", "LOST"), (1, "MISSING", "LOST"), (2, "OK", ""), (3, "OK", "")],
        [],
    )
    assert report.unanswered == 0
    assert server.troubles == ([LOST.format(INPUTS, 2)] if is_damaged else [])
