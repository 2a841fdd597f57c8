"""A played recording on record, and in an export of it, is whose it was."""

from bci_bridge.messages import RunStart
from bci_bridge.recording_reader import read_recording
from tests.integration.served_model import write_recording
from tests.integration.test_export_command import said
from tests.integration.tiny import SHAPE
from verbs.play import play_recording


def two_participants(folder):
    """A folder of two runs of one participant and one of another, in a session."""
    write_recording(folder, SHAPE, volumes=4)
    write_recording(folder / "more", SHAPE, volumes=4, runs=("01",))
    for old, new in (
        ("sub-01/func", "sub-kim/ses-2/func"),
        ("derivatives/masks/sub-01", "derivatives/masks/sub-kim"),
    ):
        (folder / new).mkdir(parents=True)
        for file in (folder / "more" / old).iterdir():
            file.rename(folder / new / file.name.replace("sub-01", "sub-kim_ses-2"))
    return folder


def test_two_participants_in_one_log_stay_two(running, tmp_path):
    recording = two_participants(tmp_path / "recording")
    server = running(recording=str(tmp_path / "log"))
    for subject in ("01", "kim"):
        play_recording(recording, server.address, runs=(), subject=subject, speed=None)
    server.stop()

    status, _, error = said(
        tmp_path / "log", "--out", tmp_path / "out", "--format", "bids"
    )

    assert (status, error) == (0, "")
    records = [one.envelope.record for one in read_recording(tmp_path / "log/inputs")]
    assert [
        (one.subject, one.session, one.task)
        for one in records
        if isinstance(one, RunStart)
    ] == [("01", "", "look"), ("01", "", "look"), ("kim", "2", "look")]
    images = sorted(
        file.relative_to(tmp_path / "out").as_posix()
        for file in (tmp_path / "out").rglob("*_bold.nii.gz")
    )
    assert images == [
        "sub-01/func/sub-01_task-look_run-1_bold.nii.gz",
        "sub-01/func/sub-01_task-look_run-2_bold.nii.gz",
        "sub-kim/ses-2/func/sub-kim_ses-2_task-look_run-1_bold.nii.gz",
    ]
