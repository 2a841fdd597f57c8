"""A disk that takes nothing more costs the recording, and no message."""

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bci_bridge import recorder as recorder_module
from bci_bridge.folder_lock import locked_folder
from bci_bridge.messages import Missing
from bci_bridge.recorder import PREFACE, RETRY_NS, SPILL_SEGMENTS, Recorder
from bci_bridge.recording_reader import read_recording
from bci_bridge.tail import Tail, preface_of
from bci_bridge.wire import encode
from runtime.errors import UsageError

FAILURES = {
    "full": errno.ENOSPC,
    "read-only": errno.EROFS,
    "over quota": errno.EDQUOT,
    "broken": errno.EIO,
}


class Disk:
    """A folder below which nothing can be made, written, cut or removed while it fails.

    Attributes:
        fails_with: What the system says; 0 while all is well.
        room: Bytes of the next write that it still takes.
    """

    def __init__(self, folder, monkeypatch):
        self.folder, self.fails_with, self.room = folder, 0, 0
        self.tried = 0
        self._open, self._unlink = os.open, os.unlink
        self._writev, self._ftruncate = os.writev, os.ftruncate
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "unlink", self.unlink)
        monkeypatch.setattr(os, "writev", self.writev)
        monkeypatch.setattr(os, "ftruncate", self.ftruncate)

    def _check(self, path):
        if self.fails_with and str(self.folder) in str(path):
            self.tried += 1
            raise OSError(self.fails_with, os.strerror(self.fails_with))

    def open(self, path, flags, *mode, **where):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._check(path)
        return self._open(path, flags, *mode, **where)

    def unlink(self, path, **where):
        self._check(path)
        self._unlink(path, **where)

    def writev(self, fd, parts):
        if self.fails_with and self.room:
            part, self.room = b"".join(parts)[: self.room], 0
            return os.write(fd, part)
        self._check(os.readlink(f"/proc/self/fd/{fd}"))
        return self._writev(fd, parts)

    def ftruncate(self, fd, size):
        if self.fails_with != errno.ENOSPC:
            self._check(os.readlink(f"/proc/self/fd/{fd}"))
        self._ftruncate(fd, size)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def spill(tmp_path):
    folder = tmp_path / "spill"
    folder.mkdir()
    return folder


@pytest.fixture
def disk(log, monkeypatch):
    return Disk(log, monkeypatch)


def envelope(number):
    return encode(Missing(volume_index=number), b"payload")


def written(recorder, numbers, log_ns=1):
    for number in numbers:
        recorder.rotate(log_ns)
        assert recorder.append("in/0", envelope(number), log_ns)


def taken(tail):
    found = []
    while logged := tail.read():
        found += [(one.order, one.envelope.record.volume_index) for one in logged]
    return found


def read(*folders):
    tail = Tail(folders)
    found = taken(tail)
    tail.close()
    return found


def every(count):
    return [(number, number) for number in range(count)]


@pytest.mark.parametrize("room", [0, 30])
@pytest.mark.parametrize("number", FAILURES.values(), ids=FAILURES)
def test_whatever_the_disk_says_the_log_goes_on_in_memory(
    log, spill, disk, number, room
):
    recorder = Recorder(log, spill=spill)
    written(recorder, range(3))
    disk.fails_with, disk.room = number, room
    written(recorder, range(3, 9))
    recorder.close()

    assert recorder.state == "DEGRADED"
    assert disk.tried > 0
    assert read(log, spill) == every(9)
    assert read(log) == every(3)


@pytest.mark.parametrize("number", FAILURES.values(), ids=FAILURES)
def test_a_disk_that_fails_at_the_end_is_no_error(log, disk, number):
    recorder = Recorder(log)
    written(recorder, range(3))
    disk.fails_with = number
    recorder.close()

    assert recorder.state == "DEGRADED"
    assert read(log) == every(3)


@pytest.mark.parametrize("number", FAILURES.values(), ids=FAILURES)
def test_who_goes_on_with_a_log_goes_on_in_memory(log, spill, disk, number):
    before = Recorder(log, spill=spill)
    written(before, range(3))
    before.close()
    disk.fails_with = number
    # Each dies at once, and leaves its lock to the next.
    for first in range(3, 9):
        recorder = Recorder(log, spill=spill, first_order=first)
        assert recorder.state == "DEGRADED"
        written(recorder, [first])
        recorder.close()
        assert recorder.durable == 0

    assert read(log, spill) == every(9)


def test_a_log_that_begins_is_refused_on_such_a_disk(log, spill, disk):
    log.mkdir()
    disk.fails_with = errno.EROFS

    with pytest.raises(UsageError, match="found Read-only file system"):
        Recorder(log, spill=spill)


def test_one_that_begins_again_before_its_first_message_is_not(log, spill, disk):
    Recorder(log, spill=spill).close()
    disk.fails_with = errno.ENOSPC
    recorder = Recorder(log, spill=spill, reserve_bytes=1 << 60)
    written(recorder, range(2))
    recorder.close()

    assert read(log, spill) == every(2)


def test_a_run_that_is_partly_in_memory_is_never_called_durable(log, spill):
    recorder = Recorder(log, spill=spill, first_order=3, is_degraded=True)
    written(recorder, [3])
    recorder.close()

    assert (recorder.state, recorder.durable) == ("DEGRADED", 0)


def test_a_disk_that_stays_full_costs_no_message_in_memory(log, spill, disk):
    """To try again begins no segment: the oldest go when there are too many."""
    recorder = Recorder(log, spill=spill)
    written(recorder, range(2))
    disk.fails_with = errno.ENOSPC
    for number in range(2, 60):
        written(recorder, [number], log_ns=number * RETRY_NS)
    recorder.close()

    assert disk.tried > 50
    assert len(list(spill.glob("*"))) == 1
    assert read(log, spill) == every(60)


