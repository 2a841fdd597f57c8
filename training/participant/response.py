"""From trials to a noise-free time series: amplitudes, lapses, response functions.

Amplitudes are in percent signal change at the peak of the response to one stimulus.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int16
from scipy import special

from training.participant.design import Run
from training.participant.parameters import (
    ROI_NAMES,
    SUPPRESSOR,
    ParticipantParameters,
)

HRF_DT_S = 0.1
HRF_LENGTH_S = 32.0


@dataclass(frozen=True, slots=True)
class ResponseModel:
    """What one participant's voxels answer.

    Attributes:
        patterns: Mean response to each image, percent.
        trial_factor: Rows span the trial-to-trial patterns; a trial adds a standard
            normal combination of them, percent.
        hrf: Response to one stimulus every `HRF_DT_S` from onset, peak 1.
        hrf_peak_s: Peak of the impulse response.
    """

    patterns: Float64[np.ndarray, "images voxels"]
    trial_factor: Float64[np.ndarray, "rank voxels"]
    hrf: Float64[np.ndarray, "samples voxels"]
    hrf_peak_s: Float64[np.ndarray, " voxels"]


@dataclass(frozen=True, slots=True)
class TrialDraw:
    """The amplitudes that the trials of one run really had."""

    gains: Float64[np.ndarray, " trials"]
    amplitudes: Float64[np.ndarray, "trials voxels"]


def build_response(
    tuned: Float64[np.ndarray, "images voxels"],
    noise_scale: Float64[np.ndarray, " voxels"],
    roi: Int16[np.ndarray, " voxels"],
    p: ParticipantParameters,
    rng: np.random.Generator,
) -> ResponseModel:
    """Scale tuned responses to percent signal and draw the response functions.

    Signal grows with a voxel's noise, as near draining veins, which have much of both.

    Args:
        tuned: Unit-variance responses; columns of the suppressor are 0.
        noise_scale: Residual standard deviation of each voxel, percent.
        roi: Label of each voxel.
        p: The table.
        rng: Source of all draws.
    """
    n_voxels = len(roi)
    visual = roi != ROI_NAMES.index(SUPPRESSOR) + 1
    spread = np.exp(p.signal_ratio_spread * rng.standard_normal(n_voxels))
    amplitude = p.signal_ratio * spread * noise_scale
    shared = p.mean_response_percent * np.sqrt(noise_scale / np.median(noise_scale))
    shared = shared * np.exp(0.2 * rng.standard_normal(n_voxels)) * visual
    specific = _leading(tuned * amplitude / noise_scale, p.signal_rank)
    specific = specific * noise_scale * visual
    peak_s = np.array(p.hrf_peak_s)[roi - 1]
    peak_s = peak_s + p.hrf_peak_sd_s * rng.standard_normal(n_voxels)
    peak_s = np.clip(peak_s, 4.0, 7.0)
    return ResponseModel(
        patterns=specific + shared,
        trial_factor=_trial_factor(specific, p) * visual,
        hrf=stimulus_response(peak_s, p.stimulus_s, p.hrf_undershoot),
        hrf_peak_s=peak_s,
    )


def stimulus_response(
    peak_s: Float64[np.ndarray, " voxels"], stimulus_s: float, undershoot: float
) -> Float64[np.ndarray, "samples voxels"]:
    """Return double-gamma responses to a stimulus of given duration, peak 1.

    Both gammas have scale 1 s; the undershoot peaks 10 s after the response
    (Glover 1999). The stimulus is a boxcar, so this is a difference of the gammas'
    distribution functions.
    """
    times_s = np.arange(0.0, HRF_LENGTH_S + HRF_DT_S / 2, HRF_DT_S)[:, None]

    def rise(times: Float64[np.ndarray, "samples 1"]) -> Float64[np.ndarray, "s v"]:
        t = np.maximum(times, 0.0)
        response = special.gammainc(peak_s + 1, t)
        return np.asarray(response - undershoot * special.gammainc(peak_s + 11, t))

    response = rise(times_s) - rise(times_s - stimulus_s)
    return np.asarray(response / response.max(axis=0))


def draw_trials(
    run: Run, model: ResponseModel, p: ParticipantParameters, rng: np.random.Generator
) -> TrialDraw:
    """Draw what each trial evokes: gain x (mean pattern + trial-to-trial pattern)."""
    n = len(run.trials)
    gains = np.maximum(1 + p.gain_sd * rng.standard_normal(n), 0.0)
    lapsed = rng.uniform(size=n) < p.lapse_probability
    gains = np.where(lapsed, rng.uniform(0, p.lapse_gain_high, n), gains)
    images = [trial.image for trial in run.trials]
    wobble = rng.standard_normal((n, len(model.trial_factor))) @ model.trial_factor
    return TrialDraw(gains, gains[:, None] * (model.patterns[images] + wobble))


def evoked_series(
    run: Run, draw: TrialDraw, model: ResponseModel, tr_s: float
) -> Float32[np.ndarray, "times voxels"]:
    """Add up the responses of a run's trials at the middle of every volume.

    A volume is acquired slice by slice during the repetition time; its middle stands
    for all slices, as it does in the decoder.
    """
    series = np.zeros((run.n_volumes, model.patterns.shape[1]))
    for trial, amplitude in zip(run.trials, draw.amplitudes, strict=True):
        first = math.ceil(trial.onset_s / tr_s - 0.5 - 1e-9)
        last = math.floor((trial.onset_s + HRF_LENGTH_S) / tr_s - 0.5 + 1e-9)
        frames = np.arange(first, min(last + 1, run.n_volumes))
        samples = np.rint(((frames + 0.5) * tr_s - trial.onset_s) / HRF_DT_S).astype(
            int
        )
        series[frames] += amplitude * model.hrf[samples]
    return series.astype(np.float32)


def _leading(
    patterns: Float64[np.ndarray, "images voxels"], rank: int
) -> Float64[np.ndarray, "images voxels"]:
    """Keep the leading directions of centred patterns; zero columns stay zero."""
    left, singular, directions = np.linalg.svd(patterns, full_matrices=False)
    return np.asarray((left[:, :rank] * singular[:rank]) @ directions[:rank])


def _trial_factor(
    specific: Float64[np.ndarray, "images voxels"], p: ParticipantParameters
) -> Float64[np.ndarray, "rank voxels"]:
    """Span trial variability by the signal's own leading directions.

    Its spectrum is the signal's raised to `trial_spectrum_power`: flatter than the
    signal's, so that the leading dimensions are the reliable ones.
    """
    centred = specific - specific.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    rank = min(p.trial_rank, len(singular))
    # A direction's sign is the library's choice and differs with its threads; without
    # a rule, one seed would be another participant on another machine.
    largest = np.abs(directions[:rank]).argmax(axis=1)
    signs = np.sign(directions[np.arange(rank), largest])
    variance = singular[:rank] ** 2 / len(specific)
    own = variance**p.trial_spectrum_power
    scale = np.sqrt(p.trial_variance_ratio * variance.sum() * own / own.sum())
    return np.asarray((scale * signs)[:, None] * directions[:rank])
