"""`neuroflow export-recording`: what a real server wrote, and what is damaged."""

import json
import os

import h5py
import nibabel as nib
import numpy as np
import pytest

from bci_bridge.player import play, run_start_from
from bci_bridge.recorder import Recorder
from bci_bridge.recording_reader import read_recording
from bci_bridge.sender import Sender
from tests import in_process
from tests.integration.replaying import EVENTS, RIG
from tests.integration.tiny import SHAPE, PlayedRun
from tests.recorded import noise, simple_recording

CUT_AT = {"inputs": noise(6).tobytes(), "outcomes": b"TRIAL_OUTCOME"}


def said(*arguments):
    """Run the verb in this process; return status, output and error."""
    return in_process.said("export-recording", *arguments)


def damaged(folder, log, payload):
    """Flip one bit of a message that is in a log."""
    (segment,) = (folder / log).glob("*.mcap")
    data = bytearray(segment.read_bytes())
    at = data.index(payload)
    data[at] ^= 1
    segment.write_bytes(data)


@pytest.mark.slow
def test_what_a_server_recorded_is_exported_as_it_was_sent(running, tmp_path):
    server = running(rig=RIG)
    play(PlayedRun("run-1", 30, EVENTS), server.address, None)
    with Sender(
        server.address, run_start_from(PlayedRun("run-2", 3), speed=None)
    ) as sender:
        sender.volume(0, np.full(SHAPE, 1.5, np.float32), 0)
        sender.missing(1, "secret")
        sender.shown("face", 5)
        sender.volume(2, np.full(SHAPE, 2.5, np.float32), 0)
        sender.close(3)
    server.stop()

    status, output, error = said(
        tmp_path, "--out", tmp_path / "bids", "--format", "bids"
    )
    as_json = said(
        tmp_path, "--out", tmp_path / "h5", "--format", "hdf5", "--json"
    )  # fmt: skip

    assert (status, error) == (0, "")
    assert output == (
        "run-1: 30 of 30 volumes, 3 events, 3 trials\n"
        "run-2: 2 of 3 volumes, 0 events, 0 trials\n"
    )
    stem = tmp_path / "bids/sub-unknown/func/sub-unknown_task-unknown_run"
    first = np.asanyarray(nib.load(f"{stem}-1_bold.nii.gz").dataobj)
    assert first.dtype == np.int16
    np.testing.assert_array_equal(first, np.broadcast_to(range(30), (*SHAPE, 30)))
    second = np.asanyarray(nib.load(f"{stem}-2_bold.nii.gz").dataobj)
    assert np.isnan(second[..., 1]).all()
    np.testing.assert_array_equal(second[0, 0, 0], [1.5, np.nan, 2.5])
    summary = json.loads(as_json[1])
    assert summary["lost"] == []
    assert summary["runs"][1] == {
        "run": "run-2", "volumes": 3, "missing": 1, "events": 0, "trials": 0,
        "files": ["recording.h5"],
    }  # fmt: skip
    with h5py.File(tmp_path / "h5" / "recording.h5") as file:
        rigs = json.loads(file["runs/run-1/Rigs"].asstr()[()])
        trials = sorted(file["runs/run-1/arrays"])
        assert trials == [event.trial_id for event in EVENTS]
    assert [rig["Versions"] for rig in rigs] == [RIG.versions]
    assert b"secret" not in (tmp_path / "h5" / "recording.h5").read_bytes()


def test_a_damaged_volume_is_a_named_loss(tmp_path):
    recording = simple_recording(tmp_path / "recording")
    damaged(recording, "inputs", noise(3).tobytes())

    refused = said(recording, "--out", tmp_path / "out", "--format", "nifti")
    rest = said(
        recording, "--out", tmp_path / "out", "--format", "nifti", "--skip-damaged"
    )

    assert refused[:2] == (1, "")
    assert refused[2].count("\n") == 1
    assert "expected a whole recording, found lost inputs: message 6" in refused[2]
    assert "--skip-damaged exports the rest." in refused[2]
    assert rest[0] == 0, rest[2]
    assert "lost: inputs: message 6" in rest[1]
    assert "run-1: 4 of 7 volumes, 2 events, 2 trials\n" in rest[1]
    described = json.loads((tmp_path / "out" / "run-1.json").read_text())
    assert {"Index": 3, "Reason": "LOST"} in described["MissingVolumes"]
    message, segment = described["RecordingLosses"]
    assert "inputs: message 6" in message
    assert segment.startswith("inputs: 000000.mcap: expected sha256 ")
    voxels = np.asanyarray(nib.load(tmp_path / "out" / "run-1.nii").dataobj)
    np.testing.assert_array_equal(voxels[..., 4], noise(4))
    assert not voxels[..., 3].any()


