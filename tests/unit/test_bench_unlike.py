"""Runs that measured different work are refused; other weights are told."""

from pathlib import Path

import msgspec
import pytest

from runtime.bench.compare import compare
from runtime.bench.result import decode_result, encode_result
from runtime.bench.table import comparison
from runtime.bench.work import Work
from runtime.errors import UsageError
from runtime.estimator import BetaEstimator, ExternalEstimator, VolumeEstimator
from runtime.preprocess.motion_settings import Motion
from tests.bench_results import OURS, result
from tests.unit.test_bench_work import PAPER

A, B = "a" * 64, "b" * 64


def of(**fields):
    """The result of one bundle."""
    known = {"subject": "bundle one", "sizes": PAPER, "bundle_sha256": A}
    return result(**(known | {"solver": "rotation"} | fields))


@pytest.mark.parametrize(
    ("fields", "found", "remedy"),
    [
        (
            {"decode_evaluations": 4},
            "evaluations 2 before and 4 after",
            "Measure the same preset or bundle.",
        ),
        (
            {"solver": "heun"},
            "solver rotation before and heun after",
            "Measure the same preset or bundle.",
        ),
        (
            {"gallery": 1000},
            "gallery 100 before and 1000 after",
            "Measure with the same --gallery.",
        ),
        (
            {"sizes": msgspec.structs.replace(PAPER, depth=2, width=64)},
            "model bundle one of width 1664, depth 12 before and bundle one of "
            "width 64, depth 2 after",
            "Measure the same preset or bundle.",
        ),
        (
            {"work": result().work | {"encoder": Work(flop=6_000_000, weights=2)}},
            "encoder of 5,000,000 operations and 1 weights before and 6,000,000 "
            "operations and 2 weights after",
            "Measure the same preset or bundle.",
        ),
        (
            {"sizes": None},
            "model bundle one (sha256 aaaaaaaaaaaa) of known sizes before and "
            "bundle one (sha256 aaaaaaaaaaaa) of unknown sizes after",
            "Measure the same preset or bundle.",
        ),
    ],
)
def test_other_work_is_neither_slower_nor_faster(fields, found, remedy):
    with pytest.raises(UsageError) as caught:
        compare(of(), of(**fields))

    assert str(caught.value) == (
        f"compare: expected two runs of the same work, found {found}. {remedy}"
    )


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (
            BetaEstimator(),
            VolumeEstimator(),
            "input and estimator beta before and volume after",
        ),
        (
            BetaEstimator(),
            ExternalEstimator(name="a", detail="b", normalisation="pooled-train"),
            "input and estimator beta before and external after",
        ),
        (
            VolumeEstimator(),
            VolumeEstimator(smoothing_fwhm_mm=6.0),
            "estimator.smoothing_fwhm_mm none before and 6.0 after",
        ),
        (
            BetaEstimator(motion=Motion(fwhm_mm=4.0)),
            BetaEstimator(),
            "estimator.motion (fwhm_mm 4.0, interpolation cubic, spike_mm 0.5, "
            "reposition_mm 3.0, min_overlap 0.8) before and none after",
        ),
        (
            BetaEstimator(noise_shrinkage=0.5),
            BetaEstimator(),
            "estimator.noise_shrinkage 0.5 before and none after",
        ),
    ],
)
def test_volumes_that_are_estimated_otherwise_are_other_work(before, after, found):
    with pytest.raises(UsageError) as caught:
        compare(of(estimator=before), of(estimator=after, bundle_sha256=B))

    assert str(caught.value) == (
        f"compare: expected two runs of the same work, found {found}. Measure bundles "
        "of the same estimator."
    )


def test_one_estimator_is_compared_and_kept_over_a_round_trip():
    one = of(estimator=BetaEstimator(motion=Motion(), smoothing_fwhm_mm=6.0))

    again = decode_result(encode_result(one), "a.json")

    assert again == one
    assert compare(one, again).notes == ()


@pytest.mark.parametrize("name", ["latency", "latency_avx2", "latency_before"])
def test_files_that_say_no_estimator_are_compared_with_those_that_do(name):
    file = Path(__file__).parents[2] / "docs" / f"{name}.json"
    old = decode_result(file.read_bytes(), file.name)
    new = msgspec.structs.replace(old, estimator=BetaEstimator())

    assert compare(old, new).changes
    assert compare(new, old).changes


def test_one_bundle_is_itself_under_another_name():
    found = compare(of(), of(subject="bundle copy"))

    assert found.notes == ()
    assert {c.verdict for c in found.changes} == {"within the noise"}


def test_a_bundle_of_unknown_sizes_is_known_by_its_hash_and_not_by_its_name():
    one = of(sizes=None)

    assert compare(one, of(sizes=None, subject="bundle copy")).changes
    with pytest.raises(UsageError) as caught:
        compare(one, of(sizes=None, bundle_sha256=B))

    assert "(sha256 aaaaaaaaaaaa) of unknown sizes before and bundle one " in str(
        caught.value
    )


def test_other_weights_of_the_same_sizes_are_compared_and_told():
    text = comparison(compare(of(), of(bundle_sha256=B)))

    assert (
        "Other weights of the same sizes: bundle one (sha256 aaaaaaaaaaaa) and bundle "
        "one (sha256 bbbbbbbbbbbb)."
    ) in text.splitlines()


def test_a_file_of_before_is_read_and_compared_with_what_it_does_not_tell():
    old = msgspec.json.decode(encode_result(of()))
    del old["bundle_sha256"], old["solver"]
    before = decode_result(msgspec.json.encode(old), "old.json")

    found = compare(before, of())

    assert found.notes == (
        "Perhaps other weights of the same sizes: bundle one (sha256 not told) and "
        "bundle one (sha256 aaaaaaaaaaaa).",
    )
    assert compare(before, before).notes == ()


def test_multiples_of_limits_of_another_precision_are_not_compared():
    limits = tuple(msgspec.structs.replace(x, precision="bf16") for x in of().limits)

    found = compare(of(), of(limits=limits))

    assert {c.unit for c in found.changes} == {"ms"}
    assert found.notes == (
        "The limits are of f32 before and bf16 after: multiples of them are not "
        "compared.",
    )


def test_steps_that_are_fitted_to_other_lengths_are_compared_and_told():
    (ours, _) = of().steps
    rounds = ((12_000_000, 22_000_000),) * len(ours.rounds_ns)
    short = msgspec.structs.replace(ours, evaluations=(1, 2), rounds_ns=rounds)

    found = compare(of(), of(steps=(short,)))

    verdicts = {(c.name, c.unit): c.verdict for c in found.changes}
    assert verdicts[f"step, {OURS}", "ms"] == "within the noise"
    assert found.notes == (
        "The steps are fitted to N = 1 5 10 20 before and 1 2 after.",
    )
