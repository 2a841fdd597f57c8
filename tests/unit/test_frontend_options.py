"""What an estimator may ask for, what a volume may be, and what is said of both."""

import numpy as np
import pytest
from msgspec import structs

from runtime.answers import Trial
from runtime.errors import ConfigError, TensorMismatchError
from runtime.estimator import VolumeEstimator
from runtime.frontend import EARLIEST, BetaFrontend, VolumeFrontend
from runtime.intake import SPIKE_NOT_USED
from runtime.preprocess import CausalNormaliser, CausalStatistics, Hrf
from tests.participants import BETAS, TR_S, TRIALS, geometry, mask, scanned


def asking(**options):
    return structs.replace(BETAS, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"smoothing_fwhm_mm": 4.0},
            "smoothing_fwhm_mm: expected the voxels' size in mm, found none. "
            "Give the recording or the bundle an affine",
        ),
        (
            {"has_slice_times": True},
            "run run-1: expected the times of its slices, which the estimator asks "
            "for, found none. Announce them with the run",
        ),
        (
            {"hrf_library": (Hrf(), Hrf(peak_s=5.0))},
            "hrf_library: expected which of 2 responses each voxel has, found no "
            "choice. Choose them in training runs",
        ),
    ],
)
def test_what_an_estimator_asks_for_has_to_be_there(options, message):
    with pytest.raises(ConfigError) as error:
        BetaFrontend(mask(), asking(**options), geometry())

    assert str(error.value) == message


@pytest.mark.parametrize(
    ("confounds", "message"),
    [
        (None, "confounds: expected fd, breath with every volume, found no fd, breath"),
        ({"fd": 1.0}, "confounds: expected fd, breath with every volume, "
                      "found no breath"),
        ({"fd": 1.0, "breath": np.nan},
         "confounds: expected finite values, found 1 that are not"),
    ],
)  # fmt: skip
def test_confounds_that_are_not_given_cost_that_volume_only(confounds, message):
    frontend = BetaFrontend(mask(), asking(confounds=("fd", "breath")), geometry())
    volumes = scanned()

    with pytest.raises(TensorMismatchError) as error:
        frontend.add_volume(0, volumes[0], confounds)

    assert str(error.value) == message
    more = {"fd": 0.0, "breath": 2.0, "of_no_interest": np.nan}
    assert frontend.add_volume(0, volumes[0], more) == []


@pytest.mark.parametrize("drops", [True, False])
def test_a_broken_volume_is_flagged_and_dropped_where_the_estimator_says_so(drops):
    estimator = asking(spike_ratio=1.5) if drops else BETAS
    frontend = BetaFrontend(mask(), estimator, geometry())
    frontend.add_trial(TRIALS[4])
    volumes = scanned()
    volumes[20] = volumes[20] * 1.3

    due = []
    for index, volume in enumerate(volumes):
        due += frontend.add_volume(index, volume)
        is_broken = index == 20
        assert frontend.quality()["dvars_spike"] == float(is_broken)
        dropped = (SPIKE_NOT_USED,) if is_broken and drops else ()
        assert frontend.degraded() == dropped

    last = due[0].beta.last_volume_index
    lost = drops and last > 20
    assert due[0].beta.volumes_used == last + 1 - BETAS.baseline_volumes - lost


def test_a_spike_is_normalised_by_the_centre_of_the_volumes_before_it():
    voxels = mask().voxels
    statistics = CausalStatistics(
        np.full(voxels, 900, dtype=np.float32), np.full(voxels, 4, dtype=np.float32)
    )
    with_it, without = (CausalNormaliser(statistics, 10) for _ in range(2))
    rows = [mask().select(volume) for volume in scanned(3)]
    for both in (with_it, without):
        both.update(rows[0])

    spike = with_it.update(rows[1] * np.float32(2), 1, is_outlier=True)

    centre = (20 * 900 + rows[0].astype(np.float64)) / 21
    np.testing.assert_allclose(spike, (2 * rows[1] - centre) / 4, rtol=1e-6)
    np.testing.assert_array_equal(
        with_it.update(rows[2], 2), without.update(rows[2], 2)
    )


