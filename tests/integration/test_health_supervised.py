"""Health, metrics and words to systemd of a server whose processes are shot."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from bci_bridge.places import MEMORY, _made_places
from bci_bridge.player import play
from tests.integration.tiny import PlayedRun

# Four interpreters each.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30


@contextlib.contextmanager
def served(folder, health="127.0.0.1:*", **environment):
    command = [sys.executable, "-m", "tests.integration.watched_server"]
    process = subprocess.Popen(
        [*command, str(folder), health],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT}/clients/python",
            **environment,
        },
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()


def asked(endpoint, path):
    try:
        with urllib.request.urlopen(f"http://{endpoint}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def until(found, is_enough):
    """Ask again until the answer is enough, and return it."""
    end = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError):
            answer = found()
            if is_enough(answer):
                return answer
        assert time.monotonic() < end, "patience is over"
        time.sleep(0.05)


def samples(endpoint):
    _, text = asked(endpoint, "/metrics")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in (one.rsplit(" ", 1) for one in lines)}


def counted_by(found):
    outcomes = sum(v for name, v in found.items() if "outcomes_total{" in name)
    return found["neuroflow_runs_total"], outcomes


def pids_of(folder):
    seen = _made_places(folder).moment / "supervisor.account"
    return json.loads(seen.read_text())["pids"]


def test_a_server_says_how_it_is_through_the_death_of_its_processes(tmp_path):
    with served(tmp_path) as process:
        endpoints = json.loads(process.stdout.readline())
        health = endpoints["health"]
        ready = until(lambda: asked(health, "/readyz"), lambda found: found[0] == 200)
        kserve = asked(health, "/v2/health/ready")
        play(PlayedRun("run-1", 20), endpoints["address"], None)
        counted = until(
            lambda: samples(health), lambda found: counted_by(found) == (1, 21)
        )
        pids = pids_of(tmp_path)
        for name in ("publisher", "ingress", "worker-a"):
            os.kill(pids[name], signal.SIGKILL)
        until(
            lambda: samples(health),
            lambda found: (
                sum(v for n, v in found.items() if "restarts_total" in n) == 3
            ),
        )
        again = until(lambda: asked(health, "/readyz"), lambda found: found[0] == 200)
        play(PlayedRun("run-2", 5), endpoints["address"], None)
        after = until(
            lambda: samples(health), lambda found: counted_by(found) == (2, 27)
        )
        process.terminate()
        report = json.loads(process.stdout.readline())
        status = process.wait(PATIENCE_S)

    assert ready == (200, "ready\n")
    assert kserve == (200, '{"ready":true,"reasons":[],"degraded":[]}\n')
    assert again[0] == 200
    assert counted['neuroflow_recording{state="ON"}'] == 1
    assert counted['neuroflow_resident_bytes{process="worker-a"}'] > 1 << 20
    assert after['neuroflow_restarts_total{process="publisher"}'] == 1
    assert report["outcomes"] == {"VolumeOutcome": 25, "RunEnded": 2}
    assert status == 0


def test_a_standing_process_makes_the_server_unready(tmp_path):
    with served(tmp_path) as process:
        health = json.loads(process.stdout.readline())["health"]
        until(lambda: asked(health, "/readyz"), lambda found: found[0] == 200)
        pid = pids_of(tmp_path)["ingress"]
        os.kill(pid, signal.SIGSTOP)
        # It is told after half the time after which the supervisor shoots it.
        stood = until(
            lambda: asked(health, "/readyz"), lambda found: "ingress" in found[1]
        )
        live = asked(health, "/livez")
        again = until(lambda: asked(health, "/readyz"), lambda found: found[0] == 200)

    assert stood[0] == 503
    assert live == (200, "live\n")
    assert again == (200, "ready\n")


def test_a_port_in_use_keeps_the_server_from_starting(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with served(tmp_path, address) as process:
            _, error = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 1
    assert error.splitlines()[-1] == (
        f"runtime.errors.BackendError: health {address}: expected a free port, found: "
        "address already in use. Stop the other program or give another --health."
    )


def test_systemd_hears_that_it_is_ready_alive_and_about_to_stop(tmp_path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(PATIENCE_S)
        with served(tmp_path / "log", NOTIFY_SOCKET=str(path)) as process:
            process.stdout.readline()
            first, second = manager.recv(100), manager.recv(100)
            third = manager.recv(100)
            process.terminate()
            words = {third}
            while (word := manager.recv(100)) == b"WATCHDOG=1":
                words.add(word)

    assert first == b"READY=1\nSTATUS=serving"
    assert second == b"WATCHDOG=1"
    assert words == {b"WATCHDOG=1"}
    assert word == b"STOPPING=1\nSTATUS=stopping"


def test_nothing_of_these_tests_is_left_in_memory(tmp_path):
    with served(tmp_path) as process:
        process.stdout.readline()
        moment = _made_places(tmp_path).moment
        process.terminate()
        process.wait(PATIENCE_S)

    assert moment.is_relative_to(MEMORY)
    assert not moment.exists()
