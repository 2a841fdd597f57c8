"""`serve --log`, a scanner, `replay --verify`: real processes and a real engine."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bci_bridge.player import play
from bci_bridge.recorder import Recorder
from bci_bridge.recording_reader import read_recording, scan_recording
from bci_bridge.survey import survey
from runtime.bundle import open_bundle
from runtime.gallery import write_gallery
from tests.integration.tiny import PlayedEvent, PlayedRun
from tests.models import served_bundle
from verbs.rig import instruction_sets, rig_here

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/clients/python", "OMP_NUM_THREADS": "1"
}  # fmt: skip


class NoisyRun(PlayedRun):
    """A run whose voxels vary, so that a decoder has something to say."""

    def volumes(self):
        rng = np.random.default_rng(3)
        noise = rng.standard_normal((self.volume_count, *self.shape))
        return np.rint(1000 + 5 * noise).astype(np.int16)


def command(*arguments):
    return [sys.executable, "-m", "neuroflow", *map(str, arguments)]


def said(*arguments):
    done = subprocess.run(
        command(*arguments), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A bundle, a gallery, and what a server recorded of a run with them."""
    out = tmp_path_factory.mktemp("replay")
    shutil.copytree(served_bundle(), out / "bundle")
    with open_bundle(out / "bundle") as bundle:
        latent, shape = bundle.manifest.latent, bundle.manifest.voxels.shape
    for name, seed in (("gallery", 4), ("other", 5)):
        rng = np.random.default_rng(seed)
        latents = rng.standard_normal((6, latent.tokens, latent.width))
        ids = [f"image-{i}" for i in range(6)]
        write_gallery(
            out / name, latents=latents.astype("f4"), ids=ids, labels=["x", "y"] * 3
        )
    ready, log = out / "ready.json", out / "log"
    flags = ["--bundle", out / "bundle", "--gallery", out / "gallery", "--log", log]
    flags += ["--address", "tcp://127.0.0.1:*", "--ready-file", ready, "--threads", "1"]
    server = subprocess.Popen(
        command("serve", *flags, "--abstain-below", "0.3"), cwd=ROOT, env=ENVIRONMENT
    )
    try:
        while not ready.exists():
            assert server.poll() is None
            time.sleep(0.05)
        address = json.loads(ready.read_text())["address"]
        events = tuple(PlayedEvent(f"t-{k}", 25.0 + 6 * k, 2.0) for k in range(3))
        play(NoisyRun("run-1", 50, events, shape=tuple(shape)), address, None)
        server.terminate()
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()
    return out


def flags(out, gallery="gallery"):
    return ["--bundle", out / "bundle", "--gallery", out / gallery]


@pytest.mark.slow
def test_a_recording_is_proved_and_a_changed_one_is_not(recorded, tmp_path):
    status, output, error = said(
        "replay", recorded / "log", *flags(recorded), "--verify"
    )

    assert (status, error) == (0, "")
    assert output == "run-1: 50 volumes, 3 trials, 54 answers compared, 0 differences\n"

    shutil.copytree(recorded / "log" / "inputs", tmp_path / "log" / "inputs")
    recorder = Recorder(tmp_path / "log" / "outcomes")
    gone = None
    for entry in read_recording(recorded / "log" / "outcomes"):
        if gone is None and entry.topic == "out":
            gone = entry.envelope.record.outcome_index
            continue
        recorder.append(entry.topic, entry.envelope, entry.log_ns)
    recorder.close()
    changed = said("replay", tmp_path / "log", *flags(recorded), "--verify")
    shown = said("replay", tmp_path / "log", *flags(recorded), "--json")

    assert changed[0] == 1
    assert f"  run-1: outcome {gone}: kind: expected none, found " in changed[1]
    assert changed[2] == (
        f"neuroflow: {tmp_path / 'log'}: expected every answer as recorded, "
        "found 1 differences\n"
    )
    assert shown[0] == 0
    assert json.loads(shown[1])["runs"][0]["differences"] == 1


@pytest.mark.slow
def test_what_cannot_be_proved_is_refused_in_one_line(recorded, tmp_path):
    gallery = said("replay", recorded / "log", *flags(recorded, "other"), "--verify")
    engine = said(
        "replay",
        recorded / "log",
        *flags(recorded),
        "--backend",
        "openvino",
        "--verify",
    )
    shutil.copytree(recorded / "log", tmp_path, dirs_exist_ok=True)
    (segment,) = (tmp_path / "inputs").glob("*.mcap")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    damaged = said("replay", tmp_path, *flags(recorded), "--verify")
    rest = said("replay", tmp_path, *flags(recorded), "--verify", "--skip-damaged")

    for status, output, error in (gallery, engine, damaged):
        assert (status, output, error.count("\n")) == (1, "", 1)
    assert "Give the gallery that answered." in gallery[2]
    assert "backend: expected ort, found openvino" in engine[2]
    assert "expected a whole recording, found lost inputs: message" in damaged[2]
    assert rest[0] == 0, rest[2]
    assert "lost: inputs: message" in rest[1]
    assert "answers not compared after a loss" in rest[1]


