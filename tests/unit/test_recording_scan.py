"""A scan names what is lost, where a process was killed and where the next began."""

import errno

import pytest

from bci_bridge import recorder as recorder_module
from bci_bridge.messages import Missing
from bci_bridge.recorder import RETRY_NS, Recorder
from bci_bridge.recording_reader import Break, scan_recording
from bci_bridge.wire import encode
from runtime.errors import RecordingError


def record(folder, count, **options):
    recorder = Recorder(folder, sync_interval_s=0.001, **options)
    for number in range(count):
        append(recorder, number)
    return recorder


def append(recorder, number, log_ns=0):
    recorder.append("in/s", encode(Missing(volume_index=number), b"payload"), log_ns)


def scanned(folder):
    """Orders of what is read, and in between the kinds of what is not."""
    return [
        item.kind if isinstance(item, Break) else item.order
        for item in scan_recording(folder)
    ]


def losses(folder):
    return [
        item.what
        for item in scan_recording(folder)
        if isinstance(item, Break) and item.kind == "LOST"
    ]


def changed(folder, at, flip=1):
    (segment,) = folder.glob("*.mcap")
    data = bytearray(segment.read_bytes())
    data[at(data)] ^= flip
    segment.write_bytes(data)


def nth(data, what, number):
    at = -1
    for _ in range(number + 1):
        at = data.index(what, at + 1)
    return at


def test_a_whole_recording_has_no_break(tmp_path):
    record(tmp_path, 20, segment_bytes=2000).close()

    assert len(list(tmp_path.glob("*.mcap"))) > 1
    assert scanned(tmp_path) == list(range(20))


def test_one_server_after_another_and_a_killed_one_are_told_apart(tmp_path):
    record(tmp_path, 2).close()
    killed = record(tmp_path, 3)
    before = sorted(tmp_path.glob("*.mcap"))[-1]
    unfinished = before.read_bytes()
    killed.close()
    before.write_bytes(unfinished[:-5])
    record(tmp_path, 1).close()

    assert scanned(tmp_path) == [0, 1, "NEXT_SERVER", 0, 1, "TORN", "NEXT_SERVER", 0]


def test_a_damaged_message_is_named_by_its_order_and_byte(tmp_path):
    record(tmp_path, 6).close()
    changed(tmp_path, lambda data: nth(data, b"payload", 2))

    (loss,) = losses(tmp_path)

    assert scanned(tmp_path) == [0, 1, "LOST", 3, 4, 5]
    assert loss.startswith("message 2 (000000.mcap: byte ")
    assert loss.endswith(": chunk and CRC do not match)")


def test_a_damaged_length_costs_nothing_where_the_chunk_is_sound(tmp_path):
    record(tmp_path, 6).close()
    changed(tmp_path, lambda data: _start_of_third_chunk(data) + 5, flip=0x7F)

    assert scanned(tmp_path) == list(range(6))


def test_a_damaged_inner_length_costs_one_message(tmp_path):
    record(tmp_path, 6).close()
    changed(tmp_path, lambda data: _start_of_third_chunk(data) + 41, flip=0x7F)

    assert scanned(tmp_path) == [0, 1, "LOST", 3, 4, 5]
    assert losses(tmp_path)[0].startswith("message 2 (000000.mcap: byte ")


def test_a_damaged_opening_magic_costs_nothing(tmp_path):
    record(tmp_path, 6).close()
    changed(tmp_path, lambda data: 3)

    assert scanned(tmp_path) == list(range(6))


@pytest.mark.parametrize("bit", range(8))
def test_a_damaged_length_of_the_header_costs_nothing(tmp_path, bit):
    record(tmp_path, 6).close()
    changed(tmp_path, lambda data: 9, flip=1 << bit)

    assert scanned(tmp_path) == list(range(6))


def test_a_damaged_first_chunk_costs_the_others_nothing(tmp_path):
    recorder = Recorder(tmp_path, sync_interval_s=0.001)
    for number in range(4):
        message = Missing(stream="s", volume_index=number)
        recorder.append("in/s", encode(message, b"payload"), 0)
    (segment,) = tmp_path.glob("*.mcap")
    killed = segment.read_bytes()
    recorder.close()
    segment.write_bytes(killed)
    changed(tmp_path, lambda data: nth(data, b"payload", 0))

    items = list(scan_recording(tmp_path))

    assert scanned(tmp_path) == ["LOST", 1, 2, 3, "TORN"]
    assert {item.topic for item in items if not isinstance(item, Break)} == {"in/s"}


def test_a_channel_whose_name_is_damaged_is_named_by_the_summary(tmp_path):
    recorder = Recorder(tmp_path, sync_interval_s=0.001)
    for number in range(3):
        message = Missing(stream="s", volume_index=number)
        recorder.append("in/s", encode(message, b"payload"), 0)
    recorder.close()
    changed(tmp_path, lambda data: nth(data, b"in/s", 0))

    assert scanned(tmp_path) == ["LOST", 1, 2]
    assert {
        item.topic for item in scan_recording(tmp_path) if not isinstance(item, Break)
    } == {"in/s"}


def test_a_damaged_channel_costs_the_message_beside_it(tmp_path):
    recorder = Recorder(tmp_path, sync_interval_s=0.001)
    for number in range(3):
        message = Missing(stream="s", volume_index=number)
        recorder.append("in/s", encode(message, b"payload"), 0)
    (segment,) = tmp_path.glob("*.mcap")
    killed = segment.read_bytes()
    recorder.close()
    segment.write_bytes(killed)
    changed(tmp_path, lambda data: nth(data, b"in/s", 0))

    assert scanned(tmp_path) == ["LOST", 1, 2, "TORN"]


def test_other_bytes_are_no_recording(tmp_path):
    (tmp_path / "000000.mcap").write_bytes(b"not a recording" * 99)

    with pytest.raises(RecordingError, match="expected an MCAP file"):
        list(scan_recording(tmp_path))


def _start_of_third_chunk(data):
    at = 8
    n_chunks = 0
    while True:
        opcode = data[at]
        size = int.from_bytes(data[at + 1 : at + 9], "little")
        n_chunks += opcode == 0x06
        if n_chunks == 3:
            return at
        at += 9 + size


def test_what_a_full_disk_refused_is_lost_and_the_rest_is_there(tmp_path, monkeypatch):
    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    recorder = record(tmp_path, 3)
    with monkeypatch.context() as disk:
        disk.setattr(recorder_module.os, "writev", full)
        append(recorder, 3)
    append(recorder, 4, log_ns=1)
    append(recorder, 5, log_ns=RETRY_NS)
    recorder.close()

    assert scanned(tmp_path) == [0, 1, 2, "TORN", "LOST", 5]
    assert losses(tmp_path) == ["messages 3 to 4"]
