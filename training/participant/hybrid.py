"""Hybrid participant: a known signal on the residuals of a real recording.

The residual of a run is what remains of it after its mean, a line and the mean of each
category. To it are added the voxels' real means and lines, and responses to pictures
with the simulated participant's tuning. Noise, drift, shifts and motion are therefore
real; tuning, amplitudes and responses in time are ours.

The recording has one slice and no regions, so its voxels are dealt to regions from
back to front. Its own category responses leave a within-category rest in the residual.
"""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Bool, Float64, Int16, Int64

from runtime.errors import RecordingError, UsageError
from training.participant import design, response, tuning, write
from training.participant.folder import ParticipantFolder, open_participant
from training.participant.parameters import ROI_NAMES, ParticipantParameters


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording in one file with a label and a run per volume."""

    volumes: Int16[np.ndarray, "x y z times"]
    mask: Bool[np.ndarray, "x y z"]
    affine: Float64[np.ndarray, "4 4"]
    labels: Int64[np.ndarray, " times"]
    runs: Int64[np.ndarray, " times"]


def hybrid_table() -> ParticipantParameters:
    """Return the table of the default hybrid on 12 runs of 121 volumes at 2.5 s.

    A run holds 54 trials every 5 s: 8 runs of training, 1 of calibration, 3 of test.
    """
    return ParticipantParameters(
        tr_s=2.5,
        onset_asynchrony_s=5.0,
        baseline_s=12.5,
        tail_s=20.0,
        training_images=216,
        training_repeats=2,
        training_runs=8,
        calibration_images=54,
        calibration_runs=1,
        test_images=54,
        distractor_images=246,
        live_trials=0,
    )


def read_recording(folder: Path) -> Recording:
    """Read ``bold.nii.gz``, ``mask.nii.gz`` and ``attributes.txt`` (label, run).

    Raises:
        RecordingError: A file is missing, or lengths disagree.
    """
    try:
        image = nibabel.load(folder / "bold.nii.gz")
        mask = np.asarray(nibabel.load(folder / "mask.nii.gz").dataobj) > 0
        text = (folder / "attributes.txt").read_text(encoding="utf-8")
    except OSError as error:
        raise RecordingError(
            f"{folder}: expected a recording, found {error}"
        ) from error
    rows = [line.split() for line in text.splitlines() if line.strip()]
    table = np.array([[int(a), int(b)] for a, b in rows], dtype=np.int64)
    volumes = np.asarray(image.dataobj)
    if volumes.shape[:3] != mask.shape or volumes.shape[3] != len(table):
        raise RecordingError(
            f"{folder}: expected {len(table)} volumes of {mask.shape}, "
            f"found {volumes.shape}"
        )
    return Recording(volumes, mask, image.affine, table[:, 0], table[:, 1])


def generate_hybrid(
    out: Path,
    recording: Recording,
    parameters: ParticipantParameters,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> ParticipantFolder:
    """Write a hybrid participant in the simulated participant's layout.

    Args:
        out: Folder to create; must not exist.
        recording: Real volumes; run k of the design gets the noise of its run k.
        parameters: Such as `hybrid_table`; anatomy and noise entries are unused.
        seed: Decides pictures, tuning, order and trial-to-trial patterns.
        progress: Called with (runs done, runs in all).

    Raises:
        UsageError: `out` exists, or the design does not fit the recorded runs.
    """
    if out.exists():
        raise UsageError(f"{out}: expected a new folder, found it there. Remove it.")
    runs = [
        run
        for run in design.build_design(parameters, np.random.default_rng([seed, 4]))
        if run.trials
    ]
    rows = [np.flatnonzero(recording.runs == k) for k in np.unique(recording.runs)]
    if len(runs) != len(rows) or any(
        run.n_volumes > len(row) for run, row in zip(runs, rows, strict=False)
    ):
        raise UsageError(
            f"design: expected {len(rows)} runs of at most {min(map(len, rows))} "
            f"volumes, found {len(runs)} of {max(run.n_volumes for run in runs)}"
        )
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write_hybrid(partial, recording, parameters, seed, runs, rows, progress)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_participant(out)


def residual_of_run(
    series: Float64[np.ndarray, "times voxels"], labels: Int64[np.ndarray, " times"]
) -> Float64[np.ndarray, "times voxels"]:
    """Remove a run's mean, line and category means."""
    columns = [labels == label for label in np.unique(labels)]
    line = np.linspace(-1, 1, len(series))
    known = np.column_stack([*columns, line]).astype(np.float64)
    return np.asarray(series - known @ np.linalg.lstsq(known, series)[0])


