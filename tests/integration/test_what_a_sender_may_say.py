"""What a sender may say, when, and how long it may be."""

import pytest
from msgspec import structs

from bci_bridge.exports.export import export
from bci_bridge.messages import Shown
from bci_bridge.player import play, run_start_from
from bci_bridge.sender import Sender
from runtime.errors import PeerError, UsageError
from tests.integration.replaying import EVENTS, RIG, require_identity
from tests.integration.tiny import PlayedRun


def test_it_is_on_record_replayed_and_exported(running, tmp_path):
    server = running(rig=RIG)
    play(PlayedRun("run-1", 8, EVENTS[:2]), server.address, None)
    with Sender(server.address, "run-1", role="stimulus") as software:
        software.shown("the last picture", 5, trial_id="t-2", display_frame=7)
    play(PlayedRun("run-2", 4), server.address, None)
    with (
        pytest.raises(PeerError, match="WRONG_RUN: expected 'run-2', found 'run-1'"),
        Sender(server.address, "run-1", role="stimulus") as software,
    ):
        software.shown("too late", 6)
    server.stop()

    _, records = require_identity(tmp_path)
    told = [(one.run, one.what) for one in records if isinstance(one, Shown)]
    assert told[-1] == ("run-1", "the last picture")
    assert [run for run, _ in told] == ["run-1"] * (1 + len(EVENTS[:2]))
    export(tmp_path, tmp_path / "out", "bids", version="1")
    (reports,) = (tmp_path / "out").rglob("*_shown.tsv")
    assert "the last picture" in reports.read_text()


def test_a_run_that_begins_has_more_than_a_name():
    with pytest.raises(UsageError) as caught:
        Sender("tcp://127.0.0.1:1", "run-1")

    assert str(caught.value) == (
        "run 'run-1': expected its RunStart from a sender that is scanner, found its "
        "name alone"
    )


def test_a_message_that_no_server_would_read_is_refused_where_it_is_made(running):
    server, name = running(), "r" * 110
    slices = tuple(number * 25_000 for number in range(80))
    run = structs.replace(
        run_start_from(PlayedRun(name, 8), speed=None),
        slice_times_us=slices, subject="s" * 60, task="t" * 60,
    )  # fmt: skip

    with pytest.raises(UsageError) as caught:
        Sender(server.address, run)

    found = str(caught.value)
    assert found.startswith(
        f"RUN_START of run {name!r}: expected 1024 bytes of header at most, found 1"
    )
    assert found.endswith("Shorten its names and texts")
