"""A follower of a log sees every whole message once, wherever the writer dies."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bci_bridge.messages import Heartbeat, Missing
from bci_bridge.recorder import PREFACE, Recorder
from bci_bridge.tail import Tail, preface_of, segments_in
from bci_bridge.wire import encode
from runtime.errors import RecordingError


def envelope(number, payload=b"payload"):
    return encode(Missing(volume_index=number), payload)


def indices(tail):
    found = []
    while new := tail.read():
        found += [(one.order, one.envelope.record.volume_index) for one in new]
    return found


def test_what_is_written_is_read_as_it_comes(tmp_path):
    recorder, tail = Recorder(tmp_path), Tail([tmp_path])
    seen = []
    for number in range(5):
        recorder.append("in/s", envelope(number), number)
        seen += indices(tail)

    assert seen == [(number, number) for number in range(5)]
    recorder.close()
    assert indices(tail) == []
    tail.close()


def test_a_log_that_is_not_there_yet_is_empty(tmp_path):
    tail = Tail([tmp_path / "later"])

    assert tail.read() == []
    recorder = Recorder(tmp_path / "later")
    recorder.append("in/s", envelope(0), 0)
    assert indices(tail) == [(0, 0)]
    recorder.close()
    tail.close()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["append", "read", "kill", "restart"]), max_size=40),
    st.integers(0, 300),
)
def test_any_death_of_the_writer_costs_no_whole_message(tmp_path_factory, story, torn):
    """KILL leaves the segment as it is, with a piece of a chunk at its end."""
    folder = tmp_path_factory.mktemp("log")
    recorder, tail = Recorder(folder, segment_bytes=600), Tail([folder])
    written, seen = 0, []
    for step in story:
        if step == "append":
            recorder.append("in/s", envelope(written), written)
            written += 1
        elif step == "read":
            seen += indices(tail)
        else:
            before = segments_in([folder])
            last = before[max(before)].read_bytes()
            recorder.close()
            if step == "kill":
                before[max(before)].write_bytes(last + last[-torn:][: torn // 2])
            recorder = Recorder(folder, segment_bytes=600, first_order=written)
    recorder.close()
    seen += indices(tail)
    tail.close()

    assert seen == [(number, number) for number in range(written)]


def test_a_damaged_chunk_is_passed_over_and_counted(tmp_path):
    recorder = Recorder(tmp_path)
    for number in range(3):
        recorder.append("in/s", envelope(number, b"payload-%d" % number), number)
    recorder.close()
    (path,) = tmp_path.glob("*.mcap")
    data = bytearray(path.read_bytes())
    data[data.index(b"payload-1")] ^= 1
    path.write_bytes(data)
    tail = Tail([tmp_path])
    seen = []
    for _ in range(5):
        seen += indices(tail)
    tail.close()

    assert [order for order, _ in seen] == [0, 2]
    assert tail.damaged == 1


@pytest.mark.parametrize("nbytes", [9_000_000, 20_000_000])
def test_a_message_longer_than_one_reading_is_read_whole(tmp_path, nbytes):
    recorder, tail = Recorder(tmp_path), Tail([tmp_path])
    recorder.append("in/s", envelope(0, bytes(nbytes)), 0)
    recorder.append("in/s", envelope(1), 0)

    assert indices(tail) == [(0, 0), (1, 1)]
    recorder.close()
    tail.close()


def test_every_segment_begins_with_its_preface(tmp_path):
    state = encode(Heartbeat(), b"all that came before")
    recorder = Recorder(tmp_path, segment_bytes=300, preface=lambda: state)
    for number in range(9):
        recorder.rotate(number)
        recorder.append("in/s", envelope(number), number)
    recorder.close()
    paths = segments_in([tmp_path])
    tail = Tail([tmp_path], segment=1)

    firsts = [preface_of(path) for path in paths.values()]

    assert len(firsts) > 2
    assert {(first.topic, first.envelope.payload) for first in firsts} == {
        (PREFACE, state.payload)
    }
    assert indices(tail)[0][0] == firsts[1].order > 0
    tail.close()


def _segment(folder, number, index):
    """Write a segment of one message under a number of one's own."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        recorder = Recorder(Path(place))
        recorder.append("in/s", envelope(index), index)
        recorder.close()
        (file,) = Path(place).glob("*.mcap")
        file.rename(folder / f"{number:06d}.mcap")


def test_a_gap_that_a_spill_has_left_is_crossed_while_the_own_segment_stays(tmp_path):
    log, spill = tmp_path / "log", tmp_path / "spill"
    _segment(log, 0, 10)
    tail = Tail([log, spill])
    seen = indices(tail)
    # Segments 1 to 4 were in memory, and are gone; the log itself keeps all of its own.
    _segment(spill, 5, 11)
    _segment(log, 6, 12)

    seen += indices(tail)

    assert [index for _, index in seen] == [10, 11, 12]
    tail.close()


def test_a_reader_whose_segment_was_removed_goes_on_with_the_oldest_that_is_left(
    tmp_path,
):
    _segment(tmp_path, 0, 10)
    tail = Tail([tmp_path])
    seen = indices(tail)
    (tmp_path / "000000.mcap").unlink()
    _segment(tmp_path, 7, 17)
    _segment(tmp_path, 8, 18)

    seen += indices(tail)

    assert [index for _, index in seen] == [10, 17, 18]
    tail.close()


def test_a_pipe_in_the_place_of_a_segment_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "000000.mcap")

    with pytest.raises(RecordingError, match="expected a plain file, found a pipe"):
        Tail([tmp_path]).read()
    with pytest.raises(RecordingError, match="expected a plain file, found a pipe"):
        preface_of(tmp_path / "000000.mcap")
