"""The whole way, small: real processes, real sockets, a real participant."""

import json
import subprocess

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
