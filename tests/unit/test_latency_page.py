"""The latency page shows what its raw samples say, and nothing else."""

import json
import operator
from pathlib import Path
from statistics import median

import pytest

from benchmarks.graph_profile import shown
from benchmarks.latency_table import measured, replaced
from runtime.bench.result import decode_result
from runtime.bench.table import ratios

DOCS = Path(__file__).parents[2] / "docs"
FILES = [DOCS / name for name in ("latency.json", "latency_avx2.json")]
PAGE = (DOCS / "latency.md").read_text("utf-8")


def test_the_page_shows_its_raw_samples():
    assert replaced(PAGE, measured(FILES)) == PAGE


def test_the_profile_is_that_of_its_samples():
    found = json.loads((DOCS / "graph_profile.json").read_bytes())

    assert shown(found["times_ms"], found["limit_ms"]) in PAGE
    # What shows why a step is no faster: nearly all of it is products.
    step = found["times_ms"]["step"]["openvino"]
    every = sum(sum(one.values()) for one in step)
    assert sum(one["products"] for one in step) > 0.9 * every


def test_the_readmes_ratios_are_those_of_the_committed_run():
    (_, *rows) = ratios(decode_result(FILES[0].read_bytes(), "latency.json")).split(
        "\n"
    )
    found = {
        (stage, over): ratio
        for stage, _, _, over, ratio in (
            [cell.strip() for cell in row.strip("|").split("|")] for row in rows if row
        )
    }
    readme = " ".join((DOCS.parent / "README.md").read_text("utf-8").split())

    for stage, over in (
        ("step", "torch-compile bf16"),
        ("encoder", "torch-compile bf16"),
        ("step", "ort f32"),
    ):
        assert found[stage, over] in readme


def test_the_encoders_ratios_are_those_of_the_run_that_met_both_states():
    file = DOCS / "latency_two_states.json"
    series = decode_result(file.read_bytes(), file.name).series
    ours, torch = (
        next(s for s in series if (s.stage, s.who.peer) == ("encoder", peer))
        for peer in ("openvino", "torch-compile")
    )
    middle = [[median(samples) for samples in one.rounds_ns] for one in (ours, torch)]

    for ratio in map(operator.truediv, *middle):
        assert f"{ratio:.3f}" in PAGE


def test_every_target_has_a_row_with_a_figure_or_a_reason():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    verdicts = [line for line in rows if "| reached |" in line or "| missed |" in line]
    excused = [line for line in rows if "not run here, because" in line]

    assert len(verdicts) + len(excused) == 10 * len(FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_figure_rests_on_fewer_rounds_than_an_interval_needs(file):
    result = decode_result(file.read_bytes(), file.name)

    assert min(len(one.rounds_ns) for one in (*result.series, *result.steps)) >= 6
    assert result.sizes is not None
    assert (result.sizes.tokens, result.sizes.width) == (256, 1664)


def test_every_interval_has_its_confidence_but_that_of_three_starts():
    assert "too few rounds" not in PAGE


@pytest.mark.parametrize("name", ["latency.sh", "gpu_suite.sh"])
def test_a_command_of_the_page_runs_in_the_environment_that_make_made(name):
    script = (DOCS.parent / "benchmarks" / name).read_text("utf-8")

    assert "\npython=${PYTHON:-$PWD/.venv/bin/python}\n" in script
