"""The latency page shows what its raw samples say, and nothing else."""

from pathlib import Path

from benchmarks.latency_table import measured, replaced
from runtime.bench.result import decode_result

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "latency.md").read_text("utf-8")


def test_the_page_shows_its_raw_samples():
    assert replaced(PAGE, measured(DOCS / "latency.json")) == PAGE


def test_every_target_has_a_row_with_a_figure_or_a_reason():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    verdicts = [line for line in rows if "| reached |" in line or "| missed |" in line]
    excused = [line for line in rows if "not run here, because" in line]

    assert len(verdicts) + len(excused) == 9


def test_no_figure_rests_on_fewer_rounds_than_an_interval_needs():
    result = decode_result((DOCS / "latency.json").read_bytes(), "latency.json")

    assert min(len(one.rounds_ns) for one in (*result.series, *result.steps)) >= 6
    assert "too few rounds" not in PAGE
    assert result.sizes is not None
    assert (result.sizes.tokens, result.sizes.width) == (256, 1664)
