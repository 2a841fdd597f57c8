import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from runtime.errors import ConfigError, TensorMismatchError
from runtime.preprocess import (
    AffineNormaliser,
    CausalNormaliser,
    CausalStatistics,
    PercentSignal,
    VoxelMask,
    decision_volume,
    normalise_run,
)


def a_mask():
    volume = np.zeros((3, 2, 2), dtype=np.bool_)
    volume[2, 0, 1] = volume[0, 1, 0] = True
    return VoxelMask.from_volume(volume)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "float32"])
def test_a_mask_selects_in_c_order_from_any_dtype_and_memory_order(dtype):
    volume = np.arange(12).reshape(3, 2, 2).astype(dtype)

    for order in ("C", "F"):
        voxels = a_mask().select(np.asarray(volume, order=order))
        assert voxels.dtype == np.float32
        assert voxels.tolist() == [2.0, 9.0]


def test_a_mask_scatters_back_and_its_hash_knows_its_voxels():
    other = np.zeros((3, 2, 2), dtype=np.bool_)
    other[0, 1, 1] = other[2, 0, 1] = True
    volume = a_mask().scatter(np.array([5.0, 7.0], dtype=np.float32))

    assert a_mask().select(volume).tolist() == [5.0, 7.0]
    assert a_mask().sha256 == a_mask().sha256
    assert a_mask().sha256 != VoxelMask.from_volume(other).sha256


def test_a_foreign_volume_is_refused_by_shape_and_dtype():
    with pytest.raises(TensorMismatchError) as error:
        a_mask().select(np.zeros((3, 2, 1), dtype=np.float64))

    assert str(error.value) == (
        "volume: expected int16 or uint16 or int32 or float32 [3, 2, 2], "
        "found float64 [3, 2, 1]"
    )


def test_percent_signal_warms_then_freezes_and_counts_dead_voxels():
    signal = PercentSignal(2, 2)
    warm = [signal.update(np.array(y, dtype=np.float32)) for y in ([90, 0], [110, 0])]

    assert warm == [None, None]
    assert signal.is_warm
    for _ in range(3):
        answer = signal.update(np.array([105.0, 3.0], dtype=np.float32))
        assert answer is not None
        np.testing.assert_allclose(answer, [5.0, 0.0], rtol=1e-6)
    assert signal.invalid_voxels == 1
    resumed = PercentSignal.from_state(signal.state())
    assert resumed.update(np.array([105.0, 3.0], dtype=np.float32)).tolist() == (
        answer.tolist()
    )


def test_an_impossible_baseline_is_refused():
    with pytest.raises(ConfigError) as error:
        PercentSignal(2, 2, prior_weight=1.0)

    assert str(error.value) == (
        "baseline: expected a prior_mean with a prior_weight of at least 0, "
        "found prior_weight 1.0"
    )


def runs(seed=0, volumes=30, voxels=5):
    rng = np.random.default_rng(seed)
    level = rng.normal(100, 30, (4, 1, voxels))
    noise = rng.standard_normal((4, volumes, voxels))
    return list((level + noise).astype(np.float32))


def test_the_mean_centre_is_its_closed_form():
    statistics = CausalStatistics.fit(runs()[:3], prior_weight=7.0)
    run = runs()[3]

    normalised = normalise_run(statistics, run)

    count = np.arange(1, 31)[:, None]
    centre = (7.0 * statistics.prior + run.astype(np.float64).cumsum(0)) / (7.0 + count)
    wanted = (run - centre) / statistics.scale
    np.testing.assert_allclose(normalised, wanted, rtol=1e-5, atol=1e-5)


def test_the_linear_centre_is_the_batch_ridge_of_the_past():
    statistics = CausalStatistics.fit(runs()[:3], "linear", 7.0, 0.5)
    run = runs()[3]

    normalised = normalise_run(statistics, run)

    for last in (0, 3, 29):
        X = np.column_stack((np.ones(last + 1), np.arange(last + 1) / 29))
        Y = run[: last + 1].astype(np.float64) - statistics.prior
        ridge = X.T @ X + np.diag([7.0, 1 / 0.25])
        residual = Y[-1] - X[-1] @ np.linalg.solve(ridge, X.T @ Y)
        wanted = residual / statistics.scale
        np.testing.assert_allclose(normalised[last], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["mean", "linear"])
def test_the_future_changes_nothing_and_a_resumed_normaliser_agrees(kind):
    statistics, run = CausalStatistics.fit(runs()[:3], kind), runs()[3]
    changed = run.copy()
    changed[15:] += 50
    whole = normalise_run(statistics, run)
    assert (normalise_run(statistics, changed)[:15] == whole[:15]).all()

    first = CausalNormaliser(statistics, 30)
    for voxels in run[:15]:
        first.update(voxels)
    second = CausalNormaliser(statistics, 30)
    second.resume(first.state())

    assert [second.update(v).tolist() for v in run[15:]] == whole[15:].tolist()


def test_a_voxel_without_variation_gives_zero():
    constant = [np.hstack((run, np.full((30, 1), 3.3, np.float32))) for run in runs()]
    statistics = CausalStatistics.fit(constant)

    assert statistics.scale[-1] == 0
    assert not normalise_run(statistics, constant[0])[:, -1].any()


def test_affine_betas_have_mean_zero_and_unit_spread():
    betas = runs()[0]
    normalised = AffineNormaliser.fit(betas).normalise(betas)

    np.testing.assert_allclose(normalised.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(normalised.std(axis=0, ddof=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("onset_s", "delay_s", "tr_s", "volume"),
    [(0.0, 8.0, 2.0, 3), (0.1, 8.0, 2.0, 4), (0.1, 0.2, 0.1, 2), (-9.0, 4.0, 2.0, 0)],
)
def test_a_trial_is_due_at_the_first_volume_that_ends_after_the_delay(
    onset_s, delay_s, tr_s, volume
):
    assert decision_volume(onset_s, delay_s, tr_s) == volume


def test_betas_are_normalised_in_one_array_that_becomes_the_answer():
    voxels = 100_000
    normaliser = AffineNormaliser(np.ones(voxels, "f"), np.full(voxels, 2, "f"))
    betas = np.full(voxels, 5, "f")
    normaliser.normalise(betas)
    tracemalloc.start()
    try:
        normalised = normaliser.normalise(betas)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (normalised == 2).all()
    assert most < 1.6 * 8 * voxels


def test_a_normaliser_that_is_changed_scales_by_its_own_scale():
    first = AffineNormaliser(np.zeros(2, "f"), np.array([1, 2], "f"))
    first.normalise(np.ones(2, "f"))

    second = replace(first, scale=np.array([4, 0], "f"))

    assert second.normalise(np.ones(2, "f")).tolist() == [0.25, 0.0]
    assert first.normalise(np.ones(2, "f")).tolist() == [1.0, 0.5]
