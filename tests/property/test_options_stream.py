"""With every option of an estimator, volume by volume is the whole run at once.

The whole-run side shares no code with `runtime`: spikes by a loop over differences,
smoothing by scipy's filter, betas by `tests.lss`.
"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from scipy.ndimage import gaussian_filter

from runtime.answers import RunGeometry, Trial
from runtime.estimator import BetaEstimator, VolumeEstimator
from runtime.frontend import BetaFrontend, VolumeFrontend
from runtime.preprocess import CausalStatistics, Hrf
from tests.lss import trial_beta
from tests.participants import SHAPE, mask, scanned

TR_S, VOXEL_MM = 1.5, (2.0, 2.0, 2.5)
SLICES_S = (0.0, 0.9, 0.45)
PEAKS_S = (6.0, 4.5)
NAMES = ("motion", "breath")


def spikes_of(rows, order, ratio):
    """The documented rule: against the last volume kept, over the past's changes."""
    last, changes, spikes, in_a_row = None, [], [], 0
    for index in order:
        x = rows[index].astype(np.float64)
        change = None if last is None else np.mean((x - last) ** 2)
        is_large = len(changes) >= 5 and np.sqrt(change / np.mean(changes)) > ratio
        if is_large and in_a_row < 3:
            spikes.append(index)
            in_a_row += 1
            continue
        if change is not None and not is_large:
            changes.append(change)
        last, in_a_row = x, 0
    return spikes


def smoothed(rows, fwhm_mm):
    sigmas = [0, *(fwhm_mm / 2.3548200450309493 / np.array(VOXEL_MM))]
    inside = mask().volume()
    volumes = np.stack([mask().scatter(row) for row in rows]).astype(np.float64)
    kernel = {"mode": "constant", "truncate": 12}
    weight = gaussian_filter(inside[None].astype(np.float64), sigmas, **kernel)
    return (gaussian_filter(volumes, sigmas, **kernel) / weight)[:, inside]


@st.composite
def runs(draw):
    volumes = draw(st.integers(20, 50))
    run = scanned(volumes, seed=draw(st.integers(0, 50))).astype(np.float32)
    for index in draw(st.sets(st.integers(8, volumes - 1), max_size=3)):
        run[index] *= np.float32(1.3)
    missing = draw(st.sets(st.integers(0, volumes - 1), max_size=3))
    taken = [i for i in range(volumes) if i not in missing]
    return run, taken


@st.composite
def estimators(draw):
    def either(value):
        return draw(st.sampled_from([UNSET, value]))

    return BetaEstimator(
        decision_delay_s=7.0,
        baseline_volumes=4,
        drift_cutoff_s=40.0,
        smoothing_fwhm_mm=either(4.0),
        spike_ratio=either(1.5),
        has_slice_times=either(True),
        hrf_library=either(tuple(Hrf(peak_s=peak_s) for peak_s in PEAKS_S)),
        confounds=either(NAMES),
    )


@settings(max_examples=15, deadline=None)
@given(runs(), estimators())
def test_a_streamed_beta_is_the_batch_solution_whatever_the_options(drawn, estimator):
    run, taken = drawn
    volumes, voxels = len(run), mask().voxels
    confounds = np.random.default_rng(5).standard_normal((volumes, 2)).cumsum(axis=0)
    trials = [Trial(f"t{k}", 6.2 + 5.1 * k, 1.7) for k in range(9)]
    trials = [t for t in trials if t.onset_s < volumes * TR_S]
    hrf_index = np.arange(voxels) % 2
    frontend = BetaFrontend(
        mask(),
        estimator,
        RunGeometry("run", SHAPE, TR_S, volumes, slice_times_s=SLICES_S),
        voxel_mm=VOXEL_MM,
        hrf_index=hrf_index,
    )
    for trial in trials:
        frontend.add_trial(trial)
    found = {}
    for index in range(volumes):
        due = (
            frontend.add_volume(
                index, run[index], dict(zip(NAMES, confounds[index], strict=True))
            )
            if index in taken
            else frontend.skip_volume(index)
        )
        found |= {entry.trial.trial_id: (index, entry.beta) for entry in due}

    rows = np.stack([mask().select(volume) for volume in run])
    kept = taken
    if estimator.spike_ratio is not UNSET:
        spikes = spikes_of(rows, taken, estimator.spike_ratio)
        kept = [i for i in taken if i not in spikes]
    if estimator.smoothing_fwhm_mm is not UNSET:
        rows = smoothed(rows, estimator.smoothing_fwhm_mm).astype(np.float32)
    z = np.nonzero(mask().volume())[2]
    for trial in trials:
        if trial.trial_id not in found:
            continue
        decision, beta = found[trial.trial_id]
        for voxel in (0, 5, voxels - 1):
            wanted = trial_beta(
                rows[:, [voxel]],
                [i for i in kept if i <= decision],
                trial,
                [t for t in trials if t is not trial],
                estimator,
                TR_S,
                confounds=None if estimator.confounds is UNSET else confounds,
                sample_s=(
                    None if estimator.has_slice_times is UNSET else SLICES_S[z[voxel]]
                ),
                peak_s=(
                    6.0 if estimator.hrf_library is UNSET else PEAKS_S[hrf_index[voxel]]
                ),
            )
            if beta is None:
                continue
            # As in test_streaming_equals_offline: the float32 of percent signal.
            room = 2e-4 * max(1.0, np.abs(wanted[0]), beta.standard_error[voxel])
            assert abs(beta.beta[voxel] - wanted[0]) <= room


@settings(max_examples=12, deadline=None)
@given(runs(), st.sampled_from(["mean", "linear"]), st.booleans(), st.booleans())
def test_streamed_volumes_are_the_formula_on_those_that_count(
    drawn, kind, smooths, drops
):
    run, taken = drawn
    voxels = mask().voxels
    estimator = VolumeEstimator(
        kind=kind,
        prior_weight=6.0,
        smoothing_fwhm_mm=4.0 if smooths else UNSET,
        spike_ratio=1.5 if drops else UNSET,
    )
    statistics = CausalStatistics(
        np.full(voxels, 900, dtype=np.float32), np.full(voxels, 5, dtype=np.float32)
    )
    frontend = VolumeFrontend(
        mask(),
        estimator,
        RunGeometry("run", SHAPE, TR_S, len(run)),
        prior=statistics.prior,
        scale=statistics.scale,
        voxel_mm=VOXEL_MM,
    )

    live = np.stack([frontend.add_volume(i, run[i]) for i in taken])

    rows = np.stack([mask().select(volume) for volume in run])
    spikes = spikes_of(rows, taken, 1.5) if drops else []
    rows = smoothed(rows, 4.0) if smooths else rows.astype(np.float64)
    slope_sd = estimator.slope_sd
    for place, index in enumerate(taken):
        seen = [i for i in taken[: place + 1] if i not in spikes]
        # Ridge regression on level and slope: the prior is six rows of the level.
        columns = 1 if kind == "mean" else 2
        X = np.vander(np.array(seen) / (len(run) - 1), columns, increasing=True)
        precision = np.diag([6.0, 1 / slope_sd**2][:columns])
        prior = np.array([900.0, 0.0])[:columns]
        right = X.T @ rows[seen] + (precision @ prior)[:, None]
        line = np.linalg.solve(X.T @ X + precision, right)
        at = np.array([1.0, index / (len(run) - 1)])[:columns]
        np.testing.assert_allclose(
            live[place], (rows[index] - at @ line) / 5, atol=2e-4, rtol=1e-5
        )
