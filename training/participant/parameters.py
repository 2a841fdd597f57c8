"""The one table of the simulated participant, and what it must look like from outside.

Nothing else in this package holds a constant that someone could dispute. The table
is frozen: `table_hash` of the default table is committed in `FROZEN_SHA256` and in
``docs/participant.md``, so that a changed table is seen and every figure is rerun.
"""

import hashlib
from dataclasses import dataclass

import msgspec

ROI_NAMES = ("V1", "V2", "V3", "hV4", "LO", "FFA", "PPA", "SUP")
EARLY_ROIS = ("V1", "V2", "V3")
SUPPRESSOR = "SUP"
FROZEN_SHA256 = "487d7ab1e7fcbaa3ead76fcddc0533d93802c777ab1648653d033b4d7475eaaf"


class ParticipantParameters(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Everything that decides how a participant and the recording come out.

    "[M]" is measured on the Haxby recording; "tuned" means chosen so that the
    properties in `PROPERTIES` hold, before any model was trained.
    """

    image_size_px: int = 32
    """Side of a stimulus; small, so that training takes minutes."""
    supersampling: int = 4
    """Stimuli are drawn this much larger and averaged down."""
    training_images: int = 400
    """Different training images."""
    training_repeats: int = 3
    """Showings of each, in different runs (NSD, Allen et al. 2022)."""
    training_runs: int = 12
    """Runs that hold the training trials, equally long."""
    calibration_images: int = 200
    """Images shown once each in runs kept for calibrating confidence."""
    calibration_runs: int = 2
    """Runs of calibration images."""
    test_images: int = 100
    """Held-out images that are shown."""
    test_repeats: int = 3
    """Showings of each test image, one in every test run (NSD)."""
    distractor_images: int = 200
    """Images in the gallery that are never shown; 100 + 200 make 1 of 300."""
    live_trials: int = 16
    """Trials of the short run that a demonstration plays: 90 volumes."""
    live_tail_s: float = 14.0
    """Rest after the last trial slot of the live run."""

    tr_s: float = 1.0
    """Repetition time; within the 0.5 to 2 s that the system serves."""
    onset_asynchrony_s: float = 4.0
    """Time between onsets; responses overlap (NSD: 4 s)."""
    stimulus_s: float = 2.0
    """Stimulus duration (NSD: 3 s; shorter here keeps the rest between visible)."""
    baseline_s: float = 12.0
    """Rest before the first trial, from which a causal baseline is taken."""
    tail_s: float = 16.0
    """Rest after the last trial slot (NSD: 16 s of blank trials)."""

    grid: tuple[int, int, int] = (20, 24, 14)
    """Voxels of the acquired volume."""
    voxel_mm: float = 3.0
    """Isotropic voxel size."""
    fine_factor: int = 2
    """Fine phantom's voxels per acquired voxel and axis; motion resamples these."""
    margin_voxels: int = 2
    """Acquired voxels by which the fine phantom exceeds the field of view."""
    intensity_low: float = 600.0
    """Lowest brain intensity; int16 units as scanners export them."""
    intensity_high: float = 1200.0
    """Highest brain intensity."""
    background: float = 18.0
    """Standard deviation of the magnitude noise outside the head, int16 units."""
    anatomy_smoothness_mm: float = 7.0
    """Sigma of the anatomical texture; sets the edges that motion turns to noise."""
    roi_voxels: tuple[int, ...] = (180, 150, 130, 100, 120, 80, 80, 100)
    """Voxels of V1, V2, V3, hV4, LO, FFA, PPA, SUP, both hemispheres together."""

    prf_sigma: tuple[float, float, float] = (0.12, 0.18, 0.26)
    """Receptive field radius in V1, V2, V3, in half image widths; grows along the
    hierarchy (Dumoulin and Wandell 2008)."""
    energy_weight: float = 0.35
    """Weight of contrast energy beside luminance and colour in V1 to V3; tuned so
    that the leading dimensions of the code are linear in the picture."""
    late_units: int = 96
    """Hidden units of the fixed random tuning of the late areas."""
    mean_response_percent: float = 1.0
    """Peak response that all images share; about 1 % at 3 T (textbook)."""
    signal_ratio: float = 0.4
    """Spread over images of a voxel's response, in residual standard deviations of
    that voxel's time series; tuned for the noise ceiling."""
    signal_ratio_spread: float = 0.3
    """Log-normal spread of `signal_ratio` over voxels."""
    signal_rank: int = 30
    """Dimensions of the population code, after which tuning is cut off; tuned for
    the Bayes ceiling, as small white noise elsewhere would make it 1."""
    trial_variance_ratio: float = 0.45
    """Variance of trial-to-trial patterns inside the signal space over the variance
    of the signal; tuned for the Bayes ceiling."""
    trial_spectrum_power: float = 0.5
    """Spectrum of the trial-to-trial patterns, as a power of the signal's: 1 is the
    same, 0 is flat; below 1 the leading dimensions are the most reliable."""
    trial_rank: int = 30
    """Dimensions of the trial-to-trial patterns, the leading ones of the signal."""
    gain_sd: float = 0.08
    """Spread of the gain of attended trials about 1."""
    lapse_probability: float = 0.07
    """Share of trials in which attention lapsed; 5 to 10 %."""
    lapse_gain_high: float = 0.3
    """Gain in a lapse is uniform between 0 and this."""

    hrf_peak_s: tuple[float, ...] = (4.4, 4.5, 4.6, 5.0, 5.3, 5.8, 5.8, 5.0)
    """Mean time to peak of each ROI's impulse response."""
    hrf_peak_sd_s: float = 0.35
    """Spread of the time to peak over voxels of an ROI, clipped to 4 to 7 s."""
    hrf_undershoot: float = 1.0 / 6.0
    """Undershoot over peak (Glover 1999, SPM's canonical form)."""
    canonical_peak_s: float = 5.0
    """Peak of the one response function that a decoder assumes."""

    tsnr_quantiles: tuple[float, ...] = (20.0, 37.5, 130.0, 188.0, 230.0)
    """Temporal SNR of the noise alone at quantiles 0, .1, .5, .9, 1 of the voxels;
    with responses and motion it comes to 35, 114, 167 (Haxby [M])."""
    component_count: int = 20
    """Spatially smooth noise components besides the global one."""
    component_share: float = 0.25
    """Share of a voxel's noise in those components; tuned so that, with responses
    that no category explains, the first 20 principal components hold 39 %
    (Haxby [M])."""
    global_share: float = 0.03
    """Share of the residual variance in the global component."""
    component_smoothness_mm: float = 8.0
    """Sigma of the noise components' spatial maps."""
    component_ar: float = 0.3
    """AR(1) coefficient of component time courses at one second."""
    voxel_ar_share: float = 0.25
    """Mean share of a voxel's own noise that is autocorrelated; varies by voxel."""
    voxel_ar: float = 0.45
    """AR(1) coefficient of that part at one second."""
    drift_ratio: float = 0.85
    """Standard deviation of drift over residual; tuned for 20 % (Haxby [M])."""
    run_shift_ratio: float = 2.9
    """Spread over runs of a voxel's mean, in residual standard deviations."""

    displacement_mm: tuple[float, float] = (0.11, 0.16)
    """Range over runs of mean framewise displacement without spikes
    (Power et al. 2012, rotations on a sphere of 50 mm)."""
    spikes_per_run: float = 2.0
    """Mean number of sudden movements in a run of 400 s."""
    spike_mm: tuple[float, float] = (0.55, 1.2)
    """Range of a spike's displacement."""
    pose_drift_mm: float = 0.15
    """Spread of the slow change of pose by the end of a run, per axis."""
    run_pose_mm: float = 0.1
    """Spread of the pose between runs, per axis."""


@dataclass(frozen=True, slots=True)
class PropertyTarget:
    """A range that a measured property of the default participant must lie in."""

    name: str
    low: float
    high: float
    source: str


PROPERTIES = (
    PropertyTarget("noise_ceiling_three", 0.24, 0.36, "NSD, third-party summary"),
    PropertyTarget("noise_ceiling_one", 0.10, 0.16, "NSD, third-party summary"),
    PropertyTarget("bayes_single", 0.4, 0.8, "published raw retrieval .81"),
    PropertyTarget("bayes_three", 0.8, 0.95, "published raw retrieval .81"),
    PropertyTarget("tsnr_p10", 30.0, 40.0, "Haxby, measured: 35"),
    PropertyTarget("tsnr_median", 105.0, 123.0, "Haxby, measured: 114"),
    PropertyTarget("tsnr_p90", 155.0, 179.0, "Haxby, measured: 167"),
    PropertyTarget("drift_share", 0.15, 0.25, "Haxby, measured: .20"),
    PropertyTarget("components_20_share", 0.34, 0.44, "Haxby, measured: .39"),
    PropertyTarget("run_shift_sd", 2.2, 3.2, "Haxby, measured: 2.7"),
    PropertyTarget("ar1", 0.2, 0.5, "textbook, TR 1 to 1.6 s"),
    PropertyTarget("displacement_mean_mm", 0.1, 0.2, "textbook"),
    PropertyTarget("displacement_max_mm", 0.5, 3.0, "textbook"),
    PropertyTarget("hrf_peak_low_s", 4.0, 5.0, "textbook: 4 to 7 s"),
    PropertyTarget("hrf_peak_high_s", 5.5, 7.0, "textbook: 4 to 7 s"),
    PropertyTarget("lapse_share", 0.05, 0.10, "attention lapses, 5 to 10 %"),
)


def table_hash(parameters: ParticipantParameters) -> str:
    """Hash a table's canonical JSON (sorted keys, no spaces) with SHA-256."""
    text = msgspec.json.encode(parameters, order="sorted")
    return hashlib.sha256(text).hexdigest()


def tiny() -> ParticipantParameters:
    """Build a table for tests: the same physics with few images and voxels."""
    return ParticipantParameters(
        training_images=24,
        training_runs=3,
        calibration_images=12,
        calibration_runs=1,
        test_images=12,
        distractor_images=12,
        live_trials=6,
        grid=(14, 16, 9),
        roi_voxels=(20, 16, 14, 12, 14, 10, 10, 12),
        component_count=6,
        signal_rank=16,
        trial_rank=16,
    )
