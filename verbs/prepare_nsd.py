"""`neuroflow prepare-nsd`: the dataset's files to a folder of trials."""

from collections.abc import Sequence
from pathlib import Path

import torch

from runtime.errors import UsageError
from training.data.nsd import Variant, open_nsd, prepare_nsd
from training.data.nsd_labels import read_labels
from training.data.nsd_latents import (
    LatentsOf,
    SharedPictures,
    brick_length,
    latents_of_backbone,
    latents_of_file,
)
from training.data.nsd_regions import nsd_volumes
from training.data.regions import Regions, chosen_volumes, read_regions
from training.data.store import open_trials
from training.visual.backbone import PatchDctBackbone, VisualBackbone
from training.visual.open_clip import OpenClipBackbone
from verbs.progress import screen
from verbs.sealed_places import refuse_inside


def prepare_nsd_trials(
    nsd: Path,
    subject: int,
    out: Path,
    *,
    normalisation: Variant,
    latents: Path | None,
    backbone: str | None,
    weights: Path | None,
    device: str,
    rois: Sequence[str] = (),
    labels: Path | None = None,
) -> None:
    """Prepare one participant, or go on with what was begun.

    Raises:
        RecordingError: A file of the dataset is missing, damaged or contradicts others.
        ArtifactError: `out` holds something else or is in a folder that lists its
            files, or the weights are missing.
        UsageError: A backbone without weights or beside latents, or options that it
            does not have; or no such volume of regions.
    """
    name = named_backbone(latents, backbone, default="open_clip")
    check_backbone(latents, name, weights, device)
    refuse_inside(out)
    with screen() as shown:
        shown.stage(f"subject {subject}: design, mask, sessions")
        trials = open_nsd(nsd, subject)
        shown.say(
            f"{len(trials.sessions)} sessions, {trials.trials} trials, "
            f"{trials.mask.voxels} voxels, {len(trials.pictures)} pictures"
        )
        if over := trials.passed_over:
            more = f" and {len(over) - 1} more" if len(over) > 1 else ""
            shown.say(f"there in another format, not read: {over[0].name}{more}")
        volumes = chosen_volumes(rois, nsd_volumes(trials.roi_folder))
        regions = read_regions(volumes, trials.mask)
        if regions:
            shown.say(listed(regions))
        categories = () if labels is None else read_labels(labels, trials.pictures)
        source: LatentsOf
        stimuli = nsd / "nsddata_stimuli" / "stimuli" / "nsd" / "nsd_stimuli.hdf5"
        kept = SharedPictures(stimuli) if len(trials.test_pictures) else None
        if latents is not None:
            bricks = brick_length(stimuli, trials.pictures)
            source = latents_of_file(latents, trials.pictures, bricks)
            if not stimuli.is_file():
                shown.say(f"no {stimuli.name}: the test's pictures are not kept")
                kept = None
        else:
            source = latents_of_backbone(
                chosen_backbone(name, weights, device), stimuli
            )
        manifest = prepare_nsd(
            trials,
            subject,
            out,
            normalisation,
            source,
            regions=regions,
            kept=kept,
            labels=categories,
            announce=shown.stage,
            count=shown.count,
        )
        open_trials(out)
        shown.stage(f"done: {manifest.normalisation}, z_v from {manifest.visual.name}")
    print(out)


def listed(regions: Regions) -> str:
    """Say which regions there are, and of how many voxels."""
    said = (f"{name} {int(one.sum()):,}" for name, one in regions.items())
    return f"regions: {', '.join(said)}"


def named_backbone(latents: Path | None, given: str | None, default: str) -> str:
    """Return a backbone's name: what was asked for, or a verb's default.

    Raises:
        UsageError: One was asked for beside latents, where it would have no effect.
    """
    if latents is not None and given is not None:
        raise UsageError(
            "--backbone: expected without --latents, which are computed already, "
            "found both. Leave one out."
        )
    return given or default


def check_backbone(
    latents: Path | None, name: str, weights: Path | None, device: str
) -> None:
    """Refuse options of a backbone that would have no effect, before anything is read.

    Raises:
        UsageError: Weights or a device for what has none.
    """
    if latents is None and name == "open_clip":
        return
    without = "--latents, which are" if latents is not None else f"{name}, which is"
    for flag, is_given in (
        ("weights", weights is not None),
        ("device", device != "cpu"),
    ):
        if is_given:
            raise UsageError(
                f"--{flag}: expected with --backbone open_clip alone, found it with "
                f"{without} computed without it. Leave it out."
            )


def chosen_backbone(name: str, weights: Path | None, device: str) -> VisualBackbone:
    """Return a visual backbone by its name on the command line.

    Raises:
        UsageError: open_clip without a file of weights.
        ArtifactError: The weights are missing or damaged.
    """
    if name == "patch_dct":
        return PatchDctBackbone()
    if weights is None:
        raise UsageError(
            f"--backbone {name}: expected --weights FILE (nothing is downloaded), "
            "found none"
        )
    is_fast_at_halves = torch.device(device).type == "cuda"
    precision = torch.float16 if is_fast_at_halves else torch.float32
    return OpenClipBackbone(weights, device=device, precision=precision)
