"""From a source to a server's outcomes: the loop, its ends, and its killed self."""

import contextlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time

import ismrmrd
import nibabel
import numpy as np
import pytest
import zmq
from neuroflow_client import Client, VolumeOutcome

from bci_bridge.recording_reader import read_recording
from bci_bridge.sources import driver
from bci_bridge.sources.driver import send_runs
from bci_bridge.sources.journal import Journal
from bci_bridge.sources.past import Past
from bci_bridge.sources.source import Refused, SeriesEnded
from runtime.errors import ArtifactError, BackendError, ScanError, UsageError
from tests.integration.restarting import ROOT, killed, started
from tests.integration.tiny import SHAPE
from tests.scanned import Listed, plan, scanned
from verbs.send import send_nifti
from verbs.send_commands import Sending


def records(folder):
    return [entry.envelope.record for entry in read_recording(folder / "inputs")]


def kinds(folder):
    """What the log of inputs holds, by kind and index."""
    return [
        (type(one).__name__, getattr(one, "volume_index", None))
        for one in records(folder)
    ]


def send(source, server, lines=None, **changes):
    options = {
        name: changes.pop(name)
        for name in ("spool", "is_stopped", "clock_ns")
        if name in changes
    }
    tell = (lines if lines is not None else []).append
    send_runs(source, plan(**changes), server.address, tell=tell, **options)


def test_volumes_arrive_and_are_answered(running, tmp_path):
    server, lines = running(), []
    send(Listed(scanned(number) for number in range(5)), server, lines)
    every = Client(server.address, run="rest")
    outcomes = [one for one in every if isinstance(one, VolumeOutcome)]
    server.stop()

    assert [(one.volume_index, one.input) for one in outcomes] == [
        (index, "OK") for index in range(5)
    ]
    assert lines[-1] == "run rest: complete, 5 of 5 volumes"


def test_gaps_are_missing_late_volumes_are_on_record(running, tmp_path):
    server = running()
    arrivals = [scanned(number) for number in (0, 2, 3, 1, 4)]
    send(Listed(arrivals), server, reorder=1)
    server.stop()

    assert kinds(tmp_path) == [
        ("RunStart", None),
        ("Volume", 0),
        ("Missing", 1),
        ("Volume", 2),
        ("Volume", 3),
        ("Volume", 1),
        ("DecisionNote", 1),
        ("Volume", 4),
        ("RunEnd", None),
    ]


def test_a_restarted_run_is_another_run(running, tmp_path):
    server = running()
    arrivals = [scanned(n, "s-1") for n in range(2)]
    arrivals += [scanned(n, "s-2") for n in range(5)]
    send(Listed(arrivals), server)
    report = server.stop()
    ends = [one for one in records(tmp_path) if type(one).__name__ == "RunEnd"]

    assert report.runs == 2
    assert [(end.run, end.count, end.aborted) for end in ends] == [
        ("rest", 2, True),
        ("rest-2", 5, False),
    ]


def test_another_measurement_is_left_out_where_the_server_does_not_take_it(
    running, tmp_path
):
    server, lines = running(), []
    arrivals = [scanned(0, "localiser", shape=(4, 4, 4))]
    arrivals += [scanned(n, "bold") for n in range(5)]
    send(Listed(arrivals), server, lines)
    server.stop()

    assert lines[0].startswith("this series is left out: BAD_GEOMETRY: shape: expected")
    assert {one.run for one in records(tmp_path)} == {"rest"}


def test_a_recording_that_is_over_too_early_is_an_error(running, tmp_path):
    server = running()
    arrivals = [scanned(0), Refused("bold.nii", "torn"), SeriesEnded("s-1")]
    with pytest.raises(
        ScanError,
        match="source: expected 1 complete runs of 5 volumes, found 0 when it was over",
    ):
        send(Listed(arrivals), server)
    server.stop()

    assert records(tmp_path)[-1].aborted


