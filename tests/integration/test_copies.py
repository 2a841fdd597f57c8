"""The workers of a server share one copy of the bundle, which outlives no server."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest

from runtime.held_folder import PREFIX, HeldFolder
from tests.integration.served_model import write_model
from tests.integration.test_replay_command import ENVIRONMENT, ROOT, command
from tests.processes import children, command_of, is_gone

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies")
    write_model(folder)
    return folder


@contextmanager
def serving(made, scratch):
    ready = scratch.parent / "ready.json"
    line = command(
        "serve", "--bundle", made / "bundle", "--gallery", made / "gallery",
        "--address", "tcp://127.0.0.1:*", "--threads", "1", "--ready-file", ready,
    )  # fmt: skip
    environment = ENVIRONMENT | {"TMPDIR": str(scratch)}
    with subprocess.Popen(
        line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            until(ready.exists, process)
            yield process
        finally:
            process.kill()


def until(is_so, process):
    deadline_s = time.monotonic() + 90
    while not is_so():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def workers_of(process):
    """Process ids of the workers that have been started."""
    return {pid for pid in children(process.pid) if b"verbs.worker" in command_of(pid)}


@pytest.fixture
def scratch(tmp_path):
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def copies_in(scratch):
    return list(scratch.glob(f"{PREFIX}*/copies/*/graphs"))


def left_in(scratch):
    # Libraries have files of their own there.
    return list(scratch.glob(f"{PREFIX}*"))


def test_killed_workers_leave_no_copies_behind(made, scratch):
    with serving(made, scratch) as process:
        until(lambda: len(workers_of(process)) == 2, process)
        first = workers_of(process)
        assert len(copies_in(scratch)) == 1

        for pid in first:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(workers_of(process) - first) == 2, process)

        assert len(copies_in(scratch)) == 1
        process.send_signal(signal.SIGTERM)
        process.wait(30)

    assert left_in(scratch) == []


def test_what_a_killed_server_leaves_behind_goes_with_the_next_one(
    made, scratch, monkeypatch
):
    with serving(made, scratch) as process:
        until(lambda: len(workers_of(process)) == 2, process)
        gone = workers_of(process)
    assert len(copies_in(scratch)) == 1
    assert all(is_gone(pid, within_s=30) for pid in gone)

    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with HeldFolder() as mine:
        assert left_in(scratch) == [mine]
