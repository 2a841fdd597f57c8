"""The whole way, small: real processes, real sockets, a real participant."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import pytest
from msgspec.structs import replace

from training.config import config_from_preset
from training.participant import tiny
from verbs.demo.command import _write, summary_table
from verbs.demo.simulated import demo_simulated
from verbs.progress import Screen

KEYS = [
    "volumes_sent",
    "outcomes_received",
    "inputs",
    "timings",
    "deadline_misses",
    "latency_ms",
    "answer_delay_s",
    "tr_s",
    "trials",
    "retrieval_top1",
    "chance_top1",
    "ridge_top1",
    "noise_ceiling_top1",
    "image_pixcorr",
    "encode_voxel_r",
    "encode_noise_ceiling_r",
    "parity_rel_l2",
    "backend",
    "versions",
    "seed",
]


def small_config():
    config = config_from_preset("demo")
    return replace(
        config,
        vae_training=replace(config.vae_training, epochs=1, batch=16),
        flow_training=replace(config.flow_training, steps=5, batch=16),
    )


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    report = demo_simulated(
        out,
        seed=4,
        backend="ort",
        speed=8.0,
        shown=Screen(),
        parameters=tiny(),
        config=small_config(),
    )
    _write(out, report)
    return out, report


@pytest.mark.slow
def test_every_volume_of_the_demonstration_has_one_outcome(demonstration):
    _, report = demonstration
    summary = report.summary

    assert summary["volumes_sent"] == summary["outcomes_received"]
    assert summary["inputs"] == {"OK": summary["volumes_sent"]}
    assert summary["timings"]["CATCHUP"] > summary["volumes_sent"] / 2
    indices = [(t.run_id, t.volume_index) for t in report.timings]
    assert len(set(indices)) == len(indices) == summary["volumes_sent"]


@pytest.mark.slow
def test_every_trial_of_the_demonstration_is_answered_with_pictures(demonstration):
    _, report = demonstration

    assert len(report.trials) == 6 + report.summary["trials"]
    for trial in report.trials:
        assert trial.decision == "ANSWER"
        assert trial.decoded_image.shape == (32, 32, 3)
        assert len(trial.candidates) == 3
        assert trial.delay_s == pytest.approx(12.0)
    assert report.summary["parity_rel_l2"] <= 1e-5


@pytest.mark.slow
def test_what_is_written_is_whole_and_nothing_half_written_stays(demonstration):
    out, report = demonstration

    summary = json.loads((out / "summary.json").read_text())
    assert set(KEYS) <= set(summary)
    assert (out / "contact_sheet.png").read_bytes()[:4] == b"\x89PNG"
    assert "</html>" in (out / "report.html").read_text()
    assert not [p.name for p in out.iterdir() if p.name.startswith(".")]
    assert "| top-1 right: ours |" in summary_table(summary)
    assert report.summary["seed"] == 4


@pytest.mark.slow
def test_no_process_of_the_demonstration_is_left(demonstration):
    out, _ = demonstration

    listed = subprocess.run(
        ["ps", "-eo", "args"], check=True, capture_output=True, text=True
    )

    assert str(out) not in listed.stdout


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "neuroflow", *map(str, arguments)]


def said(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr


@contextmanager
def served(out: Path, scratch: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`neuroflow serve` of a demonstration's bundle; yields it and its address."""
    ready = scratch / "ready.json"
    folders = ["--bundle", out / "bundle", "--gallery", out / "gallery"]
    server = subprocess.Popen(
        command(
            "serve", *folders, "--address", "tcp://127.0.0.1:*", "--ready-file", ready
        ),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not ready.exists():
            assert server.poll() is None, server.stderr.read()
            time.sleep(0.05)
        yield server, json.loads(ready.read_text())["address"]
    finally:
        server.kill()
        server.communicate()


def cropped(participant: Path, folder: Path) -> Path:
    """Copy a participant, every image one slice thinner."""
    shutil.copytree(participant, folder)
    for file in folder.rglob("*.nii.gz"):
        image = nibabel.load(file)
        nibabel.save(image.slicer[:, :, :-1], file)
    return folder


@pytest.mark.slow
def test_a_live_server_outlives_mistakes_and_ends_when_told(demonstration, tmp_path):
    out, _ = demonstration
    with served(out, tmp_path) as (server, address):
        folders = ["--bundle", out / "bundle", "--gallery", out / "gallery"]
        assert said("serve", *folders, "--address", address) == (
            1,
            f"neuroflow: address {address}: expected a free port, found it in use. "
            "Stop the other program or give another --address.\n",
        )

        host, port = address.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as plain:
            plain.sendall(bytes(range(256)) * 2)

        thinner = cropped(out / "participant", tmp_path / "thinner")
        status, error = said("play", thinner, "--to", address, "--fast")
        assert status == 1
        assert error.count("\n") == 1
        assert "expected" in error
        assert "found" in error

        status, error = said("play", out / "participant", "--to", address, "--fast")
        assert status == 0, error
        server.send_signal(signal.SIGTERM)
        _, error = server.communicate(timeout=20)
        assert server.returncode == 0
        assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_player_that_finds_no_server_can_be_interrupted(
    demonstration, number, tmp_path
):
    out, _ = demonstration
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unheard.getsockname()[1]}"
        player = subprocess.Popen(
            command("play", out / "participant", "--to", address),
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(4)  # as long as it takes to read the recording and to call
        assert player.poll() is None
        player.send_signal(number)
        _, error = player.communicate(timeout=4)

    assert player.returncode == 1
    assert error == (
        f"neuroflow: server {address}: expected an answer, "
        "found none before the wait was cancelled\n"
    )