def test_volumes_and_betas_are_published_with_their_quality():
    voxels = mask().voxels
    frontend = VolumeFrontend(
        mask(),
        VolumeEstimator(),
        geometry(),
        prior=np.zeros(voxels, dtype=np.float32),
        scale=np.ones(voxels, dtype=np.float32),
    )
    for index, volume in enumerate(scanned(8)):
        frontend.add_volume(index, volume)

    assert set(frontend.quality()) == {
        "tsnr", "dvars_percent", "dvars_standardised", "dvars_spike", "spike_share",
        "drift_percent", "constant_voxels",
    }  # fmt: skip


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_decoded_voxel_that_is_no_number_is_refused_and_changes_nothing(bad):
    volumes = scanned().astype(np.float32)
    frontend, untouched = (BetaFrontend(mask(), BETAS, geometry()) for _ in range(2))
    for index, volume in enumerate(volumes):
        broken = volume.copy()
        broken[0, 0, 0] = bad
        with pytest.raises(TensorMismatchError) as error:
            frontend.add_volume(index, broken)
        frontend.add_volume(index, volume)
        untouched.add_volume(index, volume)
        assert frontend.quality() == untouched.quality()

    assert str(error.value) == "voxels: expected finite values, found 1 that are not"


def test_a_voxel_that_is_no_number_outside_the_mask_is_not_looked_at():
    volume = scanned(1)[0].astype(np.float32)
    volume[3, 2, 2] = np.nan
    frontend = BetaFrontend(mask(), BETAS, geometry())

    assert frontend.add_volume(0, volume) == []


def test_constant_voxels_and_voxels_without_signal_are_counted_and_decoded_as_zero():
    volumes = scanned()
    volumes[:, 0, 0, 0] = 700
    x, y, z = np.argwhere(mask().volume())[5]
    volumes[:, x, y, z] = 0
    frontend = BetaFrontend(mask(), BETAS, geometry())
    frontend.add_trial(TRIALS[4])
    due = []
    for index, volume in enumerate(volumes):
        due += frontend.add_volume(index, volume)

    assert frontend.quality()["constant_voxels"] == 2.0
    assert frontend.quality()["invalid_voxels"] == 1.0
    assert due[0].beta.beta[[0, 5]].tolist() == [0.0, 0.0]
    assert np.isfinite(due[0].beta.beta).all()


def test_an_event_of_the_future_is_one_answer_later_and_no_answer_earlier():
    volumes = scanned()
    ahead, live = (BetaFrontend(mask(), BETAS, geometry()) for _ in range(2))
    for trial in TRIALS[:3]:
        ahead.add_trial(trial)
    beyond = Trial("beyond", 1000.0 * TR_S, 2.0)
    ahead.add_trial(beyond)
    waiting, found = [*TRIALS[:3]], ([], [])
    for index, volume in enumerate(volumes):
        while waiting and waiting[0].onset_s <= (index + 1) * TR_S:
            live.add_trial(waiting.pop(0))
        for one, frontend in zip(found, (ahead, live), strict=True):
            one.extend(frontend.add_volume(index, volume))

    assert len(found[0]) == 3
    for one, other in zip(*found, strict=True):
        assert one.beta.beta.tobytes() == other.beta.beta.tobytes()
    assert ahead.undecided() == [beyond]


def test_an_estimate_before_its_time_is_that_of_the_volumes_so_far():
    frontend = BetaFrontend(mask(), BETAS, geometry())
    frontend.add_trial(TRIALS[4])
    twin = BetaFrontend(mask(), BETAS, geometry())
    twin.add_trial(TRIALS[4])
    early, final, undisturbed = [], [], []
    for index, volume in enumerate(scanned()):
        final += frontend.add_volume(index, volume)
        undisturbed += twin.add_volume(index, volume)
        early.append(frontend.early(TRIALS[4].trial_id))
    known = [one for one in early if one is not None]

    assert len(final) == 1
    assert final[0].beta.beta.tobytes() == undisturbed[0].beta.beta.tobytes()
    assert frontend.early("unknown") is None
    assert early[-1] is None  # it is due: there is a final one
    assert known[0].delay_s >= EARLIEST * BETAS.decision_delay_s
    assert {one.trial_id for one in known} == {TRIALS[4].trial_id}
    assert [one.delay_s for one in known] == sorted(one.delay_s for one in known)
    assert known[-1].delay_s < final[0].beta.delay_s
    assert known[-1].standard_error.mean() > final[0].beta.standard_error.mean()
