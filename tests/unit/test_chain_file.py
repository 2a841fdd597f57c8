"""The chain on disk: who writes it, when, and what it leaves alone."""

import os
import threading
import types

import pytest

from bci_bridge import recording_folder
from bci_bridge.chain import CHAIN, decoded
from bci_bridge.chain_file import Chainer, check_chain
from bci_bridge.messages import Missing
from bci_bridge.recorder import Recorder
from bci_bridge.wire import encode
from runtime.errors import UsageError


def record(folder, count=10, first=0, **options):
    recorder = Recorder(folder, sync_interval_s=0.001, first_order=first, **options)
    for number in range(count):
        recorder.append("in/a", encode(Missing(volume_index=number), b"payload"), 0)
    return recorder


def names(folder):
    return sorted(path.name for path in folder.glob("*.mcap"))


def chain_of(folder):
    return decoded((folder / CHAIN).read_bytes(), CHAIN)


def test_all_segments_are_chained_when_the_writer_closes(tmp_path):
    record(tmp_path, 40, segment_bytes=1500).close()

    checked = check_chain(tmp_path)

    assert [link.segment for link in chain_of(tmp_path).links] == names(tmp_path)
    assert (checked.segments, checked.trouble, checked.unchained) == (
        len(names(tmp_path)), "", (),
    )  # fmt: skip
    assert (tmp_path / CHAIN).stat().st_mode & 0o777 == 0o600
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".segments")]


def test_a_segment_is_chained_while_the_next_is_written(tmp_path):
    recorder = record(tmp_path, 40, segment_bytes=1500)
    waited = threading.Event()
    while not (tmp_path / CHAIN).exists() and not waited.wait(0.01):
        recorder.append("in/a", encode(Missing(volume_index=1)), 0)
    running = check_chain(tmp_path)
    recorder.close()

    assert running.trouble == ""
    assert names(tmp_path)[-1] not in {x.segment for x in chain_of(tmp_path).links[:-1]}
    assert running.segments >= 1
    assert len(running.unchained) >= 1


def test_what_a_killed_writer_left_is_chained_by_the_next(tmp_path):
    recorder = record(tmp_path / "a", 40, segment_bytes=1500)
    (tmp_path / "b").mkdir()
    for name in names(tmp_path / "a"):  # as a kill would leave it: no chain, torn
        (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
    recorder.close()
    before = names(tmp_path / "b")
    assert not check_chain(tmp_path / "b").has_chain
    assert check_chain(tmp_path / "b").unchained == tuple(before)

    record(tmp_path / "b", first=40).close()

    links = [link.segment for link in chain_of(tmp_path / "b").links]
    assert links == names(tmp_path / "b")
    assert links[:-1] == before
    assert check_chain(tmp_path / "b").trouble == ""


def test_the_next_writer_goes_on_with_the_chain(tmp_path):
    record(tmp_path).close()
    first = chain_of(tmp_path)
    record(tmp_path, first=10).close()

    assert chain_of(tmp_path).links[:1] == first.links
    assert len(chain_of(tmp_path).links) == 2


def test_nobody_takes_the_number_of_a_chained_segment_that_is_gone(tmp_path):
    record(tmp_path).close()
    record(tmp_path, first=10).close()
    (tmp_path / "000001.mcap").unlink()
    record(tmp_path, first=10).close()

    assert names(tmp_path) == ["000000.mcap", "000002.mcap"]
    assert [link.number for link in chain_of(tmp_path).links] == [0, 1, 2]
    assert check_chain(tmp_path).trouble == (
        "000001.mcap: expected a segment, found none"
    )


def test_a_damaged_chain_is_left_as_it_is_and_the_recording_goes_on(tmp_path):
    record(tmp_path).close()
    (tmp_path / CHAIN).write_bytes(b"{}x")
    recorder = record(tmp_path, first=10)
    recorder.close()

    assert (recorder.state, recorder.durable) == ("ON", 20)
    assert (tmp_path / CHAIN).read_bytes() == b"{}x"
    assert check_chain(tmp_path).trouble.startswith("segments.json: damaged: ")


def test_a_log_that_keeps_the_newest_only_has_no_chain(tmp_path):
    record(tmp_path, 40, segment_bytes=1500, keeps_all=False).close()

    assert not (tmp_path / CHAIN).exists()


def test_spilt_segments_are_not_chained(tmp_path):
    chainer = Chainer(tmp_path / "log")
    (tmp_path / "spill").mkdir()
    (tmp_path / "spill" / "000003.mcap").write_bytes(b"x")
    chainer.add(tmp_path / "spill" / "000003.mcap")

    assert chainer.step() is False
    assert not (tmp_path / "log").exists()


def test_a_long_segment_is_hashed_some_bytes_at_a_time(tmp_path):
    (tmp_path / "000000.mcap").write_bytes(bytes(3 << 20))
    chainer = Chainer(tmp_path)

    steps = [chainer.step(1 << 20) for _ in range(4)]

    assert steps == [True, True, True, False]
    (link,) = chain_of(tmp_path).links
    assert link.size == 3 << 20
    assert check_chain(tmp_path).trouble == ""


def test_a_chain_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bci_bridge.chain_file.replace_whole", full)
    recorder = record(tmp_path, 40, segment_bytes=1500)
    recorder.close()

    assert (recorder.state, recorder.durable) == ("ON", 40)
    assert not (tmp_path / CHAIN).exists()


@pytest.fixture
def little_room(monkeypatch):
    found = types.SimpleNamespace(f_bavail=10, f_frsize=1_000_000)
    monkeypatch.setattr(recording_folder.os, "statvfs", lambda _: found)


def test_a_disk_without_room_is_refused_at_the_beginning_in_one_line(
    tmp_path, little_room
):
    folder = tmp_path / "new" / "inputs"
    with pytest.raises(UsageError) as caught:
        Recorder(folder)
    with pytest.raises(UsageError, match="expected 11 MB of room, found 10 MB"):
        Recorder(folder, reserve_bytes=11_000_000)

    assert str(caught.value) == (
        f"recording {folder}: expected 67 MB of room, found 10 MB. "
        "Free some or name another folder."
    )
    assert names(folder) == []
    Recorder(folder, reserve_bytes=10_000_000).close()  # and it is free again


def test_a_log_that_goes_on_takes_what_room_there_is(tmp_path, little_room):
    record(tmp_path / "a", first=3).close()
    record(tmp_path / "b", keeps_all=False).close()

    assert len(names(tmp_path / "a")) == len(names(tmp_path / "b")) == 1
