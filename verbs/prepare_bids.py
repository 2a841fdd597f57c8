"""`neuroflow prepare-bids`: recorded runs and pictures to a folder of trials."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from runtime.errors import UsageError
from runtime.estimator import LONGEST_DELAY_S, BetaEstimator
from training.data.bids import open_bids, prepare_bids
from training.data.manifest import Betas
from training.data.regions import chosen_volumes, read_regions, recorded_volumes
from training.data.store import open_trials
from training.data.writer import require_place
from training.visual.stored import StoredLatents
from verbs.prepare_nsd import (
    check_backbone,
    chosen_backbone,
    listed,
    named_backbone,
)
from verbs.progress import screen
from verbs.sealed_places import refuse_inside
from verbs.train import read_estimator


def prepare_bids_trials(
    recording: Path,
    out: Path,
    *,
    betas: Betas,
    delay: float | None,
    estimator_file: Path | None,
    test_runs: Sequence[str],
    subject: str | None = None,
    task: str | None = None,
    trial_types: Sequence[str] = (),
    rois: Sequence[str] = (),
    allow_shared: bool = False,
    latents: Path | None,
    backbone: str | None,
    weights: Path | None,
    device: str,
) -> None:
    """Prepare one participant.

    Raises:
        RecordingError: A file is missing or damaged, or a trial has no picture or z_v.
        ArtifactError: `out` holds something else or is in a folder that lists its
            files, or the weights are missing.
        UsageError: A delay that is impossible, or means nothing for these betas; a
            backbone beside latents, or its options that it does not have; or no such
            volume of regions.
    """
    name = named_backbone(latents, backbone, default="patch_dct")
    check_backbone(latents, name, weights, device)
    if betas == "offline" and delay is not None:
        raise UsageError(
            "--delay: expected with --betas causal alone, found it with offline betas, "
            "which see the whole run"
        )
    estimator = with_delay(read_estimator(estimator_file), delay)
    refuse_inside(out)
    require_place(out)
    with screen() as shown:
        shown.stage("events, mask and pictures")
        trials = open_bids(
            recording,
            test_runs,
            subject=subject,
            task=task,
            trial_types=trial_types,
            allow_shared=allow_shared,
        )
        shown.say(
            f"{len(trials.recording.runs)} runs, {trials.recording.mask.voxels} "
            f"voxels, {len(trials.pictures)} pictures"
        )
        if left_out := trials.shown.left_out():
            shown.say(left_out)
        if shared := trials.shared():
            shown.say(
                f"WARNING: {len(shared)} pictures of the test were trained on: its "
                "figures will not be those of new pictures"
            )
        volumes = chosen_volumes(rois, recorded_volumes(trials.recording))
        regions = read_regions(volumes, trials.recording.mask, trials.recording)
        if regions:
            shown.say(listed(regions))
        manifest = prepare_bids(
            trials,
            out,
            chosen_backbone(name, weights, device)
            if latents is None
            else StoredLatents(latents, trials.pictures),
            estimator,
            betas,
            regions=regions,
            announce=shown.stage,
            say=shown.say,
            count=shown.count,
        )
        open_trials(out)
        shown.stage(f"done: {manifest.betas} betas, z_v from {manifest.visual.name}")
    print(out)


def with_delay(estimator: BetaEstimator, delay: float | None) -> BetaEstimator:
    """Return the estimator at another decision delay.

    Raises:
        UsageError: Not above 0, or beyond an hour.
    """
    if delay is None:
        return estimator
    if not 0 < delay <= LONGEST_DELAY_S:
        raise UsageError(
            f"--delay: expected seconds above 0, {LONGEST_DELAY_S} at most, "
            f"found {delay:g}"
        )
    return msgspec.structs.replace(estimator, decision_delay_s=delay)
