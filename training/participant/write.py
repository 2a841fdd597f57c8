"""The files of a participant: BIDS text, pictures, masks, runs and truth.

Knows formats, and nothing of how a brain answers.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import nibabel
import numpy as np
from jaxtyping import Bool, Float64, Int16, UInt8
from PIL import Image
from safetensors.numpy import save_file

from training.participant import design, images, response
from training.participant.parameters import (
    ROI_NAMES,
    ParticipantParameters,
    table_hash,
)


@dataclass(frozen=True, slots=True)
class Stimuli:
    """All pictures of a participant, with the table that made them."""

    table: ParticipantParameters
    roles: list[str]
    factors: list[images.ImageFactors]
    pictures: UInt8[np.ndarray, "images rows columns 3"]


def draw_stimuli(p: ParticipantParameters, seed: int) -> Stimuli:
    """Draw a participant's pictures in image order."""
    roles = design.image_roles(p)
    factors = [images.factors_from_index(seed, k) for k in range(len(roles))]
    return Stimuli(p, roles, factors, np.stack([images.render(f, p) for f in factors]))


def stimulus_id(image: int) -> str:
    """Name image `image` of a participant."""
    return f"stim-{image:04d}"


def write_dataset(folder: Path, subject: str, name: str) -> None:
    """Write what every BIDS folder must have, derivatives included."""
    description = {"Name": name, "BIDSVersion": "1.10.0"}
    _write_json(folder / "dataset_description.json", description)
    text = f"participant_id\n{subject}\n"
    (folder / "participants.tsv").write_text(text, encoding="utf-8")
    (folder / subject / "func").mkdir(parents=True)
    for derivative in ("masks", "truth"):
        derived = folder / "derivatives" / derivative
        derived.mkdir(parents=True)
        generated_by = [{"Name": "neuroflow simulated participant"}]
        _write_json(
            derived / "dataset_description.json",
            description | {"DatasetType": "derivative", "GeneratedBy": generated_by},
        )


def write_stimuli(folder: Path, stimuli: Stimuli) -> None:
    """Write the pictures and ``gallery.tsv``, one row per picture with its factors."""
    folder.mkdir()
    columns = ["stim_id", "stim_file", "category", "role", "in_gallery"]
    names = list(asdict(stimuli.factors[0]))[1:]
    lines = ["\t".join(columns + names)]
    pairs = zip(stimuli.factors, stimuli.roles, strict=True)
    for k, (factors, role) in enumerate(pairs):
        stim_id = stimulus_id(k)
        Image.fromarray(stimuli.pictures[k]).save(folder / f"{stim_id}.png")
        in_gallery = "1" if role in ("test", "distractor") else "0"
        category = images.CATEGORIES[factors.category]
        row = [stim_id, f"{stim_id}.png", category, role, in_gallery]
        values = [_factor_text(value) for value in list(asdict(factors).values())[1:]]
        lines.append("\t".join(row + values))
    (folder / "gallery.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_masks(
    folder: Path,
    labels: Int16[np.ndarray, "x y z"],
    head: Bool[np.ndarray, "x y z"],
    affine: Float64[np.ndarray, "4 4"],
) -> None:
    """Write the decoding mask, the regions with their names, and the head."""
    folder.mkdir(parents=True)
    arrays = {
        "mask": (labels > 0).astype(np.uint8),
        "rois": labels,
        "head": head.astype(np.uint8),
    }
    for name, array in arrays.items():
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
    rows = [f"{k}\t{name}" for k, name in enumerate(ROI_NAMES, start=1)]
    text = "\n".join(["index\tname", *rows]) + "\n"
    (folder / "rois.tsv").write_text(text, encoding="utf-8")


def write_run(
    folder: Path,
    subject: str,
    run: design.Run,
    stimuli: Stimuli,
    volumes: Int16[np.ndarray, "x y z times"],
    affine: Float64[np.ndarray, "4 4"],
) -> None:
    """Write one run's volumes (gzip level 1), sidecar and events."""
    stem = folder / subject / "func" / f"{subject}_task-images_run-{run.number:02d}"
    tr_s = stimuli.table.tr_s
    bold = nibabel.Nifti1Image(volumes, affine)
    size_mm = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    bold.header.set_zooms((*size_mm, tr_s))
    bold.header.set_xyzt_units("mm", "sec")
    nibabel.save(bold, f"{stem}_bold.nii.gz")
    sidecar = {"RepetitionTime": tr_s, "TaskName": "images"}
    _write_json(Path(f"{stem}_bold.json"), sidecar)
    lines = ["onset\tduration\ttrial_type\tstim_file\tstim_id\ttrial_id\tsplit"]
    for trial in run.trials:
        stim_id = stimulus_id(trial.image)
        category = images.CATEGORIES[stimuli.factors[trial.image].category]
        lines.append(
            f"{trial.onset_s:.3f}\t{stimuli.table.stimulus_s:.3f}\t{category}\t"
            f"{stim_id}.png\t{stim_id}\t{trial.trial_id}\t{run.split}"
        )
    events = Path(f"{stem}_events.tsv")
    events.write_text("\n".join(lines) + "\n", encoding="utf-8")


def response_truth(
    model: response.ResponseModel, draws: list[response.TrialDraw]
) -> dict[str, np.ndarray]:
    """Return the truth about responses; trial rows are ordered by ``trial_id``."""
    return {
        "patterns": model.patterns,
        "trial_factor": model.trial_factor,
        "hrf": model.hrf,
        "hrf_peak_s": model.hrf_peak_s,
        "trial_gains": np.concatenate([draw.gains for draw in draws]),
        "trial_amplitudes": np.concatenate([draw.amplitudes for draw in draws]),
    }


def write_truth(
    folder: Path, arrays: dict[str, np.ndarray], p: ParticipantParameters, seed: int
) -> None:
    """Write ``truth.safetensors`` (float32) and ``truth.json``."""
    contiguous = {
        name: np.ascontiguousarray(array, dtype=np.float32)
        for name, array in arrays.items()
    }
    save_file(contiguous, folder / "truth.safetensors")
    record = {
        "seed": seed,
        "table_sha256": table_hash(p),
        "hrf_dt_s": response.HRF_DT_S,
        "parameters": msgspec.to_builtins(p),
    }
    _write_json(folder / "truth.json", record)


def _factor_text(value: float | tuple[float, ...]) -> str:
    """Write a factor, or the factors of all tiles with commas between."""
    numbers = value if isinstance(value, tuple) else (value,)
    return ",".join(f"{number:.5f}" for number in numbers)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
