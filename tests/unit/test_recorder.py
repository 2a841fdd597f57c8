import errno
import os
import threading
from pathlib import Path

import pytest
from mcap.reader import make_reader
from mcap.records import Chunk
from mcap.stream_reader import StreamReader

from bci_bridge import recorder as recorder_module
from bci_bridge.messages import Missing
from bci_bridge.recorder import Recorder
from bci_bridge.recording_reader import read_recording
from bci_bridge.wire import encode
from runtime.errors import RecordingError, UsageError


def _envelope(number: int, payload: bytes = b"payload"):
    return encode(Missing(volume_index=number), payload)


def _record(folder: Path, count: int, **options: object) -> Recorder:
    recorder = Recorder(folder, sync_interval_s=0.001, **options)
    for number in range(count):
        recorder.append(f"in/{number % 2}", _envelope(number), number)
    return recorder


def test_what_was_recorded_is_read_back_in_order(tmp_path):
    _record(tmp_path, 10).close()

    logged = list(read_recording(tmp_path))

    assert [entry.order for entry in logged] == list(range(10))
    assert [entry.envelope for entry in logged] == [_envelope(n) for n in range(10)]
    assert [entry.topic for entry in logged[:2]] == ["in/0", "in/1"]


def test_the_stock_reader_reads_it_too(tmp_path):
    _record(tmp_path, 10).close()

    (segment,) = tmp_path.glob("*.mcap")
    with segment.open("rb") as stream:
        found = [
            (channel.topic, message.log_time)
            for _, channel, message in make_reader(stream).iter_messages()
        ]

    assert sorted(found, key=lambda item: item[1]) == [
        (f"in/{number % 2}", number) for number in range(10)
    ]


def test_a_recording_of_a_killed_process_has_every_message(tmp_path):
    recorder = _record(tmp_path, 10)

    logged = list(read_recording(tmp_path))  # nothing was finished or closed

    assert len(logged) == 10
    recorder.close()


@pytest.mark.parametrize("cut", [1, 9, 40, 200])
def test_a_torn_tail_costs_what_it_held_only(tmp_path, cut):
    recorder = _record(tmp_path, 10)
    (segment,) = tmp_path.glob("*.mcap")
    whole = segment.read_bytes()
    recorder.close()
    segment.write_bytes(whole[:-cut])

    logged = list(read_recording(tmp_path))

    assert [entry.order for entry in logged] == list(range(len(logged)))
    assert 8 <= len(logged) <= 9


def test_a_flipped_bit_is_named_or_passed_over(tmp_path):
    _record(tmp_path, 10).close()
    (segment,) = tmp_path.glob("*.mcap")
    data = bytearray(segment.read_bytes())
    data[data.index(b"payload", 1000)] ^= 1
    segment.write_bytes(data)

    with pytest.raises(RecordingError, match="damaged at byte"):
        list(read_recording(tmp_path))
    assert len(list(read_recording(tmp_path, skip_damaged=True))) == 9


def test_segments_rotate_and_keep_one_order(tmp_path):
    _record(tmp_path, 50, segment_bytes=4000).close()

    logged = list(read_recording(tmp_path))

    assert len(list(tmp_path.glob("*.mcap"))) == 3
    assert [entry.order for entry in logged] == list(range(50))


def test_durable_reaches_what_was_appended(tmp_path):
    recorder = _record(tmp_path, 20)

    recorder.close()

    assert recorder.durable == recorder.appended == 20
    assert recorder.state == "ON"


@pytest.mark.timeout(30)
def test_an_open_log_is_synced_by_another_thread_within_a_second(tmp_path, monkeypatch):
    synced_by: list[threading.Thread] = []

    def fdatasync(_: int) -> None:
        synced_by.append(threading.current_thread())

    monkeypatch.setattr(recorder_module.os, "fdatasync", fdatasync)
    recorder = Recorder(tmp_path)
    for number in range(3):
        recorder.append("in", _envelope(number), number)
        while recorder.durable <= number:
            threading.Event().wait(0.01)
    recorder_threads = set(synced_by)
    recorder.close()

    assert threading.current_thread() not in recorder_threads
    assert len(recorder_threads) == 1
    assert recorder_module.SYNC_INTERVAL_S <= 1


