"""A file that passes for a segment: never one, and named by whoever checks or begins.

What a segment is called is stated once; a forged run cannot come in under another name.
"""

import contextlib
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bci_bridge.chain import CHAIN, Chain, decoded
from bci_bridge.chain_file import changes_in, check_chain
from bci_bridge.exports.export import export
from bci_bridge.places import INPUTS, OUTCOMES, held_places
from bci_bridge.recorder import Recorder
from bci_bridge.recording_reader import read_recording
from bci_bridge.recording_signature import sign_recording
from bci_bridge.recovery import outbox_segment, recovered_ledger
from bci_bridge.segment_name import (
    is_stranger,
    not_a_segment,
    segment_name,
    segment_number,
)
from bci_bridge.spilt import spilt_of
from bci_bridge.tail import Tail, segments_in
from runtime.errors import NeuroFlowError, RecordingError, UsageError
from runtime.signing import signing_key
from runtime.small_json import encoded
from tests.integration.replaying import MeanDecoder
from tests.recorded import Rig, noise, simple_recording
from verbs.replay import replay_recording, replayed
from verbs.verify_recording import verify_recording

STRAYS = (
    "0forged.mcap",
    "0000000.mcap",
    "000000 (copy).mcap",
    "000000.bak.mcap",
    "00000.mcap",
    "000001.MCAP",
    "._000000.mcap",
    "\u0661\u0661\u0661\u0661\u0661\u0661.mcap",
)
KEY = signing_key("site", bytes(range(32)))


@given(st.integers(0, 10**18 - 1))
def test_each_place_has_one_name_and_each_name_one_place(number):
    assert segment_number(segment_name(number)) == number
    assert not is_stranger(segment_name(number))
    assert segment_number(f"0{segment_name(number)}") is None


@given(st.text(alphabet="0123456789.mcap \n", max_size=20))
def test_no_other_name_is_a_segments(name):
    number = segment_number(name)

    assert number is None or segment_name(number) == name


@pytest.mark.parametrize("name", STRAYS)
def test_what_passes_for_a_segment_is_none(name):
    assert segment_number(name) is None
    assert is_stranger(name)


@pytest.mark.parametrize("name", ["segments.json", ".lock", ".trial", "notes.txt"])
def test_other_files_are_no_strangers(name):
    assert not is_stranger(name)


def test_a_name_of_two_lines_is_refused_in_one():
    assert not_a_segment("a\nb.mcap").startswith("'a\\nb.mcap': expected segments")


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    """Another recording of the same kind, with a run that is not to come in."""
    folder = tmp_path_factory.mktemp("forged")
    with Rig(folder) as rig:
        rig.start("forged")
        rig.volume(0, noise(7))
        rig.end(1)
    return folder


@pytest.fixture
def recording(tmp_path):
    """A signed recording of two runs."""
    folder = simple_recording(tmp_path / "rec")
    assert sign_recording(folder, KEY) == 2
    return folder


@pytest.fixture
def trust(tmp_path):
    (tmp_path / "site.pub").write_bytes(encoded(KEY.public))
    return (tmp_path / "site.pub",)


def slipped_in(recording, forged, name):
    for log in (INPUTS, OUTCOMES):
        shutil.copy(forged / log / "000000.mcap", recording / log / name)


def refusals(recording, out, trust):
    """What verify-recording, replay --verify and export-recording refuse it with."""
    checks = (
        lambda: verify_recording(recording, trust=trust, as_json=False),
        lambda: replay_recording(
            recording, out, out, backend=None, verify=True, skip_damaged=False,
            as_json=False,
        ),
        lambda: export(recording, out, "nifti", version="1"),
    )  # fmt: skip
    found = []
    for check in checks:
        with pytest.raises(RecordingError) as caught:
            check()
        found.append(str(caught.value))
    return found


