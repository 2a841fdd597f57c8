"""A played recording puts on record what was shown, as stimulus software does."""

import pytest
from neuroflow_client import Client

from bci_bridge.messages import Event, Shown, Volume
from bci_bridge.player import play
from bci_bridge.recording_reader import read_recording
from bci_bridge.sender import Sender
from tests.integration.replaying import require_identity
from tests.integration.restarting import crash, restarting
from tests.integration.tiny import PlayedEvent, PlayedRun

PICTURES = (
    PlayedEvent("t-1", 0.0, stimulus_id="nsd/7 a.png"),
    PlayedEvent("pause", 2.5, stimulus_id=""),
    PlayedEvent("t-2", 3.0, stimulus_id="nsd-9"),
    PlayedEvent("t-3", 5.2, stimulus_id="nsd-7"),
)
REPORTED = [("nsd/7 a.png", "t-1"), ("nsd-9", "t-2"), ("nsd-7", "t-3")]


class _KilledError(Exception):
    """Stands for SIGKILL where a process of its own would be slow."""


def of(kind, records):
    return [record for record in records if isinstance(record, kind)]


def test_each_picture_is_reported_as_shown_when_its_event_says(running, tmp_path):
    server = running()
    play(PlayedRun("run-1", 8, PICTURES), server.address, None)
    labels = [
        o.label for o in Client(server.address, run="run-1") if hasattr(o, "label")
    ]
    server.stop()

    records = [one.envelope.record for one in read_recording(tmp_path / "inputs")]
    reports = of(Shown, records)
    announced = {event.trial_id: event for event in of(Event, records)}
    assert [(one.what, one.trial_id) for one in reports] == REPORTED
    assert {one.display_frame for one in reports} == {None}
    for report in reports:
        event = announced[report.trial_id]
        assert report.what == event.stimulus_id
        assert report.shown_ns == event.shown_ns
        # One after the other in one stream: nothing is waited for in between.
        assert report.stream == event.stream
        assert report.sequence == event.sequence + 1
    assert [one.volume_index for one in of(Volume, records)] == list(range(8))
    assert len(labels) == 8 + len(PICTURES)
    require_identity(tmp_path)


@pytest.mark.parametrize("last", ["event", "shown"])
def test_a_player_that_dies_between_event_and_report_leaves_no_gap(
    tmp_path, monkeypatch, last
):
    survived = getattr(Sender, last)

    def fatal(sender, *arguments, **fields):
        if "t-2" not in arguments:
            survived(sender, *arguments, **fields)
            return
        crash(sender)
        sender._has_left = True
        raise _KilledError

    run = PlayedRun("run-1", 8, PICTURES)
    with restarting() as server:
        monkeypatch.setattr(Sender, last, fatal)
        with pytest.raises(_KilledError):
            play(run, server.address, None, spool=tmp_path)
        monkeypatch.undo()
        play(run, server.address, None, spool=tmp_path)

    assert [one.trial_id for one in of(Event, server.log)] == [
        event.trial_id for event in PICTURES
    ]
    assert [(one.what, one.trial_id) for one in of(Shown, server.log)] == REPORTED
    assert [one.sequence for one in server.log] == list(range(len(server.log)))
