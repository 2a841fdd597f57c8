"""A recording's trials of one split, estimated as a bundle's server would have."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from runtime.bundle import Bundle, backbone_of
from runtime.errors import RecordingError, UsageError
from runtime.estimator import BetaEstimator, ExternalEstimator
from runtime.preprocess import VoxelMask
from runtime.recording import Recording, open_recording
from runtime.recording_bids import known_subject
from training.data.regions import read_regions, recorded_volumes
from training.features import Progress, trial_betas
from training.metrics.result import Absent
from training.shown import shown_pictures
from training.stimuli import open_stimuli
from verbs.split_trials import WHOLE_MASK, SplitTrials, said_of_shared


def read_trials(
    folder: Path,
    bundle: Bundle,
    split: str,
    on_run: Progress | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> SplitTrials:
    """Estimate the trials of a split as the bundle's server would have.

    Args:
        folder: A BIDS folder with events and pictures.
        bundle: Says which voxels, and how a trial is estimated.
        split: Runs without it are not read.
        on_run: Told after each run.
        say: Told which events are no trials, and of pictures that were trained on.

    Raises:
        UsageError: The bundle decodes volumes, which have no trials, or betas that
            others estimated, or its latents are no images.
        RecordingError: No such split, volumes of another shape than the bundle's, or
            regions of another space than the recording's.
    """
    estimator, backbone = bundle.manifest.estimator, backbone_of(bundle)
    if isinstance(estimator, ExternalEstimator):
        raise UsageError(
            "evaluate --recording: expected a bundle whose betas are estimated here, "
            f"found betas of {estimator.name}. Use --trials."
        )
    if not isinstance(estimator, BetaEstimator):
        raise UsageError(
            "evaluate --bundle: expected a bundle that decodes trials, found one for "
            "volumes. Use --leave-one-run-out for those."
        )
    if backbone is None:
        raise UsageError(
            "evaluate --recording: expected a bundle whose latents are images, found "
            f"backbone {bundle.manifest.backbone.name}. Use --trials."
        )
    stimuli = open_stimuli(folder)
    subject = known_subject(folder, bundle.manifest.subject)
    trials = shown_pictures(open_recording(folder, subject=subject))
    whole = trials.recording
    if left_out := trials.left_out():
        say(left_out)
    runs = tuple(r for r in whole.runs if any(e.split == split for e in r.events))
    if not runs:
        found = sorted({event.split for run in whole.runs for event in run.events})
        raise RecordingError(
            f"{folder}: expected runs of split {split}, found "
            f"{', '.join(filter(None, found)) or 'none'}"
        )
    if shared := said_of_shared(trials.of("train"), trials.of(split), split):
        say(shared)
    mask, reference = VoxelMask.from_volume(bundle.mask), bundle.reference()
    for run in runs:
        if reference is None and run.shape != mask.shape:
            raise RecordingError(
                f"{run.run_id}: expected volumes of {mask.shape} as the bundle's, "
                f"found {run.shape}"
            )
    # Before anything is estimated, which takes long.
    rois, absent = _regions(whole, mask)
    recording = Recording(whole.folder, runs, mask)
    betas = trial_betas(
        recording, estimator, on_run, hrf_index=bundle.hrf_index, reference=reference
    ).select(split)
    rows = [stimuli.row(event.stimulus_id) for event in betas.events]
    images, shown = np.unique(rows, return_inverse=True)
    pictures = stimuli.pixels[images]
    return SplitTrials(
        betas=betas.betas,
        shown=shown.astype(np.int64),
        z_v=np.stack([backbone.tokens_from_image(one) for one in pictures]),
        pictures=pictures,
        names=[stimuli.ids[row] for row in images],
        labels=[stimuli.labels[row] for row in images],
        rois=rois,
        rois_absent=absent,
    )


def _regions(
    whole: Recording, mask: VoxelMask
) -> tuple[dict[str, Bool[np.ndarray, " voxels"]], Absent | None]:
    regions = {WHOLE_MASK: np.ones(mask.voxels, dtype=np.bool_)}
    if whole.mask.sha256 != mask.sha256:
        return regions, Absent("the recording's mask is not the bundle's")
    found = read_regions(recorded_volumes(whole).values(), mask, whole)
    if not found:
        return regions, Absent("the recording holds no rois.nii.gz beside its mask")
    return regions | found, None
