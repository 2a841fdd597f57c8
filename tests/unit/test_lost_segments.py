"""A log that has lost segments is read across the gap, and says what it lacks."""

import contextlib

import numpy as np
import pytest
from msgspec import structs

from bci_bridge.answering import LOST, Answering
from bci_bridge.ledger import Ledger
from bci_bridge.messages import Missing, RunEnd, RunStart, StateNote, Volume
from bci_bridge.outcomes import RunEnded, VolumeOutcome
from bci_bridge.recorder import PREFACE, Recorder
from bci_bridge.recovery import is_folded
from bci_bridge.segment import CHUNK, MAGIC, Logged, records
from bci_bridge.tail import LOOK_EVERY, Tail
from bci_bridge.wire import encode
from tests.integration.tiny import SHAPE, MeanDecoder


def message(number):
    return encode(Missing(volume_index=number))


def state():
    return encode(StateNote())


def segments(folder, sizes, first=0):
    """Write a segment for each size, as servers do that end and begin again."""
    for size in sizes:
        recorder = Recorder(
            folder, first_order=first, preface=state, sync_interval_s=0.001
        )
        for number in range(first, first + size):
            recorder.append("in/s", message(number), 0)
        recorder.close()
        first += size


def removed(folder, *numbers):
    for number in numbers:
        (folder / f"{number:06d}.mcap").unlink()


def indices(tail):
    found = []
    while logged := tail.read():
        found += [one.envelope.record.volume_index for one in logged]
    return found


@pytest.fixture
def follow():
    """Follow logs, and close the readers."""
    with contextlib.ExitStack() as stack:

        def begin(*folders, segment=0):
            tail = Tail(folders, segment=segment)
            stack.callback(tail.close)
            return tail

        yield begin


@pytest.mark.parametrize(
    ("gone", "left", "lost"),
    [
        ([1], [0, 1, 5, 6, 7, 8, 9], 3),
        ([1, 2], [0, 1, 9], 7),
        ([2], [0, 1, 2, 3, 4, 9], 4),
    ],
)
def test_a_gap_is_crossed_and_what_is_lost_is_counted(
    tmp_path, follow, gone, left, lost
):
    segments(tmp_path, [2, 3, 4, 1])
    removed(tmp_path, *gone)
    tail = follow(tmp_path)

    assert indices(tail) == left
    assert (tail.lost, tail.unread, tail.damaged) == (lost, lost, 0)
    assert tail.state is None or tail.state.topic == PREFACE


def test_a_loss_is_told_before_anything_comes_after_it(tmp_path, follow):
    segments(tmp_path, [2, 3, 0])
    removed(tmp_path, 1)
    tail = follow(tmp_path)

    assert indices(tail) == [0, 1]
    assert tail.lost == 3
    assert tail.state.order == 5


def test_a_number_that_was_never_used_is_no_loss(tmp_path, follow):
    segments(tmp_path, [2, 3])
    (tmp_path / "000001.mcap").rename(tmp_path / "000002.mcap")
    tail = follow(tmp_path)

    assert indices(tail) == [0, 1, 2, 3, 4]
    assert (tail.unread, tail.state) == (0, None)


def test_the_oldest_segments_are_no_loss_to_who_begins_later(tmp_path, follow):
    segments(tmp_path, [2, 3, 4])
    removed(tmp_path, 0)
    tail = follow(tmp_path)

    assert indices(tail) == [2, 3, 4, 5, 6, 7, 8]
    assert tail.unread == 0


def test_a_server_that_counts_anew_is_no_loss(tmp_path, follow):
    segments(tmp_path, [2])
    segments(tmp_path, [3])
    tail = follow(tmp_path)

    assert indices(tail) == [0, 1, 0, 1, 2]
    assert tail.unread == 0


