"""Measure the properties of a participant from the files that were written.

Measured on volumes alone: temporal SNR, drift, components, shift between runs,
autocorrelation. On betas of the volumes: noise ceilings. With the truth's help,
because only the truth knows: displacement (poses), the Bayes ceiling (mean patterns),
the peak of the response (trial amplitudes as regressors), lapses (gains).
Temporal SNR, drift, components and shift are defined so that the Haxby recording,
measured in the same way, gives 36 / 117 / 170, .19, .42 and 2.8.
"""

from dataclasses import dataclass

import nibabel
import numpy as np
from jaxtyping import Float64, Int64
from scipy import linalg

from training.participant import ceiling, motion, offline
from training.participant.folder import ParticipantFolder, RunFiles
from training.participant.parameters import SUPPRESSOR

_FIR_SAMPLES = 21
_PEAK_GROUPS = 5


@dataclass(frozen=True, slots=True)
class RunBetas:
    """Betas of all runs of a split, centred by run, and what was shown."""

    betas: Float64[np.ndarray, "trials voxels"]
    images: Int64[np.ndarray, " trials"]


def measure_properties(folder: ParticipantFolder) -> dict[str, float]:
    """Measure every property in `parameters.PROPERTIES` on one participant.

    Single-trial betas are whole-run least squares separate, centred by run.
    """
    return {
        **measure_series(folder),
        **measure_motion(folder),
        **measure_ceilings(folder),
        **measure_truth(folder),
    }


def measure_series(folder: ParticipantFolder) -> dict[str, float]:
    """Measure temporal SNR, drift, components, shift and AR(1) on the long runs."""
    runs = [run for run in folder.runs if run.split != "live"]
    tsnr, drift, ar1, means, residuals = [], [], [], [], []
    for run in runs:
        series = offline.masked_series(folder, run)
        residual = _residual(series, run)
        tsnr.append(series.mean(axis=0) / residual.std(axis=0))
        drift.append(_linear_share(series))
        ar1.append((residual[1:] * residual[:-1]).sum(0) / (residual**2).sum(0))
        means.append(series.mean(axis=0))
        residuals.append(residual)
    joined = np.concatenate(residuals)
    deviation = joined.std(axis=0)
    low, median, high = np.percentile(tsnr, [10, 50, 90])
    return {
        "tsnr_p10": float(low),
        "tsnr_median": float(median),
        "tsnr_p90": float(high),
        "drift_share": float(np.mean(drift)),
        "components_20_share": _leading_share(joined / deviation, 20),
        "run_shift_sd": _mean_pair_distance(np.stack(means) / deviation),
        "ar1": float(np.median(ar1)),
    }


def measure_motion(folder: ParticipantFolder) -> dict[str, float]:
    """Return framewise displacement of the written poses.

    A volume shows the mean of the poses at its two ends.
    """
    poses, first, steps = folder.truth()["poses"], 0, []
    for run in folder.runs:
        n = nibabel.load(run.bold).shape[3]
        ends = poses[first : first + n]
        steps.append(motion.framewise_displacement((ends[1:] + ends[:-1]) / 2))
        first += n
    joined = np.concatenate(steps)
    return {
        "displacement_mean_mm": float(joined.mean()),
        "displacement_max_mm": float(joined.max()),
    }


def measure_ceilings(
    folder: ParticipantFolder, delay_s: float | None = None
) -> dict[str, float]:
    """Measure noise ceilings of visual voxels and the Bayes ceiling of the gallery.

    Args:
        folder: A participant with truth.
        delay_s: As in `offline.run_betas`.
    """
    truth, p = folder.truth(), folder.parameters()
    train = split_betas(folder, "train", delay_s)
    test = split_betas(folder, "test", delay_s)
    visual = np.array([name != SUPPRESSOR for name in folder.roi_names()])
    ceilings = {
        name: float(ceiling.noise_ceiling(train.betas, train.images, n)[visual].mean())
        for name, n in (("noise_ceiling_three", 3), ("noise_ceiling_one", 1))
    }
    noise = truth["noise_loadings"] * truth["noise_scale_percent"]
    model = ceiling.fit_beta_model(
        train.betas,
        truth["patterns"][train.images],
        (truth["trial_factor"], noise),
    )
    lapses = ceiling.Lapses(p.lapse_probability, p.lapse_gain_high, p.gain_sd)
    gallery = np.array(folder.gallery())
    found = ceiling.decoding_ceiling(
        test.betas,
        np.searchsorted(gallery, test.images),
        truth["patterns"][gallery],
        model,
        lapses,
    )
    return {
        **ceilings,
        "bayes_single": float(found.single.mean()),
        "bayes_three": float(found.joint.mean()),
    }


def measure_truth(folder: ParticipantFolder) -> dict[str, float]:
    """Measure the responses' peaks (truth's amplitudes, written volumes) and lapses."""
    peaks_s = response_peaks(folder)
    gains = folder.truth()["trial_gains"]
    return {
        "hrf_peak_low_s": float(peaks_s[0]),
        "hrf_peak_high_s": float(peaks_s[-1]),
        "lapse_share": float((gains <= folder.parameters().lapse_gain_high).mean()),
    }


