"""Four real processes, any of which may be killed or stopped at any instant."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from neuroflow_client import Client, VolumeOutcome

from bci_bridge.keyfolder import make_server
from bci_bridge.places import _made_places, held_places
from bci_bridge.player import run_start_from
from bci_bridge.sender import Sender
from bci_bridge.settings import Endpoints, ServeReport
from bci_bridge.urgency import SERVER, urgent
from tests.integration.replaying import require_identity
from tests.integration.tiny import SHAPE, PlayedRun
from tests.processes import is_gone

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/clients/python"}


class Supervised:
    """A server and what it has printed so far."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        line = process.stdout.readline()
        self.endpoints = msgspec.json.decode(line, type=Endpoints)
        self.pids = json.loads(process.stdout.readline())

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Kill one of its processes; return once another has taken its place."""
        gone = self.pids[name]
        os.kill(gone, number)
        while self.pids.get(name, gone) == gone:
            self.pids = json.loads(self.process.stdout.readline())

    def stop(self) -> ServeReport:
        """End it as a user does."""
        self.process.send_signal(signal.SIGTERM)
        line = self.process.stdout.readlines()[-1]
        assert self.process.wait(20) == 0
        return msgspec.json.decode(line, type=ServeReport)


@contextmanager
def process(*arguments, module="tests.integration.supervised", **settings):
    config = json.dumps({"address": "tcp://127.0.0.1:*", **settings})
    command = [sys.executable, "-m", module, config]
    with subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


@contextmanager
def supervised(recording, **settings):
    with process(recording=str(recording), **settings) as started:
        yield Supervised(started)


def opened(server, run, count=60, pace="live", budget_s=5.0):
    start = run_start_from(PlayedRun(run, count, tr_s=0.02), speed=1.0)
    start = msgspec.structs.replace(start, pace=pace, budget_s=budget_s)
    return Sender(server.endpoints.address, start)


def send(sender, index):
    sender.volume(index, np.full(SHAPE, index, np.int16), time.monotonic_ns())


def answers(server, run):
    return [
        (outcome.volume_index, outcome.input, outcome.label)
        for outcome in Client(server.endpoints.address, run=run)
        if isinstance(outcome, VolumeOutcome)
    ]


def expected(count):
    return [(index, "OK", str(index)) for index in range(count)]


def test_whoever_is_killed_in_mid_run_is_replaced_and_nothing_is_lost(tmp_path):
    victims = ["ingress", "worker-a", "publisher", "worker-b", "ingress", "publisher"]
    with supervised(tmp_path) as server:
        with opened(server, "run-1") as sender:
            for index in range(60):
                if index % 10 == 5:
                    server.kill(victims[index // 10])
                send(sender, index)
        found = answers(server, "run-1")
        report = server.stop()

    require_identity(tmp_path)
    assert found == expected(60)
    assert report.recording == "ON"


@pytest.mark.parametrize("is_urgent", [True, False])
def test_all_of_a_server_runs_before_other_programs_where_it_may(tmp_path, is_urgent):
    with urgent(SERVER) as is_granted:
        pass
    if not is_granted:
        pytest.skip("real-time scheduling is not granted to this user")
    with supervised(tmp_path, is_urgent=is_urgent) as server:
        server.kill("publisher")
        wanted = {os.SCHED_RR if is_urgent else os.SCHED_OTHER}
        # Who still loads is not urgent yet.
        end_s = time.monotonic() + 30
        while (found := policies(server)) != wanted and time.monotonic() < end_s:
            time.sleep(0.05)

    assert found == wanted


def policies(server):
    """How the system schedules the threads of a server."""
    return {
        os.sched_getscheduler(int(task.name))
        for pid in server.pids.values()
        for task in Path(f"/proc/{pid}/task").iterdir()
    }


def test_a_worker_that_stands_still_is_replaced(tmp_path):
    with supervised(tmp_path, hang_s=0.5) as server:
        with opened(server, "run-1", 20) as sender:
            send(sender, 0)
            active = next(iter(answers_so_far(server, 1)))
            # Who has not taken a turn yet is loading, and may for as long as it likes.
            while not (_made_places(tmp_path).moment / "worker-b.ready").exists():
                time.sleep(0.02)
            # Whoever answers holds the lock until it is killed for standing still.
            for name in ("worker-a", "worker-b"):
                server.kill(name, signal.SIGSTOP)
            for index in range(1, 20):
                send(sender, index)
        found = answers(server, "run-1")

    assert active.volume_index == 0
    assert found == expected(20)


def test_a_standby_that_never_has_loaded_is_replaced_and_it_is_said_why(
    tmp_path, monkeypatch
):
    file = tmp_path / "loaded"
    monkeypatch.setitem(ENVIRONMENT, "STANDBY_WAITS_FOR", str(file))
    with process(recording=str(tmp_path / "rec"), load_s=3.0) as started:
        server = Supervised(started)
        with opened(server, "run-1", 20) as sender:
            for index in range(10):
                send(sender, index)
            hung = server.pids.get("worker-b")
            while server.pids.get("worker-b", hung) == hung:
                server.pids = json.loads(started.stdout.readline())
            file.touch()
            ready = _made_places(tmp_path / "rec").moment / "worker-b.ready"
            while not ready.exists():
                time.sleep(0.02)
            # Whom it stands by for may then die.
            server.kill("worker-a")
            for index in range(10, 20):
                send(sender, index)
        found = answers(server, "run-1")
        server.stop()
        told = started.stderr.read()

    assert found == expected(20)
    assert "worker-b died (no sign of life) and was replaced" in told
    assert "worker-a died (SIGKILL) and was replaced" in told


def test_a_worker_that_holds_more_than_it_may_is_ended_and_the_other_answers(tmp_path):
    with process(
        "tests.integration.leaky_worker", recording=str(tmp_path), worker_memory_mb=150
    ) as started:
        server = Supervised(started)
        with opened(server, "run-1", 26) as sender:
            for index in range(20):
                send(sender, index)
            gone = server.pids["worker-a"]
            while server.pids.get("worker-a", gone) == gone:
                server.pids = json.loads(started.stdout.readline())
            for index in range(20, 26):
                send(sender, index)
        found = answers(server, "run-1")
        server.stop()
        told = started.stderr.read()

    require_identity(tmp_path)
    assert found == expected(26)
    assert told.startswith(
        "neuroflow: worker-a: expected 150 MiB of memory at most (worker_memory_mb), "
        "found "
    )
    assert "MiB: ended, for the other worker to answer." in told


def test_a_limit_that_no_worker_can_keep_ends_the_start(tmp_path):
    with process(recording=str(tmp_path), worker_memory_mb=5) as started:
        line = started.stderr.read()

        assert started.wait(20) == 2
    assert line.startswith(
        "neuroflow: worker-a: expected 5 MiB of memory at most (worker_memory_mb), "
    )
    assert line.endswith("with nothing answered yet. Allow it more\n")
    assert line.count("\n") == 1


def answers_so_far(server, count):
    outcomes = iter(Client(server.endpoints.address))
    try:
        yield from (next(outcomes) for _ in range(count))
    finally:
        outcomes.close()


def test_a_server_killed_as_a_whole_goes_on_with_its_run(tmp_path):
    log, count = tmp_path / "log", 30
    with supervised(log) as first:
        address = first.endpoints.address
        sender = opened(first, "run-1", count)
        for index in range(10):
            send(sender, index)
        first.process.kill()
        first.process.wait()
    left = [pid for pid in first.pids.values() if Path(f"/proc/{pid}").exists()]
    with supervised(log, address=address) as second:
        for index in range(10, count):
            send(sender, index)
        sender.close()
        found = answers(second, "run-1")
        second.stop()

    require_identity(log)
    assert all(is_gone(pid) for pid in left)
    assert found == expected(count)


def test_two_servers_never_share_a_recording(tmp_path):
    with supervised(tmp_path), process(recording=str(tmp_path)) as second:
        line = second.stderr.read()

        assert second.wait(20) == 2
        assert line == (
            f"neuroflow: recording {tmp_path}: expected a free folder, found one that "
            "another server records to. Stop that server or name another folder.\n"
        )


def test_a_worker_that_cannot_begin_is_one_line(tmp_path):
    with process("tests.integration.unable_worker", recording=str(tmp_path)) as server:
        line = server.stderr.read()

        assert server.wait(20) == 1
        assert line == (
            "neuroflow: bundle: expected a folder with manifest.json, found none\n"
        )


def test_a_server_that_lets_a_stranger_in_ends_and_is_not_replaced(tmp_path):
    """Whoever took the place of a breached process would let devices in at once."""
    make_server(tmp_path / "keys")
    config = {"recording": str(tmp_path / "log"), "keys": str(tmp_path / "keys")}
    with process(module="tests.integration.breached", **config) as server:
        said, line = server.communicate(timeout=30)

        assert server.returncode == 1
        assert line == (
            "neuroflow: self-attack: expected a refusal, found an unknown key let in\n"
        )
        pids = [json.loads(one) for one in said.splitlines()[1:]]
        assert len(pids) == 1  # those that it began with


def test_a_port_in_use_is_one_line(tmp_path):
    with supervised(tmp_path / "a") as first:
        address = first.endpoints.address
        with process(recording=str(tmp_path / "b"), address=address) as second:
            line = second.stderr.read()

            assert second.wait(20) == 1
            assert line == (
                f"neuroflow: address {address}: expected a free port, found it in use. "
                "Stop the other program or give another --address.\n"
            )


def test_nothing_is_left_in_memory(tmp_path):
    with held_places(tmp_path) as places:
        pass
    with supervised(tmp_path) as server:
        assert places.moment.is_dir()
        server.stop()

    assert not places.moment.exists()
