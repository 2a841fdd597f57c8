"""A temporary folder goes with its process, however that ends."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from runtime.errors import ArtifactError
from runtime.held_folder import PREFIX, HeldFolder

HOLDS = (
    "import time\n"
    "from runtime.held_folder import HeldFolder\n"
    "held = HeldFolder()\n"
    "(held.path / 'weights').write_bytes(bytes(9))\n"
    "print(held.path, flush=True)\n"
    "time.sleep(60)\n"
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_this_users_alone_and_goes_with_its_block(root):
    with HeldFolder() as path:
        (path / "file").write_bytes(b"")
        assert path.parent == root
        assert path.stat().st_mode & 0o777 == 0o700

    assert os.listdir(root) == []


def test_a_folder_goes_with_its_object(root):
    held = HeldFolder()
    assert os.listdir(root) == [held.path.name]

    del held

    assert os.listdir(root) == []


def test_what_a_killed_process_left_behind_is_removed_and_what_is_held_stays(root):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(root)},
    ) as process:
        theirs = Path(process.stdout.readline().strip())
        with HeldFolder() as mine:
            assert set(root.iterdir()) == {theirs, mine}

        process.send_signal(signal.SIGKILL)
        process.wait()
        assert list(root.iterdir()) == [theirs]
        with HeldFolder() as mine:
            assert list(root.iterdir()) == [mine]


def test_only_folders_of_this_name_are_removed(root):
    other, link, file = (
        root / name for name in ("neuroflow-bench-1", f"{PREFIX}a", f"{PREFIX}b")
    )
    other.mkdir()
    link.symlink_to(other)
    file.write_bytes(b"")

    with HeldFolder() as path:
        assert set(root.iterdir()) == {other, link, file, path}


def test_a_copy_of_the_process_removes_nothing(root):
    held = HeldFolder()
    pid = os.fork()
    if not pid:
        held.remove()
        os._exit(0)
    os.waitpid(pid, 0)

    assert held.path.exists()
    held.remove()
    assert not held.path.exists()


def test_a_place_that_cannot_be_written_to_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))

    with pytest.raises(ArtifactError) as caught:
        HeldFolder()

    assert str(caught.value) == (
        "temporary folder: expected a place to write, found no such file or directory. "
        "Set TMPDIR to another."
    )
