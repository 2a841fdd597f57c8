"""Measures of a growing run, beside whole-run formulas in plain numpy."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from runtime.errors import ConfigError, TensorMismatchError
from runtime.preprocess.quality import MIN_DIFFERENCES, MOST_SPIKES, RunQuality


def scan(volumes=40, voxels=200, seed=0):
    rng = np.random.default_rng(seed)
    level = rng.uniform(800, 1200, voxels)
    trend = np.linspace(0, 20, volumes)[:, None]
    return (level + trend + 5 * rng.standard_normal((volumes, voxels))).astype("f4")


def measured(run):
    quality = RunQuality(run.shape[1])
    return [quality.update(index, voxels) for index, voxels in enumerate(run)]


def test_each_measure_is_its_whole_run_formula_on_the_volumes_so_far():
    run = scan()
    run[:, 7] = 900.0
    found = measured(run)

    for n in (2, 9, 40):
        seen = run[:n].astype(np.float64)
        mean, sd = seen.mean(axis=0), seen.std(axis=0, ddof=1)
        changes = np.square(np.diff(seen, axis=0)).mean(axis=1)
        said = found[n - 1]
        assert said.tsnr == pytest.approx(np.median(mean[sd > 0] / sd[sd > 0]))
        assert said.constant_voxels == 1
        assert said.dvars_percent == pytest.approx(
            100 * np.sqrt(changes[-1]) / seen.mean(), rel=1e-6
        )
        if n > MIN_DIFFERENCES:
            slope = np.polyfit(np.arange(n), seen.mean(axis=1), 1)[0]
            drift = 100 * slope * (n - 1) / seen.mean()
            assert said.drift_percent == pytest.approx(drift, rel=1e-6)
            assert said.dvars_standardised == pytest.approx(
                np.sqrt(changes[-1] / changes[:-1].mean())
            )


def test_stationary_noise_has_a_standardised_change_of_one_and_no_spikes():
    found = measured(scan(200))[MIN_DIFFERENCES + 5 :]

    ratios = [one.dvars_standardised for one in found]
    # 200 voxels: a volume's mean squared change has a spread of some 10 %.
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.02)
    assert found[-1].spike_share == 0.0


def test_what_is_not_known_yet_is_not_named():
    first, second = measured(scan(2))

    assert first.named() == {"dvars_spike": 0.0, "spike_share": 0.0}
    assert set(second.named()) == {
        "tsnr", "dvars_percent", "dvars_spike", "spike_share", "constant_voxels",
    }  # fmt: skip


def test_one_broken_volume_is_one_spike_and_leaves_no_trace_in_the_others():
    run = scan()
    broken = run.copy()
    broken[20] *= 1.1

    found, clean = measured(broken), measured(run)

    assert [i for i, one in enumerate(found) if one.is_spike] == [20]
    assert found[-1].spike_share == pytest.approx(1 / 40)
    assert found[-1].tsnr == pytest.approx(clean[-1].tsnr, rel=0.1)
    assert found[21].dvars_standardised < 1.5


def test_a_change_that_lasts_is_how_the_run_is_from_then_on():
    run = scan()
    run[20:] *= 1.1

    found = measured(run)

    spikes = [i for i, one in enumerate(found) if one.is_spike]
    assert spikes == list(range(20, 20 + MOST_SPIKES))


def test_nothing_is_a_spike_before_enough_is_known():
    run = scan()
    run[MIN_DIFFERENCES] *= 1.5

    assert not any(one.is_spike for one in measured(run)[: MIN_DIFFERENCES + 1])


def test_a_state_goes_on_bit_for_bit_through_safetensors():
    run = scan()
    run[15] *= 1.2
    quality = RunQuality(run.shape[1])
    for index in range(17):
        quality.update(index, run[index])
    state = quality.state()
    arrays = {k: v for k, v in state.items() if isinstance(v, np.ndarray)}

    other = RunQuality.from_state(state | load(save(arrays)))

    for index in range(17, 40):
        assert quality.update(index, run[index]) == other.update(index, run[index])


def test_a_foreign_state_and_an_impossible_ratio_are_refused():
    with pytest.raises(ConfigError) as foreign:
        RunQuality.from_state({"version": 9})
    with pytest.raises(ConfigError) as ratio:
        RunQuality(5, 1.0)

    assert str(foreign.value) == "quality state: expected version 1, found 9"
    assert str(ratio.value) == (
        "quality: expected at least one voxel and a spike_ratio above 1, found "
        "5 voxels and 1.0"
    )


def test_a_volume_that_is_not_finite_is_refused_unchanged():
    run = scan()
    quality, untouched = RunQuality(200), RunQuality(200)
    for index in range(10):
        bad = run[index].copy()
        bad[3] = np.nan
        with pytest.raises(TensorMismatchError) as error:
            quality.update(index, bad)
        assert quality.update(index, run[index]) == untouched.update(index, run[index])

    assert str(error.value) == "voxels: expected finite values, found 1 that are not"


def test_a_run_of_nothing_but_zeros_has_no_measures_that_divide_by_it():
    found = measured(np.zeros((12, 5), dtype=np.float32))

    assert found[-1].named() == {
        "dvars_spike": 0.0, "spike_share": 0.0, "constant_voxels": 5.0,
    }  # fmt: skip


@pytest.mark.parametrize("varying", [1, 2, 199, 200])
@pytest.mark.parametrize("level", [900.0, 0.0])
def test_tsnr_is_numpys_median_also_where_means_are_negative(varying, level):
    run = scan(volumes=6)
    run[:, :varying] -= run.mean() - np.float32(level)
    run[:, varying:] = 900.0
    seen = RunQuality(200)
    for index, voxels in enumerate(run):
        said = seen.update(index, voxels)

    state = seen.state()
    mean = state["mean"][:varying]
    deviations = np.sqrt(state["squares"][:varying] / (state["kept"] - 1))
    assert level > 0 or varying < 3 or mean.min() < 0 < mean.max()
    assert said.tsnr == pytest.approx(np.median(mean / deviations), rel=1e-12)