def test_a_source_that_vanishes_ends_its_run(running, tmp_path):
    class Vanishing(Listed):
        def poll(self, wait_s):
            if not self.arrivals:
                raise ScanError("folder: expected it, found none")
            return super().poll(wait_s)

    server, lines = running(), []
    with pytest.raises(ScanError, match="folder: expected it, found none"):
        send(Vanishing([scanned(0), scanned(1)]), server, lines)
    server.stop()

    assert (records(tmp_path)[-1].count, records(tmp_path)[-1].aborted) == (2, True)
    assert lines[-1].endswith(": folder: expected it, found none")


def test_the_operator_stops_a_run(running, tmp_path):
    server, asked = running(), iter([False] * 10 + [True] * 100)
    source = Listed([scanned(0), scanned(1)], is_recording=False)
    stopped = []

    def is_stopped():
        stopped.append(next(asked) if not source.arrivals else False)
        return stopped[-1]

    send(source, server, is_stopped=is_stopped)
    server.stop()

    assert (records(tmp_path)[-1].count, records(tmp_path)[-1].aborted) == (2, True)


def test_without_a_server_the_operator_learns_it_at_once(monkeypatch):
    monkeypatch.setattr(driver, "_ANSWER_NS", 50_000_000)

    with pytest.raises(BackendError, match="found none"):
        send_runs(Listed([]), plan(), "tcp://127.0.0.1:9", tell=print)


def test_who_stops_it_while_no_server_answers_has_no_failure(tmp_path):
    send_runs(
        Listed([]),
        plan(),
        "tcp://127.0.0.1:9",
        tell=print,
        spool=tmp_path / "spool",
        is_stopped=lambda: True,
    )

    assert Journal(tmp_path / "spool", plan()).past.begun == 0


def test_what_is_complete_already_is_said_to_be_so(running, tmp_path):
    said, spool = [], tmp_path / "spool"
    journal = Journal(spool, plan())
    journal.write(Past(run="rest", begun=1, complete=1, over=("s-1",)))
    send_runs(
        Listed([scanned(0)]), plan(), running().address, tell=said.append, spool=spool
    )

    assert said == ["run rest: complete already, of 1 to send"]
    assert not (spool / "series.json").exists()


def test_a_spool_of_another_run_is_refused(running, tmp_path):
    server = running(recording=str(tmp_path / "log"))

    class Broken(Listed):
        def poll(self, wait_s):
            if not self.arrivals:
                raise BackendError("the machine went away")
            return super().poll(wait_s)

    with pytest.raises(BackendError):
        send(Broken([scanned(0)]), server, spool=tmp_path / "spool")
    with pytest.raises(UsageError, match="found run 'rest' unfinished"):
        send(Listed([]), server, spool=tmp_path / "spool", run="task")
    server.stop()


COUNT = 200
KILLED = f"""
import os, signal, sys, threading, time
from pathlib import Path
from bci_bridge.sources import driver
from bci_bridge.sources.driver import send_runs
from bci_bridge.sources.journal import Journal
from bci_bridge.sources.past import Past
from tests.scanned import Listed, plan, scanned

class Doomed(Listed):
    "Dies within a few volumes of one of them, whatever the process does then."

    def poll(self, wait_s):
        left = len(self.arrivals)
        if left == int(sys.argv[3]):
            delay_s, number = float(sys.argv[4]), signal.SIGKILL
            threading.Timer(delay_s, os.kill, (os.getpid(), number)).start()
        elif left == int(sys.argv[3]) - 20:
            time.sleep(60)
        return super().poll(wait_s)

send_runs(
    Doomed(scanned(n) for n in range({COUNT} + 2) if n % 50 != 20),
    plan(volumes={COUNT}, discard=2, pace="catchup"),
    sys.argv[1],
    tell=print,
    spool=Path(sys.argv[2]),
)
print("done", flush=True)
"""


