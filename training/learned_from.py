"""What a checkpoint was learned from: a note beside the weights, compared later.

Two participants can have the same number of voxels, and then no shape would tell their
checkpoints apart. Imported checkpoints have no note, and nothing to compare.
"""

from pathlib import Path
from typing import Final, Literal

import msgspec

from runtime.errors import CheckpointError
from runtime.estimator import BetaEstimator, ExternalEstimator, description
from runtime.manifest import BackboneSpec, Sha256
from runtime.strict_json import decode_once
from training.checkpoint import write_bytes
from training.data.manifest import TrialsManifest
from training.dataset import Dataset

NOTE: Final = "learned_from.json"


class LearnedFrom(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Whose trials, which voxels, and how responses and latents were made."""

    schema: Literal[1] = 1
    subject: str
    mask_sha256: Sha256
    estimator: BetaEstimator | ExternalEstimator
    backbone: BackboneSpec

    @classmethod
    def of_trials(cls, manifest: TrialsManifest) -> "LearnedFrom":
        """Return what prepared trials say of themselves."""
        return cls(
            subject=manifest.subject,
            mask_sha256=manifest.mask_sha256,
            estimator=manifest.estimated_by(),
            backbone=manifest.visual.spec(),
        )

    @classmethod
    def of_dataset(cls, dataset: Dataset) -> "LearnedFrom":
        """Return the same of a recording."""
        backbone = dataset.backbone
        return cls(
            subject=dataset.subject,
            mask_sha256=dataset.recording.mask.sha256,
            estimator=dataset.estimator,
            backbone=BackboneSpec(
                name=backbone.name, image_size=backbone.image_size, patch=backbone.patch
            ),
        )


def write_note(checkpoint: Path, note: LearnedFrom) -> None:
    """Write the note into a checkpoint's folder."""
    text = msgspec.json.format(msgspec.json.encode(note), indent=2)
    write_bytes(checkpoint / NOTE, text + b"\n")


def noted_subject(checkpoint: Path) -> str | None:
    """Return whose trials a checkpoint was learned from; None without a note.

    Raises:
        BundleError: The note is damaged.
    """
    file = checkpoint / NOTE
    if not file.is_file():
        return None
    return decode_once(file.read_bytes(), LearnedFrom, str(file)).subject


def check_note(checkpoint: Path, present: LearnedFrom) -> None:
    """Refuse a checkpoint that was learned from something else.

    Args:
        checkpoint: A checkpoint's folder; without a note nothing is compared.
        present: The trials or the recording at hand.

    Raises:
        CheckpointError: Another participant, other voxels, or other responses.
        BundleError: The note is damaged.
    """
    file = checkpoint / NOTE
    if not file.is_file():
        return
    note = decode_once(file.read_bytes(), LearnedFrom, str(file))
    for field, wanted, found in (
        ("subject", present.subject, note.subject),
        ("mask_sha256", present.mask_sha256, note.mask_sha256),
        ("estimator", description(present.estimator), description(note.estimator)),
        ("backbone", backbone_words(present.backbone), backbone_words(note.backbone)),
    ):
        if wanted != found:
            raise CheckpointError(
                f"{file}: {field}: expected {wanted} as in the trials, found {found}. "
                "Use the trials that it was trained on, or train on these"
            )
    if present.estimator != note.estimator:
        raise CheckpointError(
            f"{file}: estimator: expected the trials' constants, found others. "
            "Use the trials that it was trained on, or train on these"
        )


def backbone_words(backbone: BackboneSpec) -> str:
    """Say in a few words what tells a backbone from others."""
    weights = backbone.parameters_sha256
    size = f"{backbone.image_size} px by {backbone.patch}"
    return f"{backbone.name}, {size}" + (f", {weights[:12]}" if weights else "")