@pytest.mark.parametrize("name", STRAYS)
def test_a_forged_run_under_any_name_is_refused_by_all_and_taken_by_none(
    recording, forged, trust, tmp_path, name
):
    slipped_in(recording, forged, name)

    found = refusals(recording, tmp_path / "out", trust)

    line = (
        f"{recording}: inputs: {name}: expected segments alone, named like 000000.mcap,"
        " found another file. Move it out of the recording."
    )
    assert found[0] == line
    for one in found[1:]:
        assert one.startswith(line[:-1])
        assert "\n" not in one
    assert not (tmp_path / "out").exists()
    runs = {one.envelope.record.run for one in read_recording(recording / INPUTS)}
    assert runs == {"run-1", "other.run+2"}
    report = replayed(spilt_of(recording), MeanDecoder())
    assert set(report.runs) == runs
    assert report.differences == []


def test_without_a_chain_it_is_refused_as_well(recording, forged, trust, tmp_path):
    slipped_in(recording, forged, "0forged.mcap")
    for log in (INPUTS, OUTCOMES):
        (recording / log / CHAIN).unlink()

    changed, unproved = changes_in(recording)

    assert [line.split(": ")[:2] for line in changed] == [
        ["inputs", "0forged.mcap"], ["outcomes", "0forged.mcap"],
    ]  # fmt: skip
    assert unproved == ()


def test_what_is_exported_nevertheless_lists_it_and_lacks_its_run(
    recording, forged, tmp_path
):
    slipped_in(recording, forged, "0000000.mcap")

    exported = export(
        recording, tmp_path / "out", "nifti", version="1", skip_damaged=True
    )

    assert set(exported.runs) == {"run-1", "other.run+2"}
    assert [loss.split(": ")[1] for loss in exported.losses] == ["0000000.mcap"] * 2


def test_moved_out_the_recording_is_what_it_was(recording, forged, trust, capsys):
    slipped_in(recording, forged, "0forged.mcap")
    for log in (INPUTS, OUTCOMES):
        (recording / log / "0forged.mcap").unlink()

    verify_recording(recording, trust=trust, as_json=False)

    assert "signed by site" in capsys.readouterr().out


def test_a_link_of_a_chain_has_a_segments_one_name():
    chain = encoded(Chain().with_segment("0000000.mcap", 3, "0" * 64))

    with pytest.raises(RecordingError):
        decoded(chain, CHAIN)


@pytest.mark.parametrize("log", [INPUTS, OUTCOMES])
@pytest.mark.parametrize("name", STRAYS)
def test_a_server_refuses_it_in_one_line_before_it_begins(recording, log, name):
    (recording / log / name).write_bytes(b"x")

    with pytest.raises(UsageError) as caught, held_places(recording):
        raise AssertionError

    assert str(caught.value) == (
        f"recording {recording}: {log}: {name}: expected segments alone, named like "
        "000000.mcap, found another file. Move it out of the recording."
    )


@pytest.mark.parametrize("name", STRAYS)
def test_one_that_comes_in_later_stops_nothing_and_is_named_by_the_check(
    recording, forged, trust, name
):
    with held_places(recording) as places:
        slipped_in(recording, forged, name)
        ledger, order = recovered_ledger(places)
        first = outbox_segment(places)
        tail, read = Tail(places.folders(INPUTS)), []
        with contextlib.closing(tail):
            while logged := tail.read():
                read += [one.envelope.record.run for one in logged]
        recorder = Recorder(places.log(INPUTS), first_order=order)
        recorder.close()

    assert (ledger.run.heard.run_id, first) == ("other.run+2", 0)
    assert set(read) == {"run-1", "other.run+2"}
    assert list(segments_in([recording / INPUTS])) == [0, 1]
    assert check_chain(recording / INPUTS).segments == 2
    assert sign_recording(recording, KEY) == 3
    with pytest.raises(NeuroFlowError, match="Move it out of the recording"):
        verify_recording(recording, trust=trust, as_json=False)
