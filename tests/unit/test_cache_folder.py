"""A folder of engines that nothing can make fail a start, nor leave anything in."""

import errno
import fcntl
import os
import signal
import stat
import threading
from pathlib import Path

import msgspec
import pytest

from runtime.engines.cache import EngineCache, user_cache
from runtime.engines.cache_folder import SECRET, SECRET_BYTES, PrivateFolder
from tests.unit.test_engine_cache import ENGINE, FACTS


@pytest.fixture
def said():
    return []


@pytest.fixture
def cache(tmp_path, said):
    return EngineCache(tmp_path / "engines", said.append)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("what", ["no search", "a long name"])
def test_a_folder_that_cannot_be_reached_is_no_cache_and_said(
    what, tmp_path, said, monkeypatch
):
    root = tmp_path / ("x" * 300 if what == "a long name" else "closed")
    cache = EngineCache(root / "neuroflow" / "engines", said.append)
    if what == "no search":

        def refused(path, *_, **__):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        monkeypatch.setattr(Path, "stat", refused)
        monkeypatch.setattr(Path, "mkdir", refused)
    reason = "permission denied" if what == "no search" else "file name too long"

    assert cache.load(FACTS) is None
    cache.store(FACTS, ENGINE)
    assert cache.store_written(FACTS, lambda file: file.write(ENGINE)) is None
    monkeypatch.undo()

    ends = f"{cache.folder}, found {reason}; running without a cache, and building"
    assert len(said) == 2
    assert all(ends in line for line in said)
    assert (cache.counts.built, cache.counts.unstored) == (2, 2)


def test_a_user_without_a_home_has_a_folder_that_says_why_it_is_none(monkeypatch):
    def unknown(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)

    assert user_cache({}) == Path("/.cache/neuroflow/engines")
    assert user_cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/neuroflow/engines")


def test_a_link_gets_advice_that_can_help(cache, said, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    cache.folder.symlink_to(tmp_path / "elsewhere")

    cache.store(FACTS, ENGINE)

    assert "found a link to a folder (put a folder there, or set XDG_CACHE" in said[0]
    assert "chmod" not in said[0]


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_however_a_store_ends_it_leaves_nothing_behind(cache, end):
    def stopped(file):
        file.write(ENGINE)
        raise end

    with pytest.raises(end):
        cache.store_written(FACTS, stopped)

    assert names(cache.folder) == [SECRET]


def left(cache: EngineCache, name: str) -> Path:
    cache.folder.mkdir(mode=0o700, exist_ok=True)
    path = cache.folder / name
    path.touch(0o600)
    return path


def test_what_dead_writers_left_is_removed_at_the_next_store(cache):
    dead = left(cache, ".a-openvino-b.engine.0123456789abcdef")
    by_number = left(cache, ".a-openvino-b.engine.4711")
    secret = left(cache, f".{SECRET}.4711")
    alive = left(cache, ".a-openvino-d.engine.0123456789abcdef")
    other = left(cache, ".of-somebody-else")

    with alive.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        cache.store(FACTS, ENGINE)

    assert [one.exists() for one in (dead, by_number, secret)] == [False] * 3
    assert alive.exists()
    assert other.exists()


def test_a_writer_that_is_killed_leaves_what_the_next_removes(cache):
    """And is not waited for: whoever comes next may come at once."""
    pid = os.fork()
    if not pid:
        cache.store_written(FACTS, lambda _file: os.kill(os.getpid(), signal.SIGKILL))
        os._exit(1)
    os.waitpid(pid, 0)
    assert len(names(cache.folder)) == 2

    cache.store(FACTS, ENGINE)

    assert [name[0] for name in names(cache.folder)] == ["a", "s"]


def test_two_that_build_one_engine_at_once_do_not_meet(cache, said):
    """In threads, or in two containers whose processes have one number."""
    meet = threading.Barrier(2, timeout=20)
    found = []

    def write(file):
        file.write(ENGINE[:100])
        meet.wait()
        file.write(ENGINE[100:])
        meet.wait()

    def store():
        found.append(cache.store_written(FACTS, write))

    threads = [threading.Thread(target=store) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [None if one is None else one.tobytes() for one in found] == [ENGINE] * 2
    assert said == []
    assert len(names(cache.folder)) == 2


def test_a_secret_is_on_the_disk_before_it_has_its_name(cache, monkeypatch):
    synced, sync, link = [], os.fsync, Path.hardlink_to

    def recorded(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append("folder" if path == cache.folder else path.name.split(".")[1])
        sync(descriptor)

    def linked(path, target):
        synced.append("named")
        link(path, target)

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(Path, "hardlink_to", linked)
    folder = PrivateFolder(cache.folder, lambda _line: None)
    folder.check()

    secret = folder.secret()

    assert synced == [SECRET, "named", "folder"]
    assert len(secret) == SECRET_BYTES
    assert folder.secret() == secret


@pytest.mark.parametrize("content", [b"", bytes(SECRET_BYTES), b"?" * 40])
def test_a_damaged_secret_is_made_anew_and_said(cache, said, content):
    cache.store(FACTS, ENGINE)
    secret = cache.folder / SECRET
    before = secret.read_bytes()
    secret.write_bytes(content)

    assert cache.load(FACTS) is None
    cache.store(FACTS, ENGINE)

    assert len(said) == 2
    assert said[0] == (
        f"engine cache: {secret}: expected 32 random bytes, found it damaged; making "
        "another: what it vouched for is not believed, and built anew"
    )
    assert said[1].endswith("found changed bytes; building it anew")
    assert cache.load(FACTS).tobytes() == ENGINE
    assert secret.read_bytes() not in (before, content)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_what_only_helps_to_build_is_kept_and_not_counted(cache):
    times = msgspec.structs.replace(FACTS, backend="tensorrt-timing")

    assert cache.load(times, is_engine=False) is None
    cache.store(times, b"times", is_engine=False)
    assert cache.load(times, is_engine=False).tobytes() == b"times"
    cache.folder.chmod(0o755)
    cache.store(times, b"times", is_engine=False)
    assert cache.load(times, is_engine=False) is None

    assert cache.counts.line() == ""
    assert (cache.counts.refused, cache.counts.unstored) == (0, 0)