def test_a_gap_that_a_living_writer_leaves_is_crossed_before_long(tmp_path, follow):
    segments(tmp_path, [2])
    tail = follow(tmp_path)
    seen = indices(tail)
    seen += indices(tail)
    segments(tmp_path, [3], first=2)
    (tmp_path / "000001.mcap").rename(tmp_path / "000002.mcap")

    for _ in range(LOOK_EVERY):
        seen += indices(tail)

    assert seen == [0, 1, 2, 3, 4]


def test_folders_are_listed_seldom(tmp_path, follow, monkeypatch):
    segments(tmp_path, [2])
    tail, listed = follow(tmp_path), []
    monkeypatch.setattr(
        "bci_bridge.tail.segments_in", lambda folders: listed.append(folders) or {}
    )

    for _ in range(10 * LOOK_EVERY):
        indices(tail)

    assert 10 <= len(listed) <= 11


def test_what_comes_while_the_folders_are_listed_is_not_jumped_over(
    tmp_path, follow, monkeypatch
):
    """Segment 1 goes to the log, which was listed, and 2 to the spill, which was not.

    A writer whose disk fills up between the two does that.
    """
    log, spill = tmp_path / "log", tmp_path / "spill"
    segments(tmp_path / "made", [1, 1, 1])
    for folder in (log, spill):
        folder.mkdir()
    (tmp_path / "made" / "000000.mcap").rename(log / "000000.mcap")
    tail, real = follow(log, spill), __import__("bci_bridge.tail").tail.segments_of

    def listed(folder):
        found = real(folder)
        if folder == log and (tmp_path / "made" / "000001.mcap").exists():
            for number, to in ((1, log), (2, spill)):
                name = f"{number:06d}.mcap"
                (tmp_path / "made" / name).rename(to / name)
        return found

    monkeypatch.setattr("bci_bridge.tail.segments_of", listed)

    assert indices(tail) == [0, 1, 2]
    assert tail.unread == 0


VOXELS = np.zeros(SHAPE, "<i2").tobytes()


def said(run, volumes, count):
    """A run's messages: its start, these volumes, its end."""
    records = [
        RunStart(run=run, shape=SHAPE, tr_s=1.0, expected_volumes=count, budget_s=1.0),
        *(
            Volume(run=run, volume_index=n, acquired_ns=0, dtype="i2", shape=SHAPE)
            for n in volumes
        ),
        RunEnd(run=run, count=count),
    ]
    for sequence, record in enumerate(records):
        filled = structs.replace(record, stream="scanner", sequence=sequence)
        payload = VOXELS if isinstance(record, Volume) else b""
        yield Logged(sequence, 0, "in/scanner", encode(filled, payload))


def answered(answering, messages):
    """What a worker writes of these messages."""
    found = []
    for logged in messages:
        assert logged.topic == PREFACE or is_folded(logged)
        answering.take(logged)
        found += [one.record for one in answering.emit()]
    return found


def told(records):
    return [
        (one.run, one.volume_index, one.input, one.reason)
        for one in records
        if isinstance(one, VolumeOutcome)
    ]


def test_messages_of_a_run_whose_beginning_is_lost_are_not_answered_as_anothers():
    answering = Answering(MeanDecoder(), lambda: 0)
    first, lost, third = (list(said(run, range(3), 3)) for run in "abc")
    standby = Answering(MeanDecoder(), lambda: 0)

    written = answered(answering, [*first[:3], *lost[2:], *third])
    for logged in first[:3]:
        standby.take(logged)

    assert [(run, index) for run, index, *_ in told(written)] == [
        ("a", 0), ("a", 1), ("c", 0), ("c", 1), ("c", 2),
    ]  # fmt: skip
    assert [one.run for one in written if isinstance(one, RunEnded)] == ["c"]
    # Nor does who stands by wait for an answer to them.
    assert all(map(standby.is_settled, lost[1:]))


