"""A damaged file of samples is one line that names it, whatever is wrong in it."""

import copy

import msgspec
import pytest

from benchmarks.latency_table import measured
from runtime.bench.result import decode_result, encode_result
from runtime.errors import ArtifactError, NeuroFlowError
from tests.bench_results import OURS, result
from tests.unit.test_bench_work import PAPER
from verbs.bench_commands import bench

GOOD = msgspec.json.decode(encode_result(result(sizes=PAPER)))
FIELD = "expected a file of neuroflow bench --json, found: "


def put(value, *path):
    """The good file with one value replaced."""
    found = copy.deepcopy(GOOD)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (
            put([], "series", 0, "rounds_ns", 0),
            "Expected `array` of length >= 1 - at `$.series[0].rounds_ns[0]`",
        ),
        (
            put([], "series", 0, "rounds_ns"),
            "Expected `array` of length >= 1 - at `$.series[0].rounds_ns`",
        ),
        (
            put(0, "series", 0, "rounds_ns", 0, 0),
            "Expected `int` >= 1 - at `$.series[0].rounds_ns[0][0]`",
        ),
        (
            put([[1], [2]], "series", 0, "rounds_ns"),
            f"2 rounds of encoder of {OURS}, and processor time of 6",
        ),
        (
            put(0, "limits", 0, "rounds", 0, "flop", "per_s"),
            "Expected `float` >= 1.0 - at `$.limits[0].rounds[0].flop.per_s`",
        ),
        (
            put(-5.0, "limits", 0, "rounds", 0, "memory", "per_s"),
            "Expected `float` >= 1.0 - at `$.limits[0].rounds[0].memory.per_s`",
        ),
        (
            put("f99", "limits", 0, "precision"),
            "Expected `str` matching regex '^(f32|f16|bf16|int8|fp8)$' - at "
            "`$.limits[0].precision`",
        ),
        (
            put({"flop": 0, "weights": 0}, "work", "encoder"),
            "a stage that has no work",
        ),
        (
            put([1, 2, 3], "steps", 0, "rounds_ns", 0),
            f"a round of the steps of {OURS} without one time for each of its 4 "
            "evaluations",
        ),
        (
            put([2, 1], "steps", 0, "evaluations"),
            f"the steps of {OURS}: evaluations: expected at least two increasing "
            "numbers from 1, found 2 1",
        ),
        (put(GOOD["steps"] + GOOD["steps"][:1], "steps"), f"the steps of {OURS} twice"),
        (
            put([], "paced", 0, "paced", "latency_ns"),
            f"decode of {OURS} at the scanner's pace without latencies",
        ),
        (put(0, "gallery"), "Expected `int` >= 1 - at `$.gallery`"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong_in_it(tmp_path, data, why):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_bytes(msgspec.json.encode(GOOD))
    bad.write_bytes(msgspec.json.encode(data))

    with pytest.raises(ArtifactError) as caught:
        bench(compare=(good, bad))

    assert str(caught.value) == f"{bad}: {FIELD}{why}"


def leaves(value, path=()):
    if isinstance(value, dict | list):
        yield path
        pairs = value.items() if isinstance(value, dict) else enumerate(value[:2])
        for key, inner in pairs:
            yield from leaves(inner, (*path, key))
    else:
        yield path


@pytest.mark.parametrize(
    "value", [0, -1, 2**63 - 1, 1e308, 5e-324, "", "f99", None, True, [], {}]
)
def test_whatever_is_put_anywhere_ends_in_tables_or_in_one_line(tmp_path, value):
    file = tmp_path / "bad.json"
    good = tmp_path / "good.json"
    good.write_bytes(msgspec.json.encode(GOOD))
    refused = 0
    for path in list(leaves(GOOD))[1:]:
        file.write_bytes(msgspec.json.encode(put(value, *path)))
        lines = refusals(good, file)
        refused += len(lines)
        for line in lines:
            assert line.startswith((f"{file}: expected ", "compare: expected ")), path
            assert "\n" not in line
    assert refused > 20


def refusals(good, file):
    try:
        decode_result(file.read_bytes(), str(file))
    except ArtifactError as error:
        return [str(error)]
    measured([file])
    try:
        bench(compare=(good, file))
    except NeuroFlowError as error:
        return [str(error)]
    return []
