"""Processes are killed while the recording's disk, a real one, takes nothing."""

import contextlib
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from neuroflow_client import Client, VolumeOutcome

from bci_bridge.places import INPUTS, OUTCOMES, _made_places
from bci_bridge.settings import INGRESS
from bci_bridge.setup import Account, Ready, path_of, read_if_there
from bci_bridge.tail import Tail
from tests.integration.test_supervisor import (
    answers_so_far,
    expected,
    opened,
    send,
    supervised,
)

pytestmark = pytest.mark.slow

DISK_BYTES = 160 << 20
"""Each log that begins asks for room for a segment of 64 MiB."""
COUNT = 40
BUDGET_S = 60.0
"""Time passes between two volumes while a process is replaced: none may be given up."""


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("mounting a file system is not granted to this user")
    yield folder
    shutil.rmtree(_moment(folder / "log"), ignore_errors=True)
    subprocess.run(["umount", "-l", folder], check=True)


def _moment(log):
    with contextlib.suppress(OSError):
        return _made_places(log).moment


def fill(disk):
    """Leave room for nothing."""
    with (disk / "other").open("wb", buffering=0) as other:
        for size in (1 << 20, 1):
            with contextlib.suppress(OSError):
                while True:
                    other.write(bytes(size))


def make_read_only(disk):
    """Let nobody write to it; that takes until the dead have closed their files."""
    command = ["mount", "-o", "remount,ro", disk]
    for _ in range(500):
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return
        time.sleep(0.01)
    raise AssertionError("expected a file system that becomes read-only")


def active_worker(places):
    """Wait until one answers; name it."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        for name in ("worker-a", "worker-b"):
            ready = read_if_there(path_of(places.moment, name, "ready"), Ready)
            if ready is not None and ready.is_active:
                return name
        time.sleep(0.01)
    raise AssertionError("expected a worker that answers, found none")


def wait_for_degraded(places):
    """Wait until the ingress has accounted for it, which it does now and then."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        account = read_if_there(path_of(places.moment, INGRESS, "account"), Account)
        if account is not None and account.came.recording == "DEGRADED":
            return
        time.sleep(0.01)
    raise AssertionError("expected a degraded recording, found none accounted for")


def outcomes_of(server, run):
    return [
        outcome
        for outcome in Client(server.endpoints.address, run=run)
        if isinstance(outcome, VolumeOutcome)
    ]


def orders_of(places, name):
    """Place of each message in a log, wherever it is."""
    tail, found = Tail(places.folders(name)), []
    while logged := tail.read():
        found += [one.order for one in logged]
    tail.close()
    return found


def require_whole(places, found, first_degraded):
    """Each volume answered once and in order; what the disk lacks is in memory."""
    assert [(one.volume_index, one.input, one.label) for one in found] == expected(
        len(found)
    )
    assert len(found) == COUNT
    assert [one.degraded for one in found[:first_degraded]] == [()] * first_degraded
    # The answer to the first that did not fit may still have fitted.
    after = {one.degraded for one in found[first_degraded + 1 :]}
    assert after == {("RECORDING_DEGRADED",)}
    for name in (INPUTS, OUTCOMES):
        orders = orders_of(places, name)
        assert orders == list(range(len(orders)))


@pytest.mark.parametrize("victim", ["ingress", "publisher", "active", "standby"])
def test_whoever_is_killed_on_a_full_disk_is_replaced_and_nothing_is_lost(disk, victim):
    with supervised(disk / "log") as server:
        places = _made_places(disk / "log")
        with opened(server, "run-1", COUNT, budget_s=BUDGET_S) as sender:
            for index in range(COUNT):
                if index == 10:
                    fill(disk)
                if index >= 15 and index % 2:
                    active = active_worker(places)
                    standby = {"worker-a": "worker-b", "worker-b": "worker-a"}[active]
                    server.kill(
                        {"active": active, "standby": standby}.get(victim, victim)
                    )
                send(sender, index)
        found = outcomes_of(server, "run-1")
        wait_for_degraded(places)
        report = server.stop()
        said = server.process.stderr.read()

    require_whole(places, found, first_degraded=10)
    deaths = " died (SIGKILL) and was replaced"
    assert [line for line in said.splitlines() if not line.endswith(deaths)] == [
        f"recording {disk / 'log'}: expected all of it on its disk, found some in "
        "memory alone. Make room, or see that it can be written."
    ]
    assert report.recording == "DEGRADED"


@pytest.mark.parametrize("what", ["full", "read-only"])
def test_a_server_killed_as_a_whole_goes_on_although_the_disk_takes_nothing(disk, what):
    log = disk / "log"
    with supervised(log) as first:
        places = _made_places(log)
        address = first.endpoints.address
        sender = opened(first, "run-1", COUNT, budget_s=BUDGET_S)
        for index in range(10):
            send(sender, index)
        assert len(list(answers_so_far(first, 10))) == 10
        first.process.kill()
        first.process.wait()
    if what == "full":
        fill(disk)
    else:
        make_read_only(disk)
    with supervised(log, address=address) as second:
        for index in range(10, 25):
            send(sender, index)
        second.kill("ingress")
        second.kill(active_worker(places))
        for index in range(25, COUNT):
            send(sender, index)
        sender.close()
        found = outcomes_of(second, "run-1")
        report = second.stop()

    require_whole(places, found, first_degraded=10)
    assert report.recording == "DEGRADED"


def test_a_new_recording_at_an_old_path_answers_runs_of_the_same_name(disk):
    log = disk / "log"
    with supervised(log) as first:
        moment = _made_places(log).moment
        with opened(first, "run-1", 20, budget_s=BUDGET_S) as sender:
            for index in range(20):
                if index == 5:
                    fill(disk)
                send(sender, index)
        assert len(outcomes_of(first, "run-1")) == 20
        first.process.kill()
        first.process.wait()
    for path in (log, Path(f"{moment}.1")):
        shutil.rmtree(path, ignore_errors=True)
    (disk / "other").unlink()
    with supervised(log) as second:
        with opened(second, "run-1", COUNT, budget_s=BUDGET_S) as sender:
            for index in range(COUNT):
                send(sender, index)
        found = outcomes_of(second, "run-1")
        report = second.stop()
        said = second.process.stderr.read()
    shutil.rmtree(f"{moment}.1", ignore_errors=True)

    answered = [(one.volume_index, one.input, one.label) for one in found]
    assert answered == expected(COUNT)
    assert {one.degraded for one in found} == {()}
    assert report.recording == "ON"
    assert said.startswith(f"{moment}: expected what this recording lacks, found what")
    assert said.count("\n") == 1
    assert not moment.exists()
