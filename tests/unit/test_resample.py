import numpy as np
import pytest

from runtime.errors import TensorMismatchError
from training.resample import auc, block_interval, blocks_of, permute_blocks


def design(runs=12, blocks=8, length=9):
    run = np.repeat(np.arange(runs), blocks * length)
    block = np.repeat(np.arange(runs * blocks), length)
    return run, block


def test_a_block_is_a_stretch_of_one_label_within_one_run():
    labels = np.array([0, 0, 3, 3, 0, 3, 3, 3])
    runs = np.array([0, 0, 0, 0, 0, 0, 1, 1])

    assert blocks_of(labels, runs).tolist() == [0, 0, 1, 1, 2, 3, 4, 4]


def test_no_volumes_have_no_blocks():
    assert blocks_of(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


def test_permuted_labels_keep_blocks_rest_and_the_categories_of_every_run():
    labels = np.array([0, 1, 1, 0, 2, 2, 0, 3, 3, 0, 1, 0, 2, 2, 3])
    runs = np.repeat([0, 1], [9, 6])

    shuffled = permute_blocks(labels, runs, np.random.default_rng(1))

    assert ((shuffled == 0) == (labels == 0)).all()
    assert (blocks_of(shuffled, runs) == blocks_of(labels, runs)).all()
    for run in (0, 1):
        blocks = blocks_of(labels, runs)[runs == run]
        first = np.unique(blocks, return_index=True)[1]
        before, after = labels[runs == run][first], shuffled[runs == run][first]
        assert sorted(before) == sorted(after)


def test_permuting_says_nothing_of_what_was_shown():
    run, _ = design(runs=400, length=1)
    labels = np.tile(np.arange(1, 9), 400)

    shuffled = permute_blocks(labels, run, np.random.default_rng(0))

    # Four standard errors of a share of 1/8 among 3200 draws.
    assert np.mean(shuffled == labels) == pytest.approx(1 / 8, abs=0.024)


def test_the_interval_of_constant_hits_is_a_point():
    run, block = design(runs=3)

    found = block_interval(np.ones((2, len(run))), run, block, np.random.default_rng(0))

    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)


def test_runs_that_scatter_alone_give_the_known_width():
    run, block = design(runs=60, blocks=2, length=3)
    level = np.random.default_rng(3).normal(size=60)

    found = block_interval(level[run][None], run, block, np.random.default_rng(0))

    # Nothing varies within a run, so this is the bootstrap of 60 means: 1.96 s / 60^.5,
    # to the error of a percentile of 4000 draws.
    width = 2 * 1.96 * level.std() / np.sqrt(60)
    assert found.mean == pytest.approx(level.mean())
    assert found.high - found.low == pytest.approx(width, rel=0.08)


def test_blocks_that_scatter_alone_give_at_most_the_sum_of_both_levels():
    run, block = design(runs=12, blocks=8, length=1)
    values = np.random.default_rng(4).normal(size=96)

    found = block_interval(values[None], run, block, np.random.default_rng(0))

    one_level = 2 * 1.96 * values.std() / np.sqrt(96)
    assert one_level < found.high - found.low < 1.6 * one_level


def test_volumes_of_a_block_are_not_counted_as_independent():
    run, block = design(runs=12, blocks=8, length=9)
    value = np.random.default_rng(5).normal(size=96)
    repeated = block_interval(value[block][None], run, block, np.random.default_rng(0))
    single_run, single = design(runs=12, blocks=8, length=1)
    once = block_interval(value[None], single_run, single, np.random.default_rng(0))

    assert repeated.low == pytest.approx(once.low)
    assert repeated.high == pytest.approx(once.high)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(6)
    run, block = design(runs=12, blocks=8, length=2)
    covered = 0
    for _ in range(100):
        level = rng.normal(0, 1, 12)[run] + rng.normal(0, 1, 96)[block]
        found = block_interval(level[None], run, block, rng, resamples=300)
        covered += found.low < 0 < found.high

    # Percentile intervals of 12 runs are a little narrow, the two levels widen them.
    assert 85 <= covered <= 100


def test_seeds_that_disagree_widen_the_interval():
    run, block = design(runs=4, blocks=2, length=1)
    agreed = np.full((3, 8), 0.5)
    apart = np.repeat([[0.0], [0.5], [1.0]], 8, axis=1)

    narrow = block_interval(agreed, run, block, np.random.default_rng(0))
    wide = block_interval(apart, run, block, np.random.default_rng(0))

    assert narrow.low == narrow.high == 0.5
    # All three draws the same seed: 1 in 27 at either end.
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_blocks_of_another_length_are_refused():
    with pytest.raises(TensorMismatchError, match="found 3 and 2 blocks"):
        block_interval(
            np.ones((1, 3)),
            np.zeros(3, np.int64),
            np.zeros(2, np.int64),
            np.random.default_rng(0),
        )


def test_the_area_under_the_curve_counts_ties_half():
    higher, lower = np.array([0.2, 0.5, 0.9]), np.array([0.1, 0.5])

    # Pairs won: 1, 1 and 2 of 2; one tie.
    assert auc(higher, lower) == pytest.approx((1 + 1.5 + 2) / 6)
