"""`neuroflow replay --verify` of recordings whose end was cut off, in this process."""

import contextlib
import os

import pytest

from bci_bridge.outcomes import Outcome, VolumeOutcome
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.recording_reader import read_recording
from runtime.errors import ParityError
from tests.integration.tiny import MeanDecoder
from tests.recorded import RIG, simple_recording
from verbs import replay

FIRST, SECOND = "run-1", "other.run+2"
REMEDY = (
    "It was cut off, or its server killed there. "
    "Leave --verify out to compare the rest."
)


@pytest.fixture
def recording(tmp_path, monkeypatch):
    """Two runs that ended, and this machine as if it were the one that recorded."""
    monkeypatch.setattr(
        replay, "open_decoder", lambda *_, **__: contextlib.nullcontext(MeanDecoder())
    )
    monkeypatch.setattr(replay, "rig_here", lambda *_, **__: RIG)
    return simple_recording(tmp_path / "recording")


def answers_of(recording, run):
    return [
        entry.envelope.record
        for entry in read_recording(recording / OUTCOMES)
        if isinstance(entry.envelope.record, Outcome)
        and entry.envelope.record.run == run
    ]


def cut(recording, log, position, *, has_chain=False):
    """Cut a log's only segment in the middle of its message at a position."""
    message = list(read_recording(recording / log))[position].envelope
    (segment,) = (recording / log).glob("*.mcap")
    os.truncate(segment, segment.read_bytes().index(message.header) + 1)
    if not has_chain:
        (recording / log / "segments.json").unlink()


def position_of(recording, log, run, kind="", nth=0):
    """Where the nth message of a run stands in a log."""
    found = [
        position
        for position, entry in enumerate(read_recording(recording / log))
        if entry.envelope.record.run == run
        and kind in type(entry.envelope.record).__name__
    ]
    return found[nth]


def verified(recording, capsys, *, skip_damaged=False):
    """Return the lines that are printed, and the one of the failure."""
    failure = ""
    try:
        replay.replay_recording(
            recording, recording, recording, backend=None, verify=True,
            skip_damaged=skip_damaged, as_json=False,
        )  # fmt: skip
    except ParityError as error:
        failure = str(error)
    return capsys.readouterr().out.splitlines(), failure


def test_a_whole_recording_is_proved(recording, capsys):
    lines, failure = verified(recording, capsys)

    assert failure == ""
    assert [line.partition(", ")[2].partition(" trials, ")[2] for line in lines] == [
        f"{len(answers_of(recording, run))} answers compared, 0 differences"
        for run in (FIRST, SECOND)
    ]


@pytest.mark.parametrize("has_chain", [False, True])
@pytest.mark.parametrize("kept", [1, 4])
def test_answers_that_were_cut_off_before_a_runs_end_are_missed(
    recording, capsys, kept, has_chain
):
    n_answers = len(answers_of(recording, FIRST))
    at = position_of(recording, OUTCOMES, FIRST, kind="Outcome", nth=kept)
    kept = sum(
        isinstance(entry.envelope.record, Outcome)
        for entry in list(read_recording(recording / OUTCOMES))[:at]
    )
    cut(recording, OUTCOMES, at, has_chain=has_chain)

    lines, failure = verified(recording, capsys, skip_damaged=has_chain)

    assert failure == (
        f"{recording}: {FIRST}: expected every answer up to the run's end, found "
        f"{n_answers - kept} answers that the recording lacks. {REMEDY}"
    )
    first, second = lines[-2:]
    assert first.endswith(
        f"{kept} answers compared, 0 differences, {n_answers - kept} answers that the "
        "recording lacks, recorded without its end"
    )
    assert ", 0 answers compared, 0 differences, " in second
    assert second.endswith(", recorded without its end")
    assert [line.partition(":")[0] for line in lines[:-2]] == ["changed"] * has_chain


def test_a_runs_end_alone_is_missed(recording, capsys):
    cut(recording, OUTCOMES, position_of(recording, OUTCOMES, SECOND, "RunEnded"))

    _, failure = verified(recording, capsys)

    assert failure == (
        f"{recording}: {SECOND}: expected every answer up to the run's end, found "
        f"1 answers that the recording lacks. {REMEDY}"
    )


def test_answers_of_a_run_whose_inputs_were_all_cut_off_are_not_proved(
    recording, capsys
):
    n_answers = len(answers_of(recording, SECOND))
    cut(recording, INPUTS, position_of(recording, INPUTS, SECOND, "RunStart"))

    _, failure = verified(recording, capsys)

    assert failure == (
        f"{recording}: {SECOND}: expected the inputs of every answer, found "
        f"{n_answers} answers without them. {REMEDY}"
    )


def test_a_run_that_stops_in_both_logs_is_shown_as_such_and_proved_so_far(
    recording, capsys
):
    volumes = [
        position
        for position, entry in enumerate(read_recording(recording / OUTCOMES))
        if isinstance(entry.envelope.record, VolumeOutcome)
        and entry.envelope.record.run == SECOND
    ]
    cut(recording, OUTCOMES, volumes[1])
    cut(recording, INPUTS, position_of(recording, INPUTS, SECOND, "RunEnd"))

    lines, failure = verified(recording, capsys)

    assert failure == ""
    assert lines[1].endswith(
        "1 answers compared, 0 differences, 1 answers that the recording lacks, "
        "recorded without its end"
    )


def test_a_run_that_stops_before_its_first_answer_proves_nothing(recording, capsys):
    cut(
        recording, OUTCOMES, position_of(recording, OUTCOMES, SECOND, "VolumeOutcome")
    )  # fmt: skip
    cut(recording, INPUTS, position_of(recording, INPUTS, SECOND, "RunEnd"))

    _, failure = verified(recording, capsys)

    assert failure == (
        f"{recording}: {SECOND}: expected answers to compare, found none. {REMEDY}"
    )