def test_a_run_whose_beginning_is_lost_goes_on_from_what_its_segment_begins_with():
    ledger, run = Ledger(), list(said("run", range(4), 4))
    for logged in run[:3]:
        ledger.fold(logged.envelope, 0)
    known = Logged(3, 0, PREFACE, ledger.note())
    answering = Answering(MeanDecoder(), lambda: 0)

    written = answered(answering, [*said("before", range(2), 2), known, *run[3:]])

    assert told(written)[2:] == [
        ("run", 0, "MISSING", LOST),
        ("run", 1, "MISSING", LOST),
        ("run", 2, "OK", ""),
        ("run", 3, "OK", ""),
    ]
    assert (written[-1].run, written[-1].count) == ("run", 4)


def test_a_run_that_is_known_goes_on_and_what_it_lacks_is_missing():
    ledger, run = Ledger(), list(said("run", range(4), 4))
    for logged in run[:4]:
        ledger.fold(logged.envelope, 0)
    known = Logged(4, 0, PREFACE, ledger.note())
    answering = Answering(MeanDecoder(), lambda: 0)

    written = answered(answering, [*run[:2], known, *run[4:]])

    assert [(index, what) for _, index, what, _ in told(written)] == [
        (0, "OK"), (1, "MISSING"), (2, "MISSING"), (3, "OK"),
    ]  # fmt: skip


def test_what_was_answered_and_is_lost_is_not_answered_again():
    first, second = (Answering(MeanDecoder(), lambda: 0) for _ in range(2))
    run, on_record = list(said("run", range(4), 4)), []
    for logged in run:
        first.take(logged)
        on_record += first.emit()
    for envelope in on_record:
        outcome = envelope.record
        if not (isinstance(outcome, VolumeOutcome) and outcome.volume_index in (1, 2)):
            second.know(Logged(0, 0, "out", envelope))

    for logged in run:
        second.take(logged)

    assert second.is_all_said
    assert second.emit() == []


def spoilt(folder, number, chunks):
    """Flip a bit in these chunks of a segment, counted from its beginning."""
    path = folder / f"{number:06d}.mcap"
    whole = path.read_bytes()
    ends = [end for code, _, end in records(whole, len(MAGIC)) if code == CHUNK]
    data = bytearray(whole)
    for chunk in chunks:
        data[ends[chunk] - 1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("chunks", "missing"),
    [
        ((0, 1), {0, 1, 2}),
        ((1,), {0, 1, 2}),
        ((0, 1, 2), {0, 1, 2}),
        ((0,), set()),
        ((2,), {0}),
    ],
)
def test_a_run_whose_beginning_is_damaged_goes_on_from_the_next_segment(
    tmp_path, follow, chunks, missing
):
    """Chunk 0 is the first segment's state, 1 the run's start, then its volumes."""
    ledger, run = Ledger(), list(said("run", range(5), 5))
    for order, one in enumerate(run):
        if order in (0, 4):
            recorder = Recorder(
                tmp_path, first_order=order, preface=ledger.note, sync_interval_s=0.001
            )
        recorder.append(one.topic, one.envelope, 0)
        ledger.fold(one.envelope, 0)
        if order in (3, len(run) - 1):
            recorder.close()
    spoilt(tmp_path, 0, chunks)
    tail, answering = follow(tmp_path), Answering(MeanDecoder(), lambda: 0)
    read = []
    for batch in tail.read_through():
        if tail.state is not None:
            read.append(tail.state)
            tail.state = None
        read += filter(is_folded, batch)
    written = answered(answering, read)

    assert [(index, what) for _, index, what, _ in told(written)] == [
        (index, "MISSING" if index in missing else "OK") for index in range(5)
    ]
    assert isinstance(written[-1], RunEnded)


def test_a_damaged_beginning_is_no_gap_once_a_state_was_taken(tmp_path, follow):
    segments(tmp_path, [3, 2, 2])
    spoilt(tmp_path, 0, [2])
    tail, seen = follow(tmp_path), []
    for _ in tail.read_through():
        seen.append(tail.state and tail.state.order)
        tail.state = None

    assert [order for order in seen if order is not None] == [3]
    assert (tail.lost, tail.damaged) == (1, 1)
