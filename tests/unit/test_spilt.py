"""A recording that went on in memory is read whole, or is not taken for whole."""

import json
import shutil
from contextlib import nullcontext

import h5py
import nibabel as nib
import numpy as np
import pytest
from msgspec import structs

from bci_bridge import places
from bci_bridge.exports.export import export
from bci_bridge.outcomes import Outcome
from bci_bridge.places import INPUTS, OUTCOMES, held_places
from bci_bridge.recording_reader import read_recording
from bci_bridge.recording_signature import sign_recording
from bci_bridge.spilt import spilt_of
from bci_bridge.wire import encode
from runtime.errors import NeuroFlowError
from runtime.signing import signing_key
from runtime.small_json import encoded
from tests.in_process import said
from tests.integration.tiny import MeanDecoder
from tests.recorded import RIG, Rig, noise
from tests.spilt_log import spilt, write
from verbs import replay


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    """A folder in place of all of this machine's memory, which others use."""
    folder = tmp_path / "memory"
    folder.mkdir()
    monkeypatch.setattr(places, "MEMORY", folder)
    return folder


@pytest.fixture
def engine(monkeypatch):
    """In place of a bundle's engine: what `Rig` answers with."""
    monkeypatch.setattr(replay, "rig_here", lambda *_, **__: RIG)
    monkeypatch.setattr(
        replay, "open_decoder", lambda *_, **__: nullcontext(MeanDecoder())
    )


@pytest.fixture
def recording(tmp_path):
    return spilt_recording(tmp_path)


def spilt_recording(tmp_path, degraded_from=99):
    """A run of 5 volumes; its disk took the first messages of each log alone."""
    whole = tmp_path / "whole"
    with Rig(whole) as rig:
        rig.start()
        for index in range(5):
            rig.volume(index, noise(index))
        rig.end(5)
    return spilt(
        whole,
        tmp_path / "log",
        {INPUTS: 4, OUTCOMES: 5},
        lambda entry: flagged(entry, degraded_from),
    )


def flagged(entry, first):
    """Say of the answers from one on that the disk took nothing."""
    record = entry.envelope.record
    if not isinstance(record, Outcome) or record.outcome_index < first:
        return entry
    changed = structs.replace(record, degraded=("RECORDING_DEGRADED",))
    return structs.replace(entry, envelope=encode(changed, entry.envelope.payload))


def exported(recording, kind="nifti"):
    """Export; return what is said and what stands in the sidecar."""
    out = recording.with_name(kind)
    status, output, error = said(
        "export-recording", recording, "--out", out, "--format", kind
    )
    assert status == 0, error
    return output, error, json.loads((out / "run-1.json").read_text("utf-8"))


def replayed(recording, capsys):
    """Replay with --verify; return what is said, and how the failure reads."""
    failure = ""
    try:
        replay.replay_recording(
            recording, recording, recording, backend=None, verify=True,
            skip_damaged=False, as_json=False,
        )  # fmt: skip
    except NeuroFlowError as error:
        failure = str(error)
    found = capsys.readouterr()
    return found.out, found.err, failure


def told(recording, memory):
    (folder,) = memory.glob("neuroflow-*")
    return (
        f"neuroflow: {recording}: expected all of it on its disk, found 2 segments in "
        f"memory alone, in {folder}. Replay, export and calibration "
        "read them there; no chain vouches for them, and they are gone when this "
        "machine starts anew.\n"
    )


def test_what_the_disk_did_not_take_is_exported_from_memory(recording, memory):
    output, error, described = exported(recording)

    assert output == "run-1: 5 of 5 volumes, 0 events, 0 trials\n"
    assert error == told(recording, memory)
    assert (described["MissingVolumes"], described["HasEnded"]) == ([], True)
    assert described["RecordingNotes"] == ["2 segments of the recording were in memory"]
    image = nib.load(recording.with_name("nifti") / "run-1.nii")
    for index in range(5):
        np.testing.assert_array_equal(image.dataobj[..., index], noise(index))
    assert str(memory) not in json.dumps(described)


def test_an_hdf5_file_has_the_notes_too(recording):
    export(recording, recording.with_name("out"), "hdf5", version="1")

    with h5py.File(recording.with_name("out") / "recording.h5") as file:
        notes = file["runs/run-1/RecordingNotes"].asstr()[()].tolist()
    assert notes == ["2 segments of the recording were in memory"]


def test_a_replay_proves_what_is_in_memory_too(recording, memory, engine, capsys):
    output, error, failure = replayed(recording, capsys)

    assert (error, failure) == (told(recording, memory), "")
    assert output == ("run-1: 5 volumes, 0 trials, 6 answers compared, 0 differences\n")


def test_what_memory_has_lost_of_it_is_a_loss(recording, memory):
    """It keeps the newest segments alone."""
    write_gap(memory)

    found = said(
        "export-recording", recording, "--out", recording.with_name("x"),
        "--format", "nifti",
    )  # fmt: skip

    assert found == (
        1,
        "",
        f"neuroflow: {recording}: expected a whole recording, found lost inputs: "
        "message 4. --skip-damaged exports the rest.\n",
    )


def write_gap(memory):
    (segment,) = memory.glob("*/inputs/*.mcap")
    entries = list(read_recording(segment.parent))
    for file in segment.parent.iterdir():
        file.unlink()
    write(segment.parent, entries[1:], 5)
    (segment.parent / "000000.mcap").rename(segment)


