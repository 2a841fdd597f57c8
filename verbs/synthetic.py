"""`neuroflow train --augment`: pictures that no trial shows, made into trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from runtime.errors import RecordingError, UsageError
from runtime.recording import open_recording
from training.data.files import open_latents
from training.data.store import PreparedTrials
from training.dataset import Dataset
from training.pictures import read_picture
from training.shown import shown_pictures
from training.synthetic import known_among, open_encoder, with_synthetic
from training.trials import TrialSet, take_rows
from training.visual.backbone import PatchDctBackbone

Latents = Float[np.ndarray, "images tokens width"]
Rows = Int64[np.ndarray, " images"]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What `--augment`, `--encoder` and `--pictures` say."""

    trials: int
    """Synthetic trials beside the measured ones."""
    encoder: Path
    """A folder with the checkpoints ``vae`` and ``flow`` of the same participant."""
    pictures: Path | None
    """A folder of pictures, or z_v as .npy; None takes those that no trial shows."""


def augmentation(
    trials: int | None, encoder: Path | None, pictures: Path | None
) -> Augmentation | None:
    """Put the flags together; None where nothing is to be added.

    Raises:
        UsageError: One without the other, or no trial.
    """
    if trials is None:
        for flag, given in (("--encoder", encoder), ("--pictures", pictures)):
            if given is not None:
                raise UsageError(
                    f"{flag}: expected with --augment alone, found it without"
                )
        return None
    if trials < 1:
        raise UsageError(f"--augment: expected at least 1, found {trials}")
    if encoder is None:
        raise UsageError(
            "--augment: expected --encoder with checkpoints of this participant, "
            "found none. Train both stages without --augment first"
        )
    return Augmentation(trials, encoder, pictures)


def augmented_recording(
    asked: Augmentation, dataset: Dataset, folder: Path, seed: int
) -> TrialSet:
    """Return a recording's training trials and synthetic ones.

    Raises:
        UsageError: No picture is left, or one is held out for a test.
        CheckpointError: The encoder is missing, damaged or of another model.
    """
    stimuli = dataset.stimuli
    whole = shown_pictures(open_recording(folder, subject=dataset.subject)).recording
    shown = [event for run in whole.runs for event in run.events]
    held = _rows(dataset, [e.stimulus_id for e in shown if e.split != "train"])
    if asked.pictures is None:
        seen = {e.stimulus_id for e in shown}
        free = [i for i, name in enumerate(stimuli.ids) if name not in seen]
        unseen, names = dataset.latents[free], [stimuli.ids[i] for i in free]
    else:
        backbone = PatchDctBackbone(dataset.backbone)
        unseen, names = _read_pictures(asked.pictures, backbone)
    _refuse_held_out(unseen, names, dataset.latents[held])
    measured = dataset.split("train")
    encoder = open_encoder(asked.encoder)
    return with_synthetic(measured, unseen, encoder, asked.trials, seed)


def augmented_trials(
    asked: Augmentation, prepared: PreparedTrials, seed: int
) -> TrialSet:
    """Return the training trials of a prepared folder and synthetic ones.

    Raises:
        UsageError: No picture is left, or one is held out for a test; or pictures whose
            z_v the folder's backbone would have to compute.
        CheckpointError: The encoder is missing, damaged or of another model.
    """
    latents, image = prepared.arrays["latents"], prepared.arrays["image"]
    others = set(prepared.manifest.splits) - {"train"}
    held = np.unique(
        np.concatenate(
            [image[:0], *(image[prepared.rows(name)] for name in sorted(others))]
        )
    )
    if asked.pictures is None:
        free = np.setdiff1d(np.arange(len(latents)), image)
        unseen = take_rows(latents, free)
        names = [prepared.manifest.image_ids[i] for i in free]
    else:
        dct = PatchDctBackbone()
        is_dct = prepared.manifest.visual == dct.source
        unseen, names = _read_pictures(asked.pictures, dct if is_dct else None)
    measured = prepared.split("train")
    # Of another shape: refused there, in one line.
    if unseen.shape[1:] == latents.shape[1:]:
        _refuse_held_out(unseen, names, take_rows(latents, held))
    encoder = open_encoder(asked.encoder)
    return with_synthetic(measured, unseen, encoder, asked.trials, seed)


def _rows(dataset: Dataset, names: Sequence[str]) -> Rows:
    rows = sorted({dataset.stimuli.row(name) for name in names})
    return np.array(rows, dtype=np.int64)


def _refuse_held_out(unseen: Latents, names: Sequence[str], held: Latents) -> None:
    if found := known_among(unseen, held):
        raise UsageError(
            "--pictures: expected none that the test or the calibration shows, found "
            f"{len(found)} of them, the first {names[found[0]]}. Leave them out"
        )


def _read_pictures(
    place: Path, backbone: PatchDctBackbone | None
) -> tuple[Latents, list[str]]:
    if place.suffix == ".npy":
        latents = open_latents(place)
        return latents, [f"row {i}" for i in range(len(latents))]
    if not place.is_dir():
        raise RecordingError(f"{place}: expected a folder or a .npy file, found none")
    if backbone is None:
        raise UsageError(
            f"--pictures: expected z_v as .npy, computed as those of --trials, found "
            f"the folder {place}"
        )
    files = sorted(f for f in place.iterdir() if f.suffix.lower() in SUFFIXES)
    if not files:
        raise RecordingError(f"{place}: expected pictures, found none")
    read = [backbone.latents(read_picture(file)[None]) for file in files]
    return np.concatenate(read), [file.name for file in files]
