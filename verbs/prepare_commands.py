"""The verbs that make trials for training out of raw files.

Part of the command line (`neuroflow.py`): each function parses, and imports its verb
when it is called.
"""

from pathlib import Path
from typing import Literal

import tyro

Backbone = Literal["open_clip", "patch_dct"]
Normalisation = Literal["train", "published-leaky"]
Betas = Literal["causal", "offline"]


def prepare_nsd(
    *,
    nsd: Path,
    subject: int,
    out: Path,
    normalisation: Normalisation = "train",
    roi: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    labels: Path | None = None,
    latents: Path | None = None,
    backbone: Backbone | None = None,
    weights: Path | None = None,
    device: str = "cpu",
) -> None:
    """Prepare a participant of the Natural Scenes Dataset; `train --trials` reads it.

    Args:
        nsd: The dataset's folder, with nsddata, nsddata_betas and nsddata_stimuli.
        subject: From 1 to 8.
        out: The folder to write; what was interrupted goes on from there.
        normalisation: Whether a session's statistics see its training trials alone, or
            all of them as in the published preparation, which leaks the test into them.
        roi: A volume of regions: NAME of the dataset's own, such as prf-visualrois, or
            NAME=FILE; may be repeated. Default: all of its own that are there.
        labels: Table of the pictures' categories, for what is said of these.
        latents: z_v as .npy instead of a backbone.
        backbone: What computes z_v; open_clip where no --latents are given either.
        weights: Local file of the backbone's weights; nothing is downloaded.
        device: Torch device of the backbone.
    """
    from verbs.prepare_nsd import prepare_nsd_trials

    prepare_nsd_trials(
        nsd,
        subject,
        out,
        normalisation=normalisation,
        latents=latents,
        backbone=backbone,
        weights=weights,
        device=device,
        rois=roi,
        labels=labels,
    )


def prepare_bids(
    *,
    recording: Path,
    out: Path,
    betas: Betas = "causal",
    delay: float | None = None,
    estimator: Path | None = None,
    test_run: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    allow_shared_pictures: bool = False,
    subject: str | None = None,
    task: str | None = None,
    trial_type: tuple[str, ...] = (),
    roi: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    latents: Path | None = None,
    backbone: Backbone | None = None,
    weights: Path | None = None,
    device: str = "cpu",
) -> None:
    """Prepare a BIDS recording with events and pictures; `train --trials` reads it.

    Args:
        recording: The folder, with *_bold.nii.gz, events, stimuli and one mask.
        out: The folder to write; what was interrupted goes on from there.
        betas: Estimated as a server would have, or from whole runs for comparison.
        delay: Seconds from a stimulus' onset to its beta; causal betas only.
        estimator: How betas are estimated, as JSON; the default is documented.
        test_run: A run whose trials are the test; may be given several times.
        allow_shared_pictures: A picture may be in training and in the test, which then
            does not tell of new pictures.
        subject: Whose runs, where the folder has several participants (01 or sub-01).
        task: Which task's runs, where the folder has several (look or task-look).
        trial_type: Which events count, by their trial_type; all that show a picture.
        roi: A volume of regions as NAME=FILE; may be repeated. Default: rois.nii.gz
            beside the mask, if it is there.
        latents: z_v as .npy instead of a backbone: a row per picture, by name.
        backbone: What computes z_v; patch_dct where no --latents are given either.
        weights: Local file of the backbone's weights; nothing is downloaded.
        device: Torch device of the backbone.
    """
    from verbs.prepare_bids import prepare_bids_trials

    prepare_bids_trials(
        recording,
        out,
        betas=betas,
        delay=delay,
        estimator_file=estimator,
        test_runs=test_run,
        subject=subject,
        task=task,
        trial_types=trial_type,
        rois=roi,
        allow_shared=allow_shared_pictures,
        latents=latents,
        backbone=backbone,
        weights=weights,
        device=device,
    )
