"""What a dead server left in memory belongs to its recording, and to no other."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bci_bridge import leftovers, places
from bci_bridge.leftovers import SERVER, clear_dead
from bci_bridge.messages import Missing
from bci_bridge.places import INPUTS, OUTCOMES, held_places
from bci_bridge.recorder import Recorder
from bci_bridge.tail import Tail
from bci_bridge.wire import encode
from runtime.errors import UsageError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    """A folder in place of all of this machine's memory, which others use."""
    folder = tmp_path / "memory"
    folder.mkdir()
    monkeypatch.setattr(places, "MEMORY", folder)
    return folder


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def record(folder, count=1):
    recorder = Recorder(folder)
    for number in range(recorder.segment_number, recorder.segment_number + count):
        recorder.append("in/s", encode(Missing(volume_index=number)), 1)
    recorder.close()


def killed(log, *, spilt=True):
    """Do as a server that was killed; return its folder."""
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places.Places, "remove", lambda _: None)
        with held_places(log, told.append) as held:
            if log is not None:
                record(held.log(INPUTS))
            if spilt:
                record(held.moment / INPUTS)
                record(held.moment / OUTCOMES)
    assert told == []
    return held.moment


def found_by_the_next(log):
    """Which messages the next server finds, and what it says."""
    told = []
    with held_places(log, told.append) as held:
        tail, found = Tail(held.folders(INPUTS)), []
        while logged := tail.read():
            found += logged
        tail.close()
    return len(found), told


def test_who_goes_on_with_a_recording_finds_what_it_lacks(log):
    moment = killed(log)
    for path in (moment / INPUTS).glob("*.mcap"):
        path.rename(path.with_name("000001.mcap"))

    assert found_by_the_next(log) == (2, [])
    assert found_by_the_next(log) == (2, [])


@pytest.mark.parametrize("how", ["removed", "emptied", "another's"])
def test_a_new_recording_at_an_old_path_does_not(log, memory, how):
    moment = killed(log)
    if how == "emptied":
        for path in log.glob("*/*.mcap"):
            path.unlink()
    else:
        shutil.rmtree(log)
    if how == "another's":
        other = log.with_name("other")
        killed(other, spilt=False)
        other.rename(log)

    found, told = found_by_the_next(log)

    assert found == (1 if how == "another's" else 0)
    aside = Path(f"{moment}.1")
    assert told == [
        f"{moment}: expected what this recording lacks, found what another one at the "
        f"same path did. That is now in {aside}. Remove it once it is not needed."
    ]
    assert {path.name for path in aside.iterdir()} == {INPUTS, OUTCOMES}
    assert aside.stat().st_mode & 0o077 == 0
    assert len(list(aside.glob("*/*.mcap"))) == 2
    assert found_by_the_next(log) == (found, [])


def test_what_is_set_aside_twice_is_kept_twice(log, memory):
    for number in (1, 2):
        killed(log)
        shutil.rmtree(log)
        (line,) = found_by_the_next(log)[1]
        assert f".{number}. Remove" in line
        shutil.rmtree(log)


def test_a_recording_of_an_earlier_version_is_gone_on_with(log):
    moment = killed(log)
    (log / INPUTS / ".lock").write_bytes(b"")
    (moment / "owner").unlink()

    assert found_by_the_next(log)[1] == []
    name = (log / INPUTS / ".lock").read_bytes()
    assert len(name) == 32
    assert found_by_the_next(log)[1] == []
    assert (log / INPUTS / ".lock").read_bytes() == name


def test_a_log_that_cannot_be_named_is_gone_on_with(log, monkeypatch):
    moment = killed(log)
    (log / INPUTS / ".lock").write_bytes(b"")
    (moment / "owner").unlink()
    monkeypatch.setattr(leftovers, "_named", lambda _: b"")

    assert [found_by_the_next(log)[1] for _ in range(2)] == [[], []]


def test_the_lock_of_a_log_still_excludes_a_second_writer(log):
    with held_places(log) as held:
        recorder = Recorder(held.log(INPUTS))
        with pytest.raises(UsageError, match="found one that another"):
            Recorder(held.log(INPUTS))
        recorder.close()


def test_folders_of_the_dead_go_where_nobody_misses_anything(log, memory):
    gone, replaced, there = (log.with_name(name) for name in ("a", "b", "c"))
    folders = {path: killed(path, spilt=False) for path in (gone, replaced, there)}
    lacking, unrecorded = killed(log.with_name("d")), killed(None)
    for path in (gone, replaced, log.with_name("d")):
        shutil.rmtree(path)
    (replaced / INPUTS).mkdir(parents=True)
    (replaced / INPUTS / ".lock").write_bytes(b"0" * 32)
    assert set(memory.iterdir()) == {*folders.values(), lacking, unrecorded}

    clear_dead(memory)

    # What a recording lacks stays: its disk may only be away.
    assert set(memory.iterdir()) == {folders[there], lacking}


def test_nothing_of_another_kind_is_touched(memory, tmp_path):
    (memory / "neuroflow-abcdefgh").mkdir()  # no lock: in the making
    (memory / "neuroflow-file").touch()
    target = tmp_path / "target"
    target.mkdir()
    (target / SERVER).touch()
    (memory / "neuroflow-abcdefg1").symlink_to(target)
    (memory / "other-program").mkdir()
    (memory / "other-program" / SERVER).touch()
    before = set(memory.iterdir())

    clear_dead(memory)

    assert set(memory.iterdir()) == before
    assert (target / SERVER).exists()


def test_the_folder_of_a_living_server_is_never_removed(log, memory):
    with held_places(None) as one, held_places(log) as other:
        shutil.rmtree(log)
        clear_dead(memory)

        assert one.moment.is_dir()
        assert other.moment.is_dir()


def test_a_folder_that_is_looked_at_for_a_moment_is_waited_for(log, memory):
    moment = killed(log)
    looker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time\n"
            "file = open(sys.argv[1])\n"
            "fcntl.flock(file, fcntl.LOCK_EX)\n"
            "print(flush=True)\n"
            "time.sleep(0.1)\n",
            str(moment / SERVER),
        ],
        stdout=subprocess.PIPE,
    )
    with looker:
        looker.stdout.readline()
        began = time.monotonic()
        with held_places(log):
            pass

    assert time.monotonic() - began < places.PATIENCE_S


def test_a_folder_that_went_meanwhile_is_made_anew(log, memory, monkeypatch):
    """Between the opening of its lock and the taking of it."""
    flock, left = fcntl.flock, [1]

    def removing(fd, how):
        if left:
            left.pop()
            shutil.rmtree(os.path.dirname(os.readlink(f"/proc/self/fd/{fd}")))
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", removing)
    with held_places(log) as held:
        assert (held.moment / SERVER).exists()
        assert not left
