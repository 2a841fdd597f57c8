"""A BIDS recording with pictures, as one model's training data and its feature space.

Knows the splits (train, calibration, test) that the events name; training sees the
first, confidence is fitted on the second, nothing is fitted on the third.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from runtime.errors import RecordingError
from runtime.estimator import BetaEstimator
from runtime.patch_dct import PatchDct
from runtime.preprocess.feature_space import FeatureSpace
from runtime.preprocess.reference import Reference
from runtime.recording import Recording, open_recording
from training.features import Progress, TrialBetas, reference_of, trial_betas
from training.responses import choose_responses
from training.shown import shown_pictures
from training.stimuli import Stimuli, open_stimuli
from training.trials import TrialSet


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Everything that training and calibration need of one participant."""

    recording: Recording
    stimuli: Stimuli
    backbone: PatchDct
    estimator: BetaEstimator
    space: FeatureSpace
    betas: TrialBetas
    """Of all splits that were asked for, in percent signal."""
    latents: Float32[np.ndarray, "images tokens width"]
    """z_v of every picture."""
    hrf_index: Int64[np.ndarray, " voxels"] | None = None
    """Which response of the estimator's library each voxel has; None without one."""
    reference: Reference | None = None
    """What motion is told against; None without motion."""
    left_out: str = ""
    """Which events are no trials, in words; empty where all are."""
    shared: int = 0
    """Pictures of the test that were trained on."""

    @property
    def subject(self) -> str:
        """Whose recording it is, as BIDS names the participant."""
        return self.recording.subject

    def split(self, name: str) -> TrialSet:
        """Return a split's trials in the model's units."""
        chosen = self.betas.select(name)
        return TrialSet(
            voxels=self.space.to_model(chosen.betas),
            image=self.rows(chosen),
            latents=self.latents,
        )

    def rows(self, trials: TrialBetas) -> Int64[np.ndarray, " trials"]:
        """Return the picture of each trial, as a row of `latents`."""
        rows = [self.stimuli.row(event.stimulus_id) for event in trials.events]
        return np.array(rows, dtype=np.int64)

    def latent_mean(self) -> Float32[np.ndarray, "tokens width"]:
        """Return the mean of z_v over the training pictures, each counted once."""
        return self.split("train").latent_mean()


def open_dataset(
    folder: Path,
    estimator: BetaEstimator,
    backbone: PatchDct,
    *,
    splits: tuple[str, ...] = ("train", "calibration"),
    subject: str | None = None,
    on_run: Progress | None = None,
) -> Dataset:
    """Read a participant and make its features as a live decoder would have.

    Args:
        folder: A BIDS folder with events, a mask and pictures.
        estimator: How a trial's response is estimated, and when.
        backbone: What z_v is.
        splits: Runs of other splits are not read.
        subject: Whose runs, where the folder has several participants.
        on_run: Told after each run.

    Raises:
        RecordingError: Something is missing or damaged, or there is nothing to train.
    """
    stimuli = open_stimuli(folder)
    shown = shown_pictures(open_recording(folder, subject=subject))
    whole = shown.recording
    runs = tuple(
        run for run in whole.runs if any(e.split in splits for e in run.events)
    )
    if not runs:
        raise RecordingError(
            f"{folder}: expected runs of split {' or '.join(splits)}, found none"
        )
    recording = Recording(whole.folder, runs, whole.mask)
    reference = reference_of(recording.runs[0], estimator)
    training = [r for r in runs if any(e.split == "train" for e in r.events)]
    hrf_index = choose_responses(training, recording.mask, estimator, reference)
    betas = trial_betas(
        recording, estimator, on_run, hrf_index=hrf_index, reference=reference
    )
    train = betas.select("train")
    space = FeatureSpace.fit(
        train.betas,
        [event.stimulus_id for event in train.events],
        noise_shrinkage=estimator.noise_shrinkage,
    )
    latents = stimuli.latents(backbone)
    return Dataset(
        recording,
        stimuli,
        backbone,
        estimator,
        space,
        betas,
        latents,
        hrf_index,
        reference,
        shown.left_out(),
        len(shown.of("train") & shown.of("test")),
    )