@pytest.mark.parametrize(("log", "volumes"), [("inputs", 4), ("outcomes", 5)])
def test_what_was_cut_off_is_found_by_the_chain(tmp_path, log, volumes):
    recording = simple_recording(tmp_path / "recording")
    (segment,) = (recording / log).glob("*.mcap")
    size, kept = segment.stat().st_size, segment.read_bytes().index(CUT_AT[log])
    os.truncate(segment, kept)
    flags = ["--format", "nifti", "--run", "run-1"]

    refused = said(recording, "--out", tmp_path / "out", *flags)
    rest = said(recording, "--out", tmp_path / "rest", *flags, "--skip-damaged")
    (recording / log / "segments.json").unlink()
    without = said(recording, "--out", tmp_path / "bare", *flags)

    found = f"{log}: {segment.name}: expected {size} bytes, found {kept}"
    assert refused == (
        1,
        "",
        f"neuroflow: {recording}: {found}. The recording was changed after it was "
        "made. --skip-damaged exports it nevertheless.\n",
    )
    assert not (tmp_path / "out").exists()
    # Where the answers stop before the run does, that is said as well.
    unsure = [
        f"neuroflow: {recording}: run run-1: expected its answers to their end, "
        "found none: its server was killed, or what followed was in memory alone and "
        "is not here\n"
    ] * (log == "outcomes")
    assert (rest[0], rest[2]) == (0, "".join(unsure))
    lost, line = rest[1].splitlines()
    assert lost == f"lost: {found}"
    assert line.startswith(f"run-1: {volumes} of ")
    described = json.loads((tmp_path / "rest" / "run-1.json").read_text())
    assert described["RecordingLosses"] == [found]
    none = "segments.json: expected the chain of the segments, found none"
    assert without[0] == 0
    assert without[2] == f"neuroflow: {log}: {none}\n" + "".join(unsure)


@pytest.mark.parametrize("log", ["inputs", "outcomes"])
def test_a_beginning_that_is_lost_in_one_log_is_in_the_other(tmp_path, log):
    recording = simple_recording(tmp_path / "recording")
    damaged(recording, log, b"RUN_START")

    status, output, error = said(
        recording, "--out", tmp_path / "out", "--format", "bids", "--skip-damaged"
    )

    assert (status, error) == (0, "")
    assert f"lost: {log}: message" in output
    assert "run-1: 5 of 7 volumes, 2 events, 2 trials\n" in output
    (file,) = (tmp_path / "out").rglob("*task-watch*_bold.nii.gz")
    voxels = np.asanyarray(nib.load(file).dataobj)
    np.testing.assert_array_equal(voxels[..., 6], noise(6))


def test_a_run_whose_beginning_is_lost_in_both_logs_is_counted(tmp_path):
    recording = simple_recording(tmp_path / "recording")
    for log in ("inputs", "outcomes"):
        damaged(recording, log, b"RUN_START")

    status, output, _ = said(
        recording, "--out", tmp_path / "out", "--format", "hdf5", "--skip-damaged"
    )

    assert status == 0
    assert " messages without the beginning of their run\n" in output
    assert "run-1" not in output
    assert "other.run+2: 2 of 2 volumes" in output


def test_a_lost_answer_is_listed(tmp_path):
    recording = simple_recording(tmp_path / "recording")
    damaged(recording, "outcomes", b"TRIAL_OUTCOME")

    status, _, _ = said(
        recording, "--out", tmp_path / "out", "--format", "bids", "--skip-damaged"
    )

    assert status == 0
    (file,) = (tmp_path / "out").rglob("*task-watch*_bold.json")
    described = json.loads(file.read_text())
    assert len(described["LostOutcomes"]) == 1
    assert "outcomes: message" in described["RecordingLosses"][0]
    (table,) = (tmp_path / "out").rglob("*task-watch*_decoding.tsv")
    assert len(table.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["--format", "nifti", "--run", "x"], 2, "--run: expected one of run-1, "),
        (["--format", "gif"], 2, "gif"),
    ],
)
def test_wrong_usage_ends_with_2(tmp_path, arguments, status, line):
    recording = simple_recording(tmp_path / "recording")

    found = said(recording, "--out", tmp_path / "out", *arguments)

    assert found[0] == status
    assert line in found[1] + found[2]
    assert not (tmp_path / "out").exists()


def test_what_is_no_recording_gets_one_line(tmp_path):
    status, output, error = said(tmp_path, "--out", tmp_path / "o", "--format", "bids")

    assert (status, output, error.count("\n")) == (1, "", 1)
    assert "expected *.mcap segments, found none" in error


def test_contradicting_messages_are_not_exported(tmp_path):
    """A log may hold them as refused; they were never used."""
    recording = simple_recording(tmp_path / "recording")
    entries = list(read_recording(recording / "inputs"))
    (volume,) = (
        one.envelope for one in entries if one.envelope.payload == noise(6).tobytes()
    )
    changed = tmp_path / "changed"
    recorder = Recorder(changed / "inputs")
    recorder.append("in/scanner", entries[0].envelope, 0)
    recorder.append("refused/scanner", volume, 0)
    for entry in entries[1:]:
        recorder.append(entry.topic, entry.envelope, entry.log_ns)
    recorder.close()
    (recording / "outcomes").rename(changed / "outcomes")

    status, output, error = said(
        changed, "--out", tmp_path / "out", "--format", "nifti"
    )  # fmt: skip

    assert (status, error) == (0, "")
    assert output.startswith("run-1: 5 of 7 volumes")
