"""The benchmark of training's memory: what it keeps from one run to the next."""

import importlib
import re
import sys
from pathlib import Path
from unittest import mock

import msgspec
import pytest

from runtime.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def memory():
    # Benchmarks are programs: what stands beside one is imported by its bare name.
    with mock.patch.object(sys, "path", [str(ROOT / "benchmarks"), *sys.path]):
        return importlib.import_module("train_memory")


def one(memory, process, batch=64, peak=100.0):
    return memory.Measured(
        process=process,
        batch=batch,
        rss_before_mib=1.0,
        peak_rss_mib=peak,
        peak_own_mib=peak,
        weights_gradients_moments_average_mib=2,
        beyond_the_model_mib=3,
        first_step_s=4.0,
        machine="a machine",
    )


def test_the_committed_file_is_of_this_program_and_the_page_shows_its_table(memory):
    config = memory.model("paper-subj01", None)

    report = memory.report_in(ROOT / "docs" / "train_memory.json", config)

    run = [measured.process for measured in report.processes]
    assert report.not_run == [p for p in memory.PROCESSES if p not in run]
    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    assert memory.markdown(report) in page


def test_processes_of_another_day_are_kept_beside_the_new_one(memory, tmp_path):
    config = memory.model("paper-subj01", None)
    trials = memory.Sparse(apparent_bytes=2, bytes_on_disk=1)
    file = tmp_path / "memory.json"

    for found in (
        one(memory, "flow", 2),
        one(memory, "vae", 64, 100.0),
        one(memory, "flow", 24),
        one(memory, "vae", 64, 200.0),
    ):
        held = memory.report_in(file, config)
        memory.write(memory.added(held, trials, found), file)

    report = memory.report_in(file, config)
    assert [(p.process, p.batch, p.peak_rss_mib) for p in report.processes] == [
        ("vae", 64, 200.0),
        ("flow", 2, 100.0),
        ("flow", 24, 100.0),
    ]
    assert report.not_run == ["vae-resumed", "flow-resumed"]
    assert [file.name for file in tmp_path.iterdir()] == ["memory.json"]


def test_a_file_of_another_model_or_program_is_not_added_to(memory, tmp_path):
    file = tmp_path / "memory.json"
    memory.write(memory.empty(memory.model("tiny", None)), file)
    with pytest.raises(ConfigError) as caught:
        memory.report_in(file, memory.model("paper-subj01", None))
    assert str(caught.value) == f"{file}: preset: expected paper-subj01, found tiny"

    file.write_bytes(b'{"vae": {}}')
    with pytest.raises(ConfigError, match="expected a report of this benchmark, found"):
        memory.report_in(file, memory.model("tiny", None))


@pytest.mark.slow
def test_a_resumed_process_is_measured_with_the_one_that_it_goes_on_from(
    memory, tmp_path, monkeypatch, capsys
):
    file, scratch = tmp_path / "memory.json", tmp_path / "scratch"
    monkeypatch.setattr(memory, "SAID_EVERY_S", 0.5)
    asked = ["--preset", "tiny", "--scratch", str(scratch), "--out", str(file)]
    asked += ["--processes", "vae-resumed"]
    monkeypatch.setattr(sys, "argv", ["train_memory", *asked])

    memory.main()

    report = msgspec.json.decode(file.read_bytes(), type=memory.Report)
    assert [p.process for p in report.processes] == ["vae", "vae-resumed"]
    assert report.not_run == ["flow", "flow-resumed"]
    first, resumed = report.processes
    assert first.batch == memory.model("tiny", None).vae_training.batch
    assert resumed.peak_rss_mib > resumed.rss_before_mib > 0
    assert not scratch.exists()
    printed = capsys.readouterr()
    assert printed.out.splitlines()[2].startswith("| stage 1 | 8 | ")
    assert re.search(r"vae-resumed: \d+ s, [\d,]+ MiB", printed.err)