@pytest.mark.slow
def test_a_send_killed_again_and_again_loses_and_doubles_nothing(running, tmp_path):
    server, spool = running(recording=str(tmp_path / "log")), tmp_path / "spool"
    dice = random.Random(20)
    for left in (190, 150, 90, 30):
        delay_s = dice.uniform(0, 0.01)
        with started(KILLED, server.address, spool, left, delay_s) as process:
            assert process.wait(60) == -signal.SIGKILL
    with started(KILLED, server.address, spool, -1, 0) as process:
        lines = process.communicate(timeout=60)[0]
    report = server.stop()
    said = [one for one in records(tmp_path / "log") if one.stream == "scanner"]
    named = [(type(one).__name__, getattr(one, "volume_index", None)) for one in said]

    assert lines.endswith("done\n")
    assert report.runs == 1
    assert named == [
        ("RunStart", None),
        *(
            ("Missing" if (index + 2) % 50 == 20 else "Volume", index)
            for index in range(COUNT)
        ),
        ("RunEnd", None),
    ]
    assert not said[-1].aborted
    assert [path.name for path in spool.iterdir() if path.suffix] == []


def test_a_refused_send_leaves_its_spool_to_another_run(running, tmp_path):
    server, spool = running(recording=str(tmp_path / "log")), tmp_path / "spool"
    send(Listed(scanned(number) for number in range(5)), server, spool=spool)
    with pytest.raises(ArtifactError, match="Go on with its spool, or name the run"):
        send(Listed([scanned(0)]), server, spool=spool)
    # What the message asks for.
    again = Listed(scanned(number) for number in range(5))
    send(again, server, spool=spool, run="rest-again")
    report = server.stop()

    assert report.runs == 2
    assert [
        (one.run, one.count, one.aborted)
        for one in records(tmp_path / "log")
        if type(one).__name__ == "RunEnd"
    ] == [("rest", 5, False), ("rest-again", 5, False)]


def nifti_run(folder, count=6, tr_s=0.1):
    voxels = np.arange(count, dtype=np.int16) * np.ones((*SHAPE, 1), np.int16)
    voxels[0, 0, 0] = -1
    image = nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 3.0, 1.0]))
    image.header.set_zooms((2.0, 2.0, 3.0, tr_s))
    image.header.set_xyzt_units("mm", "sec")
    path = folder / "bold.nii.gz"
    nibabel.save(image, path)
    return path