def _write_hybrid(
    folder: Path,
    recording: Recording,
    p: ParticipantParameters,
    seed: int,
    runs: list[design.Run],
    rows: list[Int64[np.ndarray, " times"]],
    progress: Callable[[int, int], None] | None,
) -> None:
    subject = f"sub-hyb{seed:03d}"
    stimuli = write.draw_stimuli(p, seed)
    labels = _dealt_rois(recording.mask)
    scale = _residual_percent(recording, rows)
    model = _response(stimuli, labels, scale, p, seed)
    write.write_dataset(folder, subject, "Hybrid participant")
    write.write_stimuli(folder / "stimuli", stimuli)
    write.write_masks(
        folder / "derivatives" / "masks" / subject,
        labels,
        recording.mask,
        recording.affine,
    )
    draws: list[response.TrialDraw] = []
    for done, (run, row) in enumerate(zip(runs, rows, strict=True), start=1):
        rng = np.random.default_rng([seed, 5, run.number])
        draws.append(response.draw_trials(run, model, p, rng))
        evoked = response.evoked_series(run, draws[-1], model, p.tr_s)
        volumes = _hybrid_run(recording, row[: run.n_volumes], evoked)
        write.write_run(folder, subject, run, stimuli, volumes, recording.affine)
        if progress is not None:
            progress(done, len(runs))
    arrays = {
        **write.response_truth(model, draws),
        "noise_scale_percent": scale,
    }
    write.write_truth(folder / "derivatives" / "truth", arrays, p, seed)


def _response(
    stimuli: write.Stimuli,
    labels: Int16[np.ndarray, "x y z"],
    scale: Float64[np.ndarray, " voxels"],
    p: ParticipantParameters,
    seed: int,
) -> response.ResponseModel:
    roi = labels[labels > 0]
    tuned = tuning.response_patterns(
        stimuli.pictures, stimuli.factors, roi, p, np.random.default_rng([seed, 1])
    )
    return response.build_response(
        tuned, scale, roi, p, np.random.default_rng([seed, 2])
    )


def _hybrid_run(
    recording: Recording,
    rows: Int64[np.ndarray, " times"],
    evoked_percent: np.ndarray,
) -> Int16[np.ndarray, "x y z times"]:
    """Take the recorded run's own category responses out, and put ours in."""
    volumes = recording.volumes[..., rows].copy()
    series = volumes[recording.mask].T.astype(np.float64)
    residual = residual_of_run(series, recording.labels[rows])
    line = np.linspace(-1, 1, len(rows))[:, None]
    slow = series.mean(axis=0) + line * (line * series).sum(axis=0) / (line**2).sum()
    hybrid = (slow + residual) * (1 + evoked_percent / 100)
    volumes[recording.mask] = np.clip(np.rint(hybrid), 0, 32767).T
    return volumes


def _residual_percent(
    recording: Recording, rows: list[Int64[np.ndarray, " times"]]
) -> Float64[np.ndarray, " voxels"]:
    """Return each voxel's residual standard deviation in percent of its mean."""
    series = recording.volumes[recording.mask].T.astype(np.float64)
    squares = [
        (residual_of_run(series[row], recording.labels[row]) ** 2).mean(axis=0)
        for row in rows
    ]
    return np.asarray(100 * np.sqrt(np.mean(squares, axis=0)) / series.mean(axis=0))


def _dealt_rois(mask: Bool[np.ndarray, "x y z"]) -> Int16[np.ndarray, "x y z"]:
    """Deal voxels to regions from back (low second index) to front, equal parts."""
    labels = np.zeros(mask.shape, dtype=np.int16)
    voxels = np.argwhere(mask)
    order = np.argsort(voxels[:, 1], kind="stable")
    part = math.ceil(len(order) / len(ROI_NAMES))
    for rank, voxel in enumerate(voxels[order]):
        labels[tuple(voxel)] = rank // part + 1
    return labels
