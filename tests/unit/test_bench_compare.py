"""What changed is said where intervals are apart, in units that can be compared."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.bench.compare import compare
from runtime.bench.figures import limits_ns, multiples, round_slopes, values
from runtime.bench.result import Series, decode_result, encode_result
from runtime.bench.table import comparison, number, report
from runtime.bench.work import Work
from runtime.errors import ArtifactError, UsageError
from tests.bench_results import MACHINE, OURS, ROUNDS, THEIRS, result

OTHER = msgspec.structs.replace(MACHINE, cpu="Another")


def verdicts(before, after):
    return {(c.name, c.unit): c.verdict for c in compare(before, after).changes}


def noisy(times, **fields):
    rounds = tuple((round(t * 1e6),) for t in times)
    series = Series(stage="encoder", who=OURS, rounds_ns=rounds, cpu_ns=(1,) * ROUNDS)
    return result(series=(series,), steps=(), **fields)


@pytest.mark.parametrize(
    ("scale", "verdict"),
    [(0.9, "faster"), (1.0, "within the noise"), (1.1, "slower")],
)
def test_a_change_without_noise_is_seen(scale, verdict):
    assert set(verdicts(result(), result(scale)).values()) == {verdict}


@given(
    st.lists(st.floats(1, 100), min_size=ROUNDS, max_size=ROUNDS),
    st.lists(st.floats(1, 100), min_size=ROUNDS, max_size=ROUNDS),
)
def test_of_six_rounds_all_must_lie_on_one_side(before, after):
    found = verdicts(noisy(before), noisy(after))

    old, new = ([round(t * 1e6) for t in side] for side in (before, after))
    wanted = (
        "faster" if max(new) < min(old)
        else "slower" if min(new) > max(old)
        else "within the noise"
    )  # fmt: skip
    assert set(found.values()) == {wanted}


def test_on_another_machine_only_multiples_of_its_limit_are_compared():
    found = compare(result(), result(3.0, machine=OTHER))

    assert not found.same_machine
    assert {c.unit for c in found.changes} == {"x limit"}


def test_a_machine_that_slows_down_with_its_limits_changes_no_multiple():
    limits = result().limits[0]
    slow = msgspec.structs.replace(limits.rounds[0].flop, per_s=5e8)
    rounds = [msgspec.structs.replace(r, flop=slow) for r in limits.rounds]
    after = result(2.0, limits=(msgspec.structs.replace(limits, rounds=tuple(rounds)),))

    found = verdicts(result(), after)

    assert found["encoder, openvino f32, 2 threads", "ms"] == "slower"
    assert found["encoder, openvino f32, 2 threads", "x limit"] == "within the noise"


def test_five_rounds_say_nothing():
    few = result().series[0]
    few = msgspec.structs.replace(few, rounds_ns=few.rounds_ns[:5], cpu_ns=(1,) * 5)
    one = result(series=(few,), steps=())

    assert set(verdicts(one, one).values()) == {"too few rounds"}


def test_other_models_are_not_compared():
    with pytest.raises(UsageError) as caught:
        compare(result(), result(subject="preset demo"))

    assert str(caught.value) == (
        "compare: expected two runs of the same work, found model preset tiny before "
        "and preset demo after. Measure the same preset or bundle."
    )


def test_nothing_in_common_is_said():
    with pytest.raises(UsageError) as caught:
        compare(result(), result(series=(), steps=()))

    assert str(caught.value) == (
        "compare: expected runs with a stage and an engine in common, found openvino "
        "f32, 2 threads; ort f32, 2 threads before and none after. Measure the same "
        "engines, precisions and threads."
    )


def test_what_one_run_lacks_is_named():
    found = compare(result(), result(steps=result().steps[:1]))

    assert found.missing == (f"intercept, {THEIRS}", f"step, {THEIRS}")


def test_figures_by_hand():
    one = result()
    found = values(one)

    assert found["encoder", OURS] == [10e6] * ROUNDS
    assert found["step", THEIRS] == pytest.approx([40e6] * ROUNDS)
    assert round_slopes(one.steps[0])[1] == pytest.approx([2e6] * ROUNDS)
    assert multiples(one, "step", OURS, found["step", OURS]) == pytest.approx(
        [2.0] * ROUNDS
    )
    assert multiples(one, "heads", OURS, [1.0] * ROUNDS) is None


@pytest.mark.parametrize(("stage", "bytes_each"), [("heads", 4), ("encoder", 2)])
def test_what_is_computed_in_float32_reads_four_bytes_a_number(stage, bytes_each):
    (limits,) = result().limits
    one = result(
        work={stage: Work(flop=1, weights=10**9)},
        limits=(msgspec.structs.replace(limits, precision="bf16"),),
    )

    # A thousand numbers a nanosecond and byte.
    assert limits_ns(one, stage, OURS) == pytest.approx([1e6 * bytes_each] * ROUNDS)


def test_a_result_comes_back_as_it_was_kept():
    assert decode_result(encode_result(result()), "a.json") == result()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b'{"schema": "neuroflow.bench/0"}',
            "a.json: expected schema neuroflow.bench/1, found neuroflow.bench/0. "
            "Measure again with this version.",
        ),
        (
            b"{}",
            "a.json: expected schema neuroflow.bench/1, found none. "
            "Measure again with this version.",
        ),
        (
            b'{"schema": "neuroflow.bench/1"}',
            "a.json: expected a file of neuroflow bench --json, found: "
            "Object missing required field `created`",
        ),
        (
            b"@",
            "a.json: expected a file of neuroflow bench --json, found: "
            "JSON is malformed: invalid character (byte 0)",
        ),
    ],
)
def test_other_files_are_refused(data, message):
    with pytest.raises(ArtifactError) as caught:
        decode_result(data, "a.json")

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.01234, "0.012"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (1e4, "10,000"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_a_report_says_what_was_measured_and_where():
    text = report(result())

    for line in (
        "Machine: A Processor 9000, 2 cores, 8.00 GB, Linux 6.1 x86_64, "
        "in a virtual machine.",
        "| 2 | 1.00 [1.00, 1.00] | numpy f32 | 1,000 [1,000, 1,000] | read |",
        "| openvino f32, 2 threads | 10.0 [10.0, 10.0] | 2.00 [2.00, 2.00] "
        "| 2.00 [2.00, 2.00] | 1 5 10 20 |",
        # Eighteen samples are too few for a percentile of any kind.
        "| encoder | openvino f32, 2 threads | - | - | - | - | 30.0 | 18 "
        "| 10.0 [10.0, 10.0] | 2.00 [2.00, 2.00] | 2.00 |",
        "| decode | openvino f32, 2 threads | 1.00 s | 10.0 | - | - | - | 10.0 | 20 "
        "| 0 |",
        "| openvino f32, 2 threads | 500 | 600 | 3.00 | 1.00 |",
        "| step | 2 | openvino f32 | ort f32 | 0.250 [0.250, 0.250] |",
    ):
        assert line in text.splitlines(), text
    assert "taken by others 1.5 %" in text


def test_a_comparison_is_a_table_with_what_it_leaves_out():
    text = comparison(
        compare(result(), result(2.0, machine=OTHER, steps=result(2.0).steps[:1]))
    )

    assert (
        "| step, openvino f32, 2 threads | x limit | 2.00 [2.00, 2.00] "
        "| 4.00 [4.00, 4.00] | 2.00 | slower |"
    ) in text.splitlines()
    assert "Another machine: times are not compared" in text
    assert "Measured once only: step, ort f32, 2 threads." in text