@pytest.mark.slow
def test_a_recording_that_was_changed_consistently_is_found_by_its_chain(
    recorded, tmp_path
):
    whole = said("verify-recording", recorded / "log")
    as_json = said("verify-recording", recorded / "log", "--json")
    log = tmp_path / "log"
    shutil.copytree(recorded / "log", log)
    # Another server's segment in place of this one's: every CRC in it is right.
    entries = list(read_recording(log / "outcomes"))
    recorder = Recorder(tmp_path / "other")
    for entry in entries:
        recorder.append(entry.topic, entry.envelope, entry.log_ns + 1)
    recorder.close()
    (name,) = (path.name for path in (tmp_path / "other").glob("*.mcap"))
    shutil.copy(tmp_path / "other" / name, log / "outcomes" / name)
    changed = said("verify-recording", log)
    refused = said("replay", log, *flags(recorded), "--verify")
    compared = said("replay", log, *flags(recorded), "--verify", "--skip-damaged")
    (log / "outcomes" / "segments.json").unlink()
    without = said("verify-recording", log)
    note = said("replay", log, *flags(recorded), "--verify")

    heads = json.loads(as_json[1])
    assert whole == (
        0,
        "".join(
            f"{name}: {len(list((recorded / 'log' / name).glob('*.mcap')))} segments "
            f"as chained, head {heads[name]['head']}\n"
            for name in ("inputs", "outcomes")
        )
        + "signature: none\n",
        "",
    )
    found = f"outcomes: {name}: expected "
    assert (changed[0], changed[2].count("\n")) == (1, 1)
    assert changed[2].startswith(f"neuroflow: {log}: {found}")
    assert (refused[0], refused[1], found in refused[2]) == (1, "", True)
    assert compared[0] == 0, compared[2]
    assert compared[1].startswith(f"changed: {found}")
    line = "segments.json: expected the chain of the segments, found none\n"
    assert without == (1, "", f"neuroflow: {log}: outcomes: {line}")
    assert (note[0], note[2]) == (0, f"neuroflow: outcomes: {line}")


@pytest.mark.slow
@pytest.mark.parametrize("has_chain", [False, True])
def test_outcomes_that_were_cut_off_are_missed(recorded, tmp_path, has_chain):
    log = tmp_path / "log"
    shutil.copytree(recorded / "log", log)
    (segment,) = (log / "outcomes").glob("*.mcap")
    os.truncate(segment, segment.stat().st_size // 2)
    if not has_chain:
        (log / "outcomes" / "segments.json").unlink()

    arguments = [log, *flags(recorded), "--verify", "--skip-damaged"]
    status, output, error = said("replay", *arguments)
    as_json = said("replay", *arguments, "--json")

    (run,) = json.loads(as_json[1])["runs"]
    assert (status, as_json[0], output.startswith("changed: ")) == (1, 1, has_chain)
    assert 0 < run["compared"] < 54
    assert run["compared"] + run["lacking"] == 54
    assert (run["is_over"], run["has_ended"], run["differences"]) == (True, False, 0)
    assert output.endswith(
        f"{run['compared']} answers compared, 0 differences, {run['lacking']} answers "
        "that the recording lacks, recorded without its end\n"
    )
    assert error.splitlines()[-1] == (
        f"neuroflow: {log}: run-1: expected every answer up to the run's end, found "
        f"{run['lacking']} answers that the recording lacks. It was cut off, or its "
        "server killed there. Leave --verify out to compare the rest."
    )


@pytest.mark.slow
def test_a_server_begins_its_log_with_what_it_computes_with(recorded):
    # One, or two where the standby was told to end after the other had ended.
    rig, *same = survey(scan_recording(recorded / "log" / "outcomes")).rigs

    assert same in ([], [rig])
    assert rig == rig_here("ort", threads=1, abstain_below=0.3)
    assert {"numpy", "scipy", "python"} < set(rig.versions)


def test_instruction_sets_are_read_from_linux_on_either_processor():
    intel = "processor : 0\nflags\t\t: fpu sse4_2 avx2 amx_tile tsc\nflags : none\n"

    assert instruction_sets(intel) == ("amx_tile", "avx2", "sse4_2")
    assert instruction_sets("Features\t: fp asimd sve2 crc32\n") == ("asimd", "sve2")
    assert instruction_sets("") == ()
