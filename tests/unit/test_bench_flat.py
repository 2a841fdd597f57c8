"""A slope that is not positive is no figure: a dash and its reason, and no verdict."""

import msgspec
import pytest

from benchmarks.latency_table import measured
from runtime.bench.compare import compare
from runtime.bench.result import Series, encode_result
from runtime.bench.table import comparison, report
from tests.bench_results import OURS, ROUNDS, THEIRS, result
from tests.unit.test_bench_targets import BF16, FORMS, in_bf16, rows

WHY = f"T(N) does not grow in {ROUNDS} of {ROUNDS} rounds: too much noise"
FALLING = tuple(round(ms * 1e6) for ms in (90, 80, 70, 60))
LEVEL = (50_000_000,) * 4


def flat(one, who, times=FALLING):
    """The result with T(N) of one engine replaced in every round."""
    steps = (
        msgspec.structs.replace(s, rounds_ns=(times,) * ROUNDS) if s.who == who else s
        for s in one.steps
    )
    return msgspec.structs.replace(one, steps=tuple(steps))


@pytest.mark.parametrize("times", [FALLING, LEVEL])
def test_a_step_that_does_not_grow_reaches_nothing(times):
    found = rows(flat(in_bf16(), BF16, times))

    for name in (
        "flow step over the limit of its products",
        "flow step over torch's best",
        "flow step over ONNX Runtime f32",
    ):
        assert found[name][1] == "-"
        assert found[name][2] == f"not run here, because of {BF16} {WHY}"


def test_one_such_round_is_enough():
    one = in_bf16()
    (ours, *others) = one.steps
    rounds = (FALLING, *ours.rounds_ns[1:])
    ours = msgspec.structs.replace(ours, rounds_ns=rounds)

    found = rows(msgspec.structs.replace(one, steps=(ours, *others)))

    assert "in 1 of 6 rounds" in found["flow step over torch's best"][2]


def test_a_peer_without_a_figure_is_not_taken_for_slower():
    found = rows(flat(in_bf16(), FORMS[1]))

    assert found["flow step over torch's best"][2].endswith(f"of {FORMS[1]} {WHY}")
    assert found["voxel encoder over torch's best"][2] == "reached"
    assert found["flow step over ONNX Runtime f32"][2] == "missed"
    assert rows(flat(in_bf16(), THEIRS))["flow step over ONNX Runtime f32"] == [
        "<= 0.080", "-", f"not run here, because of {THEIRS} {WHY}",
    ]  # fmt: skip


def test_the_tables_have_a_dash_and_the_reason(tmp_path):
    one = flat(result(), OURS)
    file = tmp_path / "a.json"
    file.write_bytes(encode_result(one))

    lines = report(one).splitlines()

    assert f"| {OURS} | - | - | - | 1 5 10 20 |" in lines
    assert f"{OURS}: no step, because {WHY}." in lines
    assert not any(line.startswith("| step |") for line in lines)
    assert f"{OURS}: no step, because {WHY}." in measured([file])


def test_a_comparison_leaves_such_a_step_out_and_says_so():
    found = compare(result(), flat(result(), OURS))

    assert not {f"step, {OURS}", f"intercept, {OURS}"} & {c.name for c in found.changes}
    assert f"step, {THEIRS}" in {c.name for c in found.changes}
    assert f"No step of {OURS}: {WHY}." in comparison(found).splitlines()


@pytest.mark.parametrize(
    ("calls", "ms", "row"),
    [
        (50, 8, ["<= 1.00", "8.00 (300 calls: p90)", "missed"]),
        (10, 8, ["<= 1.00", "8.00 (60 calls: p50)", "missed"]),
        (
            3,
            8,
            ["<= 1.00", "-", "not run here, because 18 calls are too few for p99"],
        ),
        (
            50,
            0.5,
            ["<= 1.00", "-", "not run here, because 300 calls are too few for p99"],
        ),
    ],
)
def test_a_lower_percentile_beyond_the_limit_is_a_miss(calls, ms, row):
    rounds = ((int(ms * 1e6),) * calls,) * ROUNDS
    series = Series(
        stage="volume due", who=BF16, rounds_ns=rounds, cpu_ns=(0,) * ROUNDS
    )

    found = rows(msgspec.structs.replace(in_bf16(), series=(series,)))

    assert found["a volume around the engines, a trial due, p99, ms"] == row