def test_a_disk_that_is_back_is_gone_back_to(log, spill, disk, monkeypatch):
    recorder = Recorder(log, spill=spill)
    written(recorder, range(2))
    disk.fails_with = errno.ENOSPC
    written(recorder, range(2, 4))
    disk.fails_with = 0
    written(recorder, [4], log_ns=RETRY_NS)  # not yet
    with monkeypatch.context() as little:
        little.setattr(recorder_module, "check_room", _no_room)
        written(recorder, [5], log_ns=2 * RETRY_NS)
    written(recorder, [6, 7], log_ns=3 * RETRY_NS)
    recorder.close()

    assert read(log, spill) == every(8)
    assert [one.order for one in read_recording(log)] == [0, 1, 6, 7]
    assert sorted(path.name for path in log.iterdir() if path.suffix == ".mcap") == [
        "000000.mcap",
        "000002.mcap",
    ]
    assert not (log / recorder_module.TRIAL).exists()


def _no_room(*_):
    raise UsageError("no room")


def test_the_newest_bytes_are_kept_however_many_segments_they_are_in(log, spill, disk):
    before = Recorder(log, spill=spill)
    written(before, [0])
    before.close()
    disk.fails_with = errno.ENOSPC
    deaths = 3 * SPILL_SEGMENTS
    for first in range(1, deaths):
        recorder = Recorder(log, spill=spill, first_order=first)
        written(recorder, [first])
        recorder.close()

    assert len(list(spill.glob("*"))) > 2 * SPILL_SEGMENTS
    assert read(log, spill) == every(deaths)


def test_memory_that_the_log_takes_is_limited(log, spill, disk):
    recorder = Recorder(log, spill=spill, segment_bytes=1000)
    written(recorder, range(2))
    disk.fails_with = errno.ENOSPC
    written(recorder, range(2, 300))
    recorder.close()

    kept = read(spill)
    assert kept == every(300)[-len(kept) :]
    assert 4 * SPILL_SEGMENTS < len(kept) < 290
    sizes = [path.stat().st_size for path in spill.iterdir()]
    assert len(sizes) <= SPILL_SEGMENTS
    assert sum(sizes) < SPILL_SEGMENTS * 1500


def test_a_segment_in_memory_begins_with_what_is_known_too(log, spill, disk):
    """Whoever starts needs no segment before it, which may be gone."""
    begun = []

    def preface():
        begun.append(len(begun))
        return envelope(begun[-1])

    recorder = Recorder(log, spill=spill, segment_bytes=1000, preface=preface)
    written(recorder, range(2))
    disk.fails_with = errno.ENOSPC
    written(recorder, range(2, 100))
    recorder.close()
    again = Recorder(log, spill=spill, first_order=100, preface=preface)
    again.close()

    first, *later = sorted(spill.iterdir())
    assert preface_of(first) is None or len(later) >= SPILL_SEGMENTS - 1
    for segment in later:
        found = preface_of(segment)
        assert found is not None
        assert found.topic == PREFACE
    # Its place is that of the message that follows.
    assert preface_of(later[-1]).order == 100


STEPS = ["append", "append", "append", "read", "kill", "fail", "mend", "wait"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(STEPS), max_size=40),
    st.sampled_from(sorted(FAILURES.values())),
    st.integers(0, 200),
    st.booleans(),
)
def test_whatever_the_disk_does_and_whoever_dies_nothing_is_lost_or_doubled(
    tmp_path_factory, story, number, room, has_preface
):
    """Read as it comes, and by one that starts when all is over."""
    log, spill = tmp_path_factory.mktemp("log"), tmp_path_factory.mktemp("spill")
    preface = (lambda: envelope(0)) if has_preface else None

    def begun():
        return Recorder(
            log,
            spill=spill,
            first_order=count,
            preface=preface,
            segment_bytes=600,
            sync_interval_s=0.0,
        )

    with pytest.MonkeyPatch.context() as patch:
        # More than eight segments in memory are for another test.
        patch.setattr(recorder_module, "SPILL_SEGMENTS", 1000)
        disk = Disk(log, patch)
        count, now_ns, seen = 0, 1, []
        recorder, tail = begun(), Tail([log, spill])
        for step in story:
            match step:
                case "append":
                    written(recorder, [count], now_ns)
                    count += 1
                case "read":
                    seen += taken(tail)
                case "kill":
                    left = recorder._segment
                    held = left.path.read_bytes()
                    recorder.close()
                    left.path.write_bytes(held + held[-room // 2 :][: room // 4])
                    recorder = begun()
                case "fail":
                    disk.fails_with, disk.room = number, room
                case "mend":
                    disk.fails_with = 0
                case _:
                    now_ns += RETRY_NS
        recorder.close()
        seen += taken(tail)
        tail.close()

    assert seen == every(count)
    assert read(log, spill) == every(count)


def test_a_lock_is_held_where_nothing_can_be_written(log, disk):
    os.close(locked_folder(log, "taken"))
    for number in FAILURES.values():
        disk.fails_with = number
        held = locked_folder(log, "taken")
        with pytest.raises(UsageError, match="taken"):
            locked_folder(log, "taken")
        os.close(held)


def test_a_lock_is_held_where_not_even_its_file_can_be_made(log, disk):
    log.mkdir()
    disk.fails_with = errno.EROFS
    held = locked_folder(log, "taken")

    with pytest.raises(UsageError, match="taken"):
        locked_folder(log, "taken")
    os.close(held)
