"""What a played recording says of whose it is: subject, session and task."""

import pytest

from bci_bridge.messages import RunStart
from bci_bridge.player import run_start_from
from runtime.errors import UsageError
from runtime.recording import open_recording
from tests.integration.tiny import PlayedRun
from tests.unit.test_recording import bids, haxby  # noqa: F401  # fixtures
from verbs.play import play_recording


def names(run):
    start = run_start_from(run)
    return start.subject, start.session, start.task


def renamed(folder, old, new):
    """Write something else into the names of a folder's first run."""
    for file in folder.glob("sub-01/func/*run-01*"):
        file.rename(file.with_name(file.name.replace(old, new)))


def test_a_bids_run_is_announced_with_the_labels_of_its_name(bids):  # noqa: F811
    renamed(bids, "_task-look", "_ses-imagery01_task-nsd.core_acq-1")

    runs = open_recording(bids).runs

    assert [(run.run_id, *names(run)) for run in runs] == [
        ("sub-01_ses-imagery01_task-nsd.core_acq-1_run-01",
         "01", "imagery01", "nsd.core"),
        ("sub-01_task-look_run-02", "01", "", "look"),
    ]  # fmt: skip


def test_who_tells_no_names_announces_none(haxby):  # noqa: F811
    plain = RunStart(
        run="run-1", shape=(1, 1, 1), tr_s=1.0, expected_volumes=1, budget_s=1.0
    )

    assert [names(run) for run in open_recording(haxby).runs] == [("", "", "")] * 2
    assert names(PlayedRun("run-1", 1)) == ("", "", "")
    assert (plain.subject, plain.session, plain.task) == ("", "", "")


def test_a_label_that_the_wire_has_no_letters_for_is_refused_in_words(bids):  # noqa: F811
    renamed(bids, "task-look", "task-look at")

    with pytest.raises(UsageError) as refused:
        play_recording(bids, "tcp://127.0.0.1:9", runs=(), speed=None)

    assert str(refused.value) == (
        f"{bids}: name of a run: expected a letter or digit, then up to 127 letters, "
        "digits and ._+-, found 'sub-01_task-look at_run-01'. "
        "Put - in the place of others"
    )