def split_betas(
    folder: ParticipantFolder, split: str, delay_s: float | None = None
) -> RunBetas:
    """Estimate the betas of a split; each run's mean becomes the mean of all runs."""
    betas = [offline.run_betas(folder, run, delay_s) for run in folder.runs_of(split)]
    mean = np.mean([b.mean(axis=0) for b in betas], axis=0)
    images = [event.image for run in folder.runs_of(split) for event in run.events]
    return RunBetas(
        np.concatenate([b - b.mean(axis=0) + mean for b in betas]), np.array(images)
    )


def response_peaks(folder: ParticipantFolder) -> Float64[np.ndarray, " groups"]:
    """Return the impulse response's peak in groups of voxels, in s after onset.

    Visual voxels are grouped by their true peak; within a group one finite impulse
    response is fitted to the training runs with the trials' true amplitudes, and half
    the stimulus is taken off its peak; a volume stands for its middle.
    """
    truth, runs = folder.truth(), folder.runs_of("train")
    visual = np.array([name != SUPPRESSOR for name in folder.roi_names()])
    peak_s = np.where(visual, truth["hrf_peak_s"], np.nan)
    edges = np.nanquantile(peak_s, np.linspace(0, 1, _PEAK_GROUPS + 1)[1:-1])
    groups = [
        np.flatnonzero(visual & (np.digitize(peak_s, edges) == k))
        for k in range(_PEAK_GROUPS)
    ]
    n = _FIR_SAMPLES
    gram, moment = np.zeros((len(groups), n, n)), np.zeros((len(groups), n))
    for run in runs:
        amplitude = truth["trial_amplitudes"][[e.trial_id for e in run.events]]
        percent = _percent_residual(folder, run) / truth["noise_scale_percent"]
        scaled = (amplitude - amplitude.mean(axis=0)) / truth["noise_scale_percent"]
        lagged = _lagged(scaled, run, len(percent))
        for k, group in enumerate(groups):
            block = lagged[:, :, group].reshape(n, -1)
            gram[k] += block @ block.T
            moment[k] += block @ percent[:, group].ravel()
    responses = np.linalg.solve(gram, moment[..., None])[..., 0]
    half_s, tr_s = runs[0].events[0].duration_s / 2, runs[0].tr_s
    return np.array([(_peak(r) + 0.5) * tr_s - half_s for r in responses])


def _residual(
    series: Float64[np.ndarray, "times voxels"], run: RunFiles
) -> Float64[np.ndarray, "times voxels"]:
    """Remove slow cosines and one response per category."""
    n = len(series)
    responses = offline.trial_regressors([e.onset_s for e in run.events], n, run.tr_s)
    names = [e.category for e in run.events]
    categories = np.stack(
        [responses[:, np.array(names) == c].sum(axis=1) for c in sorted(set(names))],
        axis=1,
    )
    design = np.concatenate([_slow_cosines(n), categories], axis=1)
    return np.asarray(series - design @ linalg.lstsq(design, series)[0])


def _slow_cosines(n: int) -> Float64[np.ndarray, "times columns"]:
    """Return a constant and four cosines, as for a Haxby run."""
    phase = np.pi * (np.arange(n)[:, None] + 0.5) / n
    return np.asarray(np.cos(phase * np.arange(5)))


def _linear_share(series: Float64[np.ndarray, "times voxels"]) -> float:
    """Return the share of a run's variance on a line, mean over voxels."""
    line = np.linspace(-1, 1, len(series))
    centred = series - series.mean(axis=0)
    explained = (line @ centred) ** 2 / (line @ line)
    return float((explained / (centred**2).sum(axis=0)).mean())


def _leading_share(samples: Float64[np.ndarray, "times voxels"], count: int) -> float:
    eigenvalues = np.linalg.eigvalsh(samples.T @ samples)
    return float(eigenvalues[-count:].sum() / eigenvalues.sum())


def _mean_pair_distance(means: Float64[np.ndarray, "runs voxels"]) -> float:
    """Return the mean absolute difference of two runs' means."""
    first, second = np.triu_indices(len(means), 1)
    return float(np.abs(means[first] - means[second]).mean())


def _percent_residual(
    folder: ParticipantFolder, run: RunFiles
) -> Float64[np.ndarray, "times voxels"]:
    series = offline.masked_series(folder, run)
    basis, _ = np.linalg.qr(offline.drift_basis(len(series), run.tr_s))
    percent = 100 * series / series.mean(axis=0)
    return np.asarray(percent - basis @ (basis.T @ percent))


def _lagged(
    amplitude: Float64[np.ndarray, "trials voxels"], run: RunFiles, n: int
) -> Float64[np.ndarray, "lags times voxels"]:
    """Place trial amplitudes at onset plus each lag."""
    out = np.zeros((_FIR_SAMPLES, n, amplitude.shape[1]))
    first = np.array([round(e.onset_s / run.tr_s) for e in run.events])
    for lag in range(_FIR_SAMPLES):
        inside = first + lag < n
        out[lag, first[inside] + lag] = amplitude[inside]
    return out


def _peak(response: Float64[np.ndarray, " samples"]) -> float:
    """Return where a parabola through the highest sample and its neighbours peaks."""
    k = int(np.clip(response.argmax(), 1, len(response) - 2))
    before, here, after = response[k - 1 : k + 2]
    return k + 0.5 * float((before - after) / (before - 2 * here + after))
