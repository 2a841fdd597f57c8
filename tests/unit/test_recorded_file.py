"""What is no plain file in a recording is refused at once by whoever reads it."""

import os
import stat

import pytest

from bci_bridge.exports.export import export
from bci_bridge.recording_reader import read_recording, scan_recording
from bci_bridge.recording_signature import check_goes_on, read_signature
from runtime.errors import RecordingError
from tests.recorded import simple_recording
from verbs.replay import replay_recording
from verbs.verify_recording import verify_recording

SEGMENT, CHAIN, SIGNATURE = (
    "inputs/000000.mcap",
    "inputs/segments.json",
    "recording.sig",
)

# A reader that waits for a pipe's other end waits for ever.
pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def recording(tmp_path):
    return simple_recording(tmp_path / "recording")


def piped(recording, name):
    (recording / name).unlink(missing_ok=True)
    os.mkfifo(recording / name)
    return recording


def replayed(recording):
    replay_recording(
        recording, recording, recording,
        backend=None, verify=False, skip_damaged=True, as_json=False,
    )  # fmt: skip


def exported(recording):
    out = recording / "out"
    export(recording, out, "nifti", version="1", skip_damaged=True)


def verified(recording):
    verify_recording(recording, trust=(), as_json=False)


def line_of(verb, recording):
    with pytest.raises(RecordingError) as caught:
        verb(recording)
    return str(caught.value)


@pytest.mark.parametrize("verb", [replayed, exported, verified])
def test_a_pipe_in_a_segments_place_is_refused_in_one_line(recording, verb):
    piped(recording, SEGMENT)

    assert line_of(verb, recording) == (
        f"{recording / SEGMENT}: expected a plain file, found a pipe. "
        "Put the recorded file there."
    )


@pytest.mark.parametrize("verb", [verified, check_goes_on])
def test_a_pipe_in_the_chains_place_is_refused_in_one_line(recording, verb):
    piped(recording, CHAIN)

    assert line_of(verb, recording) == (
        f"{recording}: inputs: segments.json: expected a plain file, found a pipe. "
        "Put the recorded file there."
    )


@pytest.mark.parametrize("verb", [verified, check_goes_on])
def test_a_pipe_in_the_signatures_place_is_refused_in_one_line(recording, verb):
    piped(recording, SIGNATURE)

    assert line_of(verb, recording) == (
        f"{recording / SIGNATURE}: expected a plain file, found a pipe. "
        "Put the recorded file there."
    )


def test_a_folder_a_device_and_a_socket_are_no_segments(recording):
    segment = recording / SEGMENT
    moved = segment.rename(recording / "kept")
    found = []
    segment.mkdir()
    found.append(line_of(verified, recording))
    segment.rmdir()
    segment.symlink_to("/dev/zero")
    found.append(line_of(verified, recording))
    segment.unlink()
    # Not bound: the address of a socket is short, and this path may be long.
    os.mknod(segment, stat.S_IFSOCK | 0o600)
    found.append(line_of(lambda one: [*scan_recording(one / "inputs")], recording))
    segment.unlink()
    segment.symlink_to(recording / "nowhere")
    found.append(line_of(lambda one: [*read_recording(one / "inputs")], recording))

    assert moved.exists()
    assert [line.partition(": ")[2] for line in found] == [
        "expected a plain file, found a folder. Put the recorded file there.",
        "expected a plain file, found a device. Put the recorded file there.",
        "expected a segment, found No such device or address",
        "expected a segment, found No such file or directory",
    ]


def test_segments_and_chain_may_be_links_and_the_signature_may_not(recording):
    before = [one.order for one in read_recording(recording / "inputs")]
    for name in (SEGMENT, CHAIN):
        kept = recording / f"kept{name.replace('/', '-')}"
        (recording / name).rename(kept)
        (recording / name).symlink_to(kept)
    after = [one.order for one in read_recording(recording / "inputs")]
    verified(recording)
    (recording / SIGNATURE).symlink_to(recording / "nowhere")

    assert after == before != []
    assert "expected a signature" in line_of(read_signature, recording)