def test_nothing_in_a_log_is_compressed(tmp_path):
    payload = bytes(1 << 16)
    recorder = Recorder(tmp_path, sync_interval_s=0.001)
    recorder.append("in", _envelope(0, payload), 0)
    recorder.close()

    written = (tmp_path / "000000.mcap").read_bytes()
    with (tmp_path / "000000.mcap").open("rb") as stream:
        records = [*StreamReader(stream, emit_chunks=True).records]

    assert payload in written
    assert {one.compression for one in records if isinstance(one, Chunk)} == {""}


def test_what_a_killed_process_wrote_is_durable_only_once_its_segment_is_synced(
    tmp_path, monkeypatch
):
    _record(tmp_path, 20).close()
    left = os.stat(tmp_path / "000000.mcap").st_ino
    may_sync, synced = threading.Event(), []

    def fdatasync(fd: int) -> None:
        may_sync.wait(10)
        synced.append(os.fstat(fd).st_ino)

    monkeypatch.setattr(recorder_module.os, "fdatasync", fdatasync)
    recorder = Recorder(tmp_path, first_order=20, sync_interval_s=0.001)

    assert recorder.durable == 0
    may_sync.set()
    while recorder.durable == 0:
        threading.Event().wait(0.001)
    assert recorder.durable == 20
    assert synced[0] == left
    recorder.close()


def test_two_recorders_never_share_a_folder(tmp_path):
    recorder = Recorder(tmp_path)

    with pytest.raises(UsageError) as caught:
        Recorder(tmp_path)

    assert str(caught.value) == (
        f"recording {tmp_path}: expected a free folder, found one that another "
        "server records to. Stop that server or name another folder."
    )
    recorder.close()


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(UsageError, match="Not a directory"):
        Recorder(tmp_path / "file" / "below")


def test_a_full_disk_degrades_and_the_disk_is_tried_again(tmp_path, monkeypatch):
    recorder = _record(tmp_path, 3)
    room = [30]

    def writev(fd: int, parts: list[memoryview]) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        part, room[0] = b"".join(parts)[: room[0]], 0
        return os.write(fd, part)

    with monkeypatch.context() as patch:
        patch.setattr(recorder_module.os, "writev", writev)
        recorder.append("in/0", _envelope(3), 3)
        recorder.append("in/0", _envelope(4), 4)
    recorder.append("in/0", _envelope(5), recorder_module.RETRY_NS + 10)
    recorder.close()

    assert recorder.state == "DEGRADED"
    assert [entry.order for entry in read_recording(tmp_path)] == [0, 1, 2, 5]


class Disk:
    """Each sync takes a second, and some fail; the clock stands still otherwise."""

    def __init__(self, monkeypatch, failing=()):
        self.now_ns, self.synced, self._failing = 0, 0, failing
        monkeypatch.setattr(recorder_module.os, "fdatasync", self._sync)

    def _sync(self, fd: int) -> None:
        self.synced += 1
        self.now_ns += 1_000_000_000
        if self.synced in self._failing:
            raise OSError(errno.EIO, "Input/output error")

    def clock_ns(self) -> int:
        return self.now_ns


def test_each_sync_is_measured(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    recorder = _record(tmp_path, 30, segment_bytes=4000, clock_ns=disk.clock_ns)
    recorder.close()

    assert disk.synced >= 2  # each segment at least once
    assert recorder.syncs.count == disk.synced
    assert recorder.syncs.sum_ns == disk.now_ns


def test_a_sync_that_fails_is_measured_too(tmp_path, monkeypatch):
    disk = Disk(monkeypatch, failing={1})
    recorder = _record(tmp_path, 3, clock_ns=disk.clock_ns)
    recorder.close()

    assert recorder.state == "DEGRADED"
    assert recorder.syncs.count == disk.synced >= 1


def test_a_sync_to_memory_says_nothing_of_the_disk(tmp_path, monkeypatch):
    disk, spill = Disk(monkeypatch), tmp_path / "spill"
    spill.mkdir()

    def full(path, *, is_spilt):
        if not is_spilt:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, is_spilt=is_spilt)

    real = recorder_module.SegmentFile
    recorder = Recorder(
        tmp_path / "log",
        spill=spill,
        segment_bytes=400,
        sync_interval_s=0.001,
        clock_ns=disk.clock_ns,
    )
    monkeypatch.setattr(recorder_module, "SegmentFile", full)
    for number in range(5):
        recorder.append("in/0", _envelope(number), number)
    recorder.close()

    assert any(spill.glob("*.mcap"))
    assert recorder.syncs.count < disk.synced


def test_an_empty_folder_is_no_recording(tmp_path):
    with pytest.raises(RecordingError, match="found none"):
        list(read_recording(tmp_path))
