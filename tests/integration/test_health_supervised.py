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

import numpy as np
import pytest
from msgspec.structs import replace

from bci_bridge.examination import PRESSURE
from bci_bridge.messages import Goodbye, Hello, RunStart, Volume
from bci_bridge.places import MEMORY, _made_places
from bci_bridge.player import play
from bci_bridge.sender import Sender
from bci_bridge.wire import encode
from tests.integration.lines import dealer
from tests.integration.tiny import SHAPE, PlayedRun

# Four interpreters each.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30
OWED = "neuroflow_unanswered_acquisitions"
CLOCK = 'neuroflow_clock_uncertainty_seconds{stream="scanner"}'
SYNCS = [
    f'neuroflow_log_sync_seconds_count{{log="{log}"}}' for log in ("inputs", "outcomes")
]
DOUBT = "clock of scanner: expected it known within 50 ms, found 80.0 ms"


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


def is_whole(found):
    """Say whether a page tells of a server that lacks nothing, standby included."""
    return found == (200, "ready\n")


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
        ready = until(lambda: asked(health, "/readyz"), is_whole)
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


def test_a_run_is_taken_while_the_standby_still_loads(tmp_path):
    go = tmp_path / "go"
    with served(tmp_path / "log", STANDBY_WAITS_FOR=str(go)) as process:
        endpoints = json.loads(process.stdout.readline())
        health = endpoints["health"]
        alone = until(lambda: asked(health, "/readyz"), lambda found: found[0] == 200)
        play(PlayedRun("run-1", 5), endpoints["address"], None)
        counted = until(
            lambda: samples(health), lambda found: counted_by(found) == (1, 6)
        )
        go.touch()
        until(lambda: asked(health, "/readyz"), is_whole)
        # What was answered without it, it now knows.
        os.kill(pids_of(tmp_path / "log")["worker-a"], signal.SIGKILL)
        play(PlayedRun("run-2", 5), endpoints["address"], None)
        until(lambda: samples(health), lambda found: counted_by(found) == (2, 12))

    assert alone[1] == (
        "ready\ndegraded: worker-b: expected it to stand by, found it starting\n"
    )
    assert counted["neuroflow_degraded"] == 1


def test_a_standing_process_makes_the_server_unready(tmp_path):
    with served(tmp_path) as process:
        health = json.loads(process.stdout.readline())["health"]
        until(lambda: asked(health, "/readyz"), is_whole)
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


def run_start(run):
    return RunStart(run=run, shape=SHAPE, tr_s=1.0, expected_volumes=50, budget_s=30.0)


def test_a_server_measures_its_backlog_its_disk_its_outages_and_its_clocks(tmp_path):
    with served(tmp_path) as process:
        endpoints = json.loads(process.stdout.readline())
        health = endpoints["health"]
        idle = until(lambda: samples(health), lambda found: found["neuroflow_ready"])
        pids = pids_of(tmp_path)
        with Sender(endpoints["address"], run_start("run-1")) as sender:
            for index in range(10):
                sender.volume(index, np.zeros(SHAPE, np.int16), time.monotonic_ns())
                sender.pump(20)
            steady = until(
                lambda: (sender.pump(), samples(health))[1],
                lambda found: (
                    CLOCK in found and found[OWED] == 0 and all(map(found.get, SYNCS))
                ),
            )
            # Nobody answers: what comes now is owed an outcome.
            for name in ("worker-a", "worker-b"):
                os.kill(pids[name], signal.SIGSTOP)
            for index in range(10, 14):
                sender.volume(index, np.zeros(SHAPE, np.int16), time.monotonic_ns())
            until(
                lambda: (sender.pump(), samples(health))[1],
                lambda found: found[OWED] == 4,
            )
            for name in ("worker-a", "worker-b"):
                os.kill(pids[name], signal.SIGCONT)
            os.kill(pids["ingress"], signal.SIGKILL)
            sender.close(14)
        after = until(
            lambda: samples(health),
            lambda found: (
                found[OWED] == found["neuroflow_ack_lag_messages"] == 0
                and found['neuroflow_outage_seconds_count{process="ingress"}'] == 1
                and CLOCK not in found
                and all(found[name] > steady[name] for name in SYNCS)
            ),
        )

    assert idle[OWED] == idle["neuroflow_ack_lag_messages"] == 0
    assert CLOCK not in idle
    assert idle['neuroflow_outage_seconds_count{process="ingress"}'] == 0
    assert 0 < steady[CLOCK] < 1
    for name in SYNCS:
        assert 0 < after[name.replace("_count", "_sum")] < PATIENCE_S
    assert 0 < after['neuroflow_outage_seconds_sum{process="ingress"}'] < PATIENCE_S
    # Not every kernel tells its pressure.
    for resource in ("cpu", "memory", "io"):
        name = f'neuroflow_pressure_percent{{resource="{resource}",tasks="some"}}'
        assert (name in after) == (PRESSURE / resource).is_file()
        assert 0 <= after.get(name, 0) <= 100


def test_a_sender_with_a_poor_clock_degrades_the_server_until_it_leaves(tmp_path):
    volume = Volume(
        run="run-1",
        stream="scanner",
        sequence=1,
        volume_index=0,
        acquired_ns=time.monotonic_ns(),
        dtype="i2",
        shape=SHAPE,
        clock_offset_ns=0,
        clock_uncertainty_ns=80_000_000,
    )
    with served(tmp_path) as process:
        endpoints = json.loads(process.stdout.readline())
        health = endpoints["health"]
        before = until(lambda: asked(health, "/readyz"), is_whole)
        with dealer(endpoints["address"]) as line:
            for record, payload in (
                (Hello(stream="scanner", role="scanner"), b""),
                (replace(run_start("run-1"), stream="scanner"), b""),
                (volume, bytes(np.zeros(SHAPE, np.int16).nbytes)),
            ):
                line.send_multipart(encode(record, payload).frames)
            poor = until(
                lambda: asked(health, "/readyz"), lambda found: DOUBT in found[1]
            )
            metric = samples(health)[CLOCK]
            line.send_multipart(encode(Goodbye(stream="scanner")).frames)
            after = until(
                lambda: asked(health, "/readyz"), lambda found: DOUBT not in found[1]
            )

    assert before == after == (200, "ready\n")
    assert poor == (200, f"ready\ndegraded: {DOUBT}\n")
    assert metric == 0.08


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