def command(*words):
    path = os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])
    return subprocess.Popen(
        [sys.executable, "-m", "neuroflow", "send", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_verb_sends_a_file(running, tmp_path):
    server = running(recording=str(tmp_path / "log"))
    words = ["nifti", nifti_run(tmp_path), "--fast", "--run", "rest", "--updates"]
    words += ["--late", "hold-last"]
    process = command(*words, "--to", server.address, "--discard", 2)
    lines = process.communicate(timeout=60)[1].splitlines()
    server.stop()

    assert process.returncode == 0
    assert lines == [
        "run rest: begins, 3 x 4 x 2 voxels, TR 0.1 s, 4 volumes",
        "run rest: complete, 4 of 4 volumes",
    ]
    start = records(tmp_path / "log")[0]
    assert (start.pace, start.late, start.updates) == ("catchup", "hold-last", True)


def test_a_file_that_is_played_slowly_has_more_time_for_its_answers(running, tmp_path):
    server = running(recording=str(tmp_path / "log"))
    words = ["nifti", nifti_run(tmp_path, 3), "--speed", 0.4, "--run", "rest"]
    process = command(*words, "--to", server.address)
    lines = process.communicate(timeout=60)[1].splitlines()
    server.stop()

    assert lines[-1] == "run rest: complete, 3 of 3 volumes"
    start = records(tmp_path / "log")[0]
    assert (start.pace, start.tr_s) == ("live", pytest.approx(0.1))
    assert start.budget_s == pytest.approx(0.25)


def test_sigterm_ends_the_run_as_aborted(running, tmp_path):
    server = running(recording=str(tmp_path / "log"))
    folder = tmp_path / "volumes"
    folder.mkdir()
    image = nibabel.load(nifti_run(tmp_path))
    nibabel.save(image.slicer[..., 0], folder / "v_0.nii")
    words = ["nifti", folder, "--run", "rest", "--volumes", 5, "--tr-s", 0.1]
    words += ["--from-start"]
    process = command(*words, "--to", server.address)
    assert process.stderr.readline().startswith("run rest: begins")
    process.send_signal(signal.SIGTERM)
    lines = process.communicate(timeout=60)[1]
    server.stop()

    assert process.returncode == 0
    assert lines == "run rest: aborted, 1 of 5 volumes: stopped by the operator\n"
    assert records(tmp_path / "log")[-1].aborted


def test_a_folder_needs_the_number_of_volumes(tmp_path):
    process = command("nifti", tmp_path, "--run", "rest")
    lines = process.communicate(timeout=60)[1]

    assert process.returncode == 2
    assert lines.startswith("neuroflow: --volumes: expected how many acquisitions")


@pytest.mark.parametrize(
    ("given", "is_folder", "said"),
    [
        ({"speed": 2.0}, True, "--speed: expected with a file alone, found a folder"),
        ({"is_fast": True}, True, "--fast: expected with a file alone, found a folder"),
        (
            {"is_new_only": True},
            False,
            "--new-only: expected with a folder alone, found a file",
        ),
        (
            {"is_from_start": True},
            False,
            "--from-start: expected with a folder alone, found a file",
        ),
        (
            {"is_new_only": True, "is_from_start": True},
            True,
            "--new-only and --from-start: expected one of them, found both",
        ),
        (
            {"pattern": "*"},
            False,
            "--pattern: expected with a folder alone, found a file",
        ),
        (
            {"first_number": 1},
            False,
            "--first-number: expected with a folder alone, found a file",
        ),
        (
            {"is_fast": True, "speed": 2.0},
            False,
            "--speed and --fast: expected one of them, found both",
        ),
    ],
)
def test_an_option_that_would_be_of_no_effect_is_wrong_usage(
    tmp_path, given, is_folder, said
):
    file = nifti_run(tmp_path)
    idle = {"speed": None, "is_fast": False, "pattern": None, "first_number": None}
    idle |= {"is_new_only": False, "is_from_start": False}

    with pytest.raises(UsageError) as error:
        send_nifti(
            tmp_path if is_folder else file,
            Sending(run="rest", volumes=3),
            **{**idle, **given},
        )

    assert str(error.value) == said


def test_more_discarded_than_a_file_holds_is_wrong_usage(tmp_path):
    words = ["nifti", nifti_run(tmp_path), "--run", "rest", "--discard", 6]
    process = command(*words)
    lines = process.communicate(timeout=60)[1]

    assert process.returncode == 2
    assert lines == (
        "neuroflow: --discard: expected less than the 6 volumes of the file, found 6\n"
    )


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def pyneal_message(number):
    header = {
        "volIdx": number,
        "dtype": "int16",
        "shape": SHAPE,
        "affine": "[[2,0,0,0],[0,2,0,0],[0,0,3,0],[0,0,0,1]]",
        "TR": "1.0",
    }
    voxels = np.full(SHAPE, number, np.int16)
    voxels.flat[0] = -1
    return [json.dumps(header).encode(), voxels.tobytes()]


@pytest.mark.slow
def test_an_adapter_does_not_notice_that_its_listener_was_killed(running, tmp_path):
    server = running(recording=str(tmp_path / "log"))
    port = free_port()
    words = ["pyneal", "--listen", f"127.0.0.1:{port}", "--run", "rest"]
    words += ["--volumes", 8, "--to", server.address, "--spool", tmp_path / "spool"]
    words += ["--budget-s", 60]
    first = command(*words)
    with zmq.Context() as context, context.socket(zmq.PAIR) as adapter:
        adapter.setsockopt(zmq.LINGER, 0)
        adapter.setsockopt(zmq.RCVTIMEO, 30_000)
        adapter.connect(f"tcp://127.0.0.1:{port}")
        adapter.send(b"hello from pyneal_scanner ")
        assert adapter.recv() == b"hello from pyneal_scanner "
        for number in range(8):
            if number == 4:
                while len(kinds(tmp_path / "log")) < 5:
                    time.sleep(0.05)
                assert killed(first)
                second = command(*words)
            adapter.send_multipart(pyneal_message(number))
            assert adapter.recv() == b"received volIdx %d" % number
    lines = second.communicate(timeout=60)[1].splitlines()
    server.stop()

    assert second.returncode == 0
    assert lines == [
        "run rest: goes on after 4 volumes",
        "run rest: complete, 8 of 8 volumes",
    ]
    assert kinds(tmp_path / "log") == [
        ("RunStart", None),
        *(("Volume", number) for number in range(8)),
        ("RunEnd", None),
    ]


def murfi_images():
    header = bytearray(616)
    struct.pack_into("5s", header, 0, b"ERTI\0")
    struct.pack_into("<i", header, 8, 4)
    struct.pack_into("16s", header, 412, b"int16_t")
    header[428] = 1
    struct.pack_into("<3i", header, 464, *SHAPE)
    struct.pack_into("<16f", header, 476, *np.diag([2.0, 2.0, 3.0, 1.0]).ravel())
    struct.pack_into("<i", header, 540, 1000)
    for number in range(2):
        struct.pack_into("<i", header, 548, number + 1)
        yield bytes(header) + np.full(SHAPE, number, "<i2").tobytes()


def afni_run():
    data = b"\xab\xcd\xef\xae" + struct.pack("<i", 24)
    for number in range(2):
        data += bytes(24) + np.full(24, number, "<f4").tobytes()
    yield data + b"\xde\xad\xde\xad"


def mrd_measurement():
    data = []
    for number in range(2):
        pixels = np.full(SHAPE[::-1], number, np.int16)
        made = ismrmrd.Image.from_array(pixels, transpose=False)
        made.repetition, made.field_of_view = number, (6.0, 8.0, 6.0)
        made.read_dir, made.phase_dir, made.slice_dir = map(tuple, np.eye(3))
        data.append(struct.pack("<H", 1022))
        made.serialize_into(data.append)
    yield b"".join(bytes(part) for part in data) + struct.pack("<H", 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "connections"),
    [("vsend", murfi_images), ("afni", afni_run), ("mrd", mrd_measurement)],
)
def test_the_verbs_that_listen_send_what_they_hear(
    running, tmp_path, verb, connections
):
    server, port = running(recording=str(tmp_path / "log")), free_port()
    words = [verb, "--listen", f"127.0.0.1:{port}", "--run", "rest", "--volumes", 2]
    words += ["--tr-s", 1, "--to", server.address]
    words += ["--like", nifti_run(tmp_path)] if verb == "afni" else []
    process = command(*words)
    for data in connections():
        for _ in range(300):
            try:
                line = socket.create_connection(("127.0.0.1", port), 10)
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        with line:
            line.sendall(data)
            # Who has its last volume may hang up first, with a reset.
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_WR)
                line.recv(16)
    lines = process.communicate(timeout=60)[1].splitlines()
    server.stop()

    assert process.returncode == 0, lines
    assert lines[-1].startswith("run rest: complete, 2 of 2 volumes")
    assert kinds(tmp_path / "log") == [
        ("RunStart", None),
        ("Volume", 0),
        ("Volume", 1),
        ("RunEnd", None),
    ]