def test_verify_recording_names_what_no_chain_vouches_for(recording, memory):
    status, output, error = said("verify-recording", recording)

    assert (status, error) == (0, told(recording, memory))
    assert "inputs: 1 segments as chained" in output


def test_what_is_in_memory_is_signed_by_nobody(recording, memory):
    key = signing_key("rig", bytes(range(32)))
    sign_recording(recording, key)
    public = recording.with_name("rig.pub")
    public.write_bytes(encoded(key.public))

    status, _, error = said("verify-recording", recording, "--trust", public)

    (segment,) = memory.glob("*/inputs/*.mcap")
    assert status == 1
    assert error == told(recording, memory) + (
        f"neuroflow: {recording}: inputs: expected no segment that rig has not signed, "
        f"found {segment}. Added afterwards, or recorded unsigned.\n"
    )


@pytest.mark.parametrize(
    ("degraded_from", "line"),
    [
        (
            99,
            "none: its server was killed, or what followed was in memory alone and is "
            "not here",
        ),
        (
            1,
            "RECORDING_DEGRADED in 1 of them: what followed was in memory alone and is "
            "not here",
        ),
    ],
)
def test_a_run_whose_rest_is_gone_does_not_pass_for_whole(
    tmp_path, memory, engine, capsys, degraded_from, line
):
    recording = spilt_recording(tmp_path, degraded_from)
    empty(memory)

    output, error, described = exported(recording)
    _, replay_error, _ = replayed(recording, capsys)

    line = f"expected its answers to their end, found {line}"
    assert output.endswith(
        "3 of 3 volumes, 0 events, 0 trials, recorded without its end\n"
    )
    assert error == replay_error == f"neuroflow: {recording}: run run-1: {line}\n"
    assert described["RecordingNotes"] == [line]
    assert described["HasEnded"] is False


def test_a_run_that_ended_and_says_that_the_disk_failed_is_told(tmp_path):
    with Rig(tmp_path / "log") as rig:
        rig.start()
        rig.volume(0, noise(0))
        rig.end(1)
    recording = tmp_path / "flagged"
    for log in (INPUTS, OUTCOMES):
        entries = [flagged(one, 1) for one in read_recording(tmp_path / "log" / log)]
        write(recording / log, entries, 0)

    _, error, _ = exported(recording)

    assert error == (
        f"neuroflow: {recording}: run run-1: expected its answers on a disk that took "
        "all, found RECORDING_DEGRADED in 1 of them: what was in memory alone, if "
        "anything, is not here\n"
    )


def test_a_run_that_a_server_still_records_is_told_apart(tmp_path, engine, capsys):
    recording = tmp_path / "log"
    with held_places(recording) as held, Rig(recording) as rig:
        rig.start()
        rig.volume(0, noise(0))
        rig.end(1)
        rig.start("run-2")
        rig.volume(0, noise(0))
        found = exported(recording), replayed(recording, capsys)
    line = "expected its answers to their end, found that it is being written"

    assert [one[1].splitlines()[-1] for one in found] == [
        f"neuroflow: {recording}: run run-2: {line}"
    ] * 2
    assert held.moment is not None


def test_a_copy_of_a_folder_has_none_of_it(recording):
    """It may have gone its own way since: what would be read might not be its own."""
    copy = recording.with_name("copy")
    shutil.copytree(recording, copy)

    assert spilt_of(copy).folder is None
    shutil.rmtree(recording)
    assert spilt_of(copy).folder is not None


def test_what_another_recording_left_is_not_taken(recording, memory):
    (recording / INPUTS / ".lock").write_bytes(b"0" * 32)
    assert spilt_of(recording).folder is None
    (recording / INPUTS / ".lock").write_bytes(b"")
    assert spilt_of(recording).folder is None
    (recording / INPUTS / ".lock").unlink()
    assert spilt_of(recording).folder is None


def empty(memory):
    """Do as a machine that starts anew."""
    shutil.rmtree(memory)
    memory.mkdir()


def test_what_is_mounted_elsewhere_and_goes_on_there_keeps_the_disk_s_numbers(
    tmp_path, recording
):
    """A server at the new place numbers from the disk; the old memory has one too."""
    moved = recording.rename(tmp_path / "moved")
    entries = list(read_recording(tmp_path / "whole" / INPUTS))
    write(moved / INPUTS, entries[:2], 4)

    found = spilt_of(moved)
    lines = found.told()

    assert (found.passed_over, found.is_read_whole) == (1, False)
    assert [path.name for path in found.segments[OUTCOMES]] == ["000001.mcap"]
    assert found.segments[INPUTS] == ()
    assert lines[1] == (
        f"{moved}: expected one segment of each number, found 1 in memory, in "
        f"{found.folder}, whose numbers its disk has too. They are not read; keep them "
        "by copying that folder."
    )
    assert "found 1 segments in memory alone" in lines[0]


def test_the_memory_of_the_place_where_it_is_comes_before_that_of_another(
    tmp_path, recording
):
    moved = recording.rename(tmp_path / "moved")
    stale = spilt_of(moved).folder

    with held_places(moved) as held:
        found = spilt_of(moved)

    assert stale not in (None, held.moment)
    assert (found.folder, found.is_written) == (held.moment, True)
