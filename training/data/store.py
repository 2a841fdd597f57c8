"""A folder of prepared trials, opened: arrays are mapped, hardly anything is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from jaxtyping import Float32, Int64, Shaped
from msgspec import UNSET

from runtime.errors import ArtifactError
from runtime.preprocess.mask import VoxelMask
from runtime.strict_json import decode_once
from training.data.files import open_array
from training.data.manifest import MANIFEST, PROGRESS, StoredArray, TrialsManifest
from training.trials import TrialSet, check_finite, let_go

REQUIRED: Final = {
    "voxels.npy": ("float32",),
    "image.npy": ("int64",),
    "group.npy": ("int64",),
    "run.npy": ("int64",),
    "position.npy": ("int64",),
    "mean.npy": ("float32",),
    "std.npy": ("float32",),
    "latents.npy": ("float32", "float16"),
    "latent_mean.npy": ("float32",),
}
"""Every file of a folder, with the types it may have."""
OPTIONAL: Final = {
    "stimuli.npy": ("uint8",),
    "mask.npy": ("bool",),
    "reference.npy": ("float32",),
    "hrf_index.npy": ("int64",),
    "regions.npy": ("bool",),
    "test_pictures.npy": ("uint8",),
}
"""The pictures; the volume whose true voxels the trials hold; what motion was told
against, on its grid; each voxel's place in the estimator's library of responses; which
voxels are in which region; and, where not all pictures are kept, those of the test."""

Voxels = Float32[np.ndarray, "trials voxels"]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedTrials:
    """Trials of one participant, split by split, with what undoes their scaling."""

    folder: Path
    manifest: TrialsManifest
    arrays: Mapping[str, Shaped[np.ndarray, "..."]]
    """By file name without ``.npy``; read-only maps."""

    def split(self, name: str) -> TrialSet:
        """Return a split's trials; nothing is copied.

        Raises:
            ArtifactError: There is no such split.
        """
        rows = self.rows(name)
        mean = self.arrays["latent_mean"] if name == "train" else None
        return TrialSet(
            voxels=self.arrays["voxels"][rows],
            image=np.array(self.arrays["image"][rows]),
            latents=self.arrays["latents"],
            stored_mean=None if mean is None else np.array(mean),
            is_checked=True,
        )

    def rows(self, name: str) -> slice:
        """Return where a split's trials stand in every array of trials.

        Raises:
            ArtifactError: There is no such split.
        """
        split = self.manifest.splits.get(name)
        if split is None:
            raise ArtifactError(
                f"{self.folder}: splits: expected {name}, "
                f"found {', '.join(self.manifest.splits)}"
            )
        return slice(split.first, split.first + split.trials)

    def in_units(
        self, voxels: Voxels, trials: Int64[np.ndarray, " trials"]
    ) -> Float32[np.ndarray, "trials voxels"]:
        """Undo the normalisation, measured or predicted, back to percent signal.

        Args:
            voxels: As a model gives them.
            trials: Rows of this folder whose sessions' statistics are taken.

        Returns:
            ``voxels * std + mean``; voxels that never varied come back as their mean.
        """
        group = self.arrays["group"][trials]
        scaled = voxels.astype(np.float64) * self.arrays["std"][group]
        return np.asarray(scaled + self.arrays["mean"][group], dtype=np.float32)


def open_trials(folder: Path, *, whole: bool = False) -> PreparedTrials:
    """Open a folder that `TrialsWriter` has finished.

    Files up to 32 MiB are hashed and looked at; of larger ones the length, type, shape
    and 4 MiB spread over the file, because NaN were looked for when they were written.

    Args:
        folder: The folder.
        whole: Hash every file whole and look at every value: minutes, not milliseconds.

    Raises:
        ArtifactError: A file is missing, extra, cut or changed, or contradicts another.
    """
    manifest = _read_manifest(folder)
    _check_names(folder, manifest)
    arrays = {
        name.removesuffix(".npy"): open_array(folder / name, entry, whole=whole)
        for name, entry in manifest.files.items()
    }
    if whole:
        for name in ("voxels", "latents"):
            check_finite(f"{folder / name}.npy: values", arrays[name])
    opened = PreparedTrials(folder, manifest, arrays)
    _check_indices(opened)
    _check_mask(opened)
    for array in arrays.values():
        let_go(array)
    return opened


def _read_manifest(folder: Path) -> TrialsManifest:
    if not folder.is_dir():
        found = "a file" if folder.exists() else "none"
        raise ArtifactError(f"{folder}: expected a folder, found {found}")
    file = folder / MANIFEST
    if not file.exists() and (folder / PROGRESS).exists():
        raise ArtifactError(
            f"{file}: expected a finished preparation, found an interrupted one. "
            "Prepare it again with the same arguments; it goes on from there"
        )
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{file}: expected the manifest of prepared trials, found {error.strerror}"
        ) from error
    manifest = decode_once(data, TrialsManifest, str(file))
    check_manifest(manifest, str(file))
    return manifest


def check_manifest(manifest: TrialsManifest, what: str) -> None:
    """Compare what a manifest says in one place with what it says in others.

    Raises:
        ArtifactError: It contradicts itself.
    """
    for name, dtypes in {**REQUIRED, **OPTIONAL}.items():
        entry = manifest.files.get(name)
        if entry is not None and entry.dtype not in dtypes:
            raise ArtifactError(
                f"{what}: files.{name}.dtype: expected {' or '.join(dtypes)}, "
                f"found {entry.dtype}"
            )
    if missing := sorted(set(REQUIRED) - set(manifest.files)):
        raise ArtifactError(f"{what}: files: expected {missing[0]}, found none")
    if extra := sorted(set(manifest.files) - set(REQUIRED) - set(OPTIONAL)):
        raise ArtifactError(
            f"{what}: files: expected no other than those of prepared trials, "
            f"found {extra[0]}"
        )
    _check_shapes(manifest, what)
    _check_pictures(manifest, what)
    if (manifest.betas == "causal") != (manifest.estimator is not None):
        raise ArtifactError(
            f"{what}: estimator: expected one with causal betas alone, found "
            f"{'none' if manifest.estimator is None else 'one'} with {manifest.betas}"
        )
    _check_fitted(manifest, what)
    first = 0
    for name, split in sorted(manifest.splits.items(), key=lambda s: s[1].first):
        if split.first != first:
            raise ArtifactError(
                f"{what}: splits.{name}.first: expected {first}, found {split.first}"
            )
        first += split.trials
    trials = manifest.files["voxels.npy"].shape[0]
    if first != trials:
        raise ArtifactError(
            f"{what}: splits: expected {trials} trials as in voxels.npy, found {first}"
        )


def _check_shapes(manifest: TrialsManifest, what: str) -> None:
    def shape(name: str, axes: int) -> tuple[int, ...]:
        entry: StoredArray = manifest.files[name]
        if len(entry.shape) != axes:
            raise ArtifactError(
                f"{what}: files.{name}.shape: expected {axes} axes, found {entry.shape}"
            )
        return entry.shape

    trials, _ = shape("voxels.npy", 2)
    images, tokens, width = shape("latents.npy", 3)
    groups = len(manifest.groups)
    wanted: dict[str, tuple[int, ...]] = {
        "voxels.npy": (trials, manifest.voxels),
        "mean.npy": (groups, manifest.voxels),
        "std.npy": (groups, manifest.voxels),
        "latents.npy": (len(manifest.image_ids), tokens, width),
        "latent_mean.npy": (tokens, width),
        **{f"{n}.npy": (trials,) for n in ("image", "group", "run", "position")},
    }
    for name, expected in wanted.items():
        if manifest.files[name].shape != expected:
            raise ArtifactError(
                f"{what}: files.{name}.shape: expected {expected}, "
                f"found {manifest.files[name].shape}"
            )
    mask = manifest.files.get("mask.npy")
    if mask is not None and len(mask.shape) != 3:
        raise ArtifactError(
            f"{what}: files.mask.npy.shape: expected 3 axes, found {mask.shape}"
        )
    reference = manifest.files.get("reference.npy")
    if reference is not None and (mask is None or mask.shape != reference.shape):
        raise ArtifactError(
            f"{what}: files.reference.npy.shape: expected that of mask.npy, "
            f"found {reference.shape}"
        )
    index = manifest.files.get("hrf_index.npy")
    if index is not None and index.shape != (manifest.voxels,):
        raise ArtifactError(
            f"{what}: files.hrf_index.npy.shape: expected ({manifest.voxels},), "
            f"found {index.shape}"
        )
    _check_optional(manifest, what)
    stimuli = manifest.files.get("stimuli.npy")
    if stimuli is not None and (len(stimuli.shape) != 4 or stimuli.shape[0] != images):
        raise ArtifactError(
            f"{what}: files.stimuli.npy.shape: expected ({images}, height, width, 3), "
            f"found {stimuli.shape}"
        )


def _check_optional(manifest: TrialsManifest, what: str) -> None:
    """Compare regions and pictures of the test with what the manifest says of them."""
    regions, kept = len(manifest.regions), manifest.test_images
    shapes = {
        name: None if entry is None else entry.shape
        for name in ("regions.npy", "test_pictures.npy")
        for entry in [manifest.files.get(name)]
    }
    wanted = (regions, manifest.voxels) if regions else None
    if shapes["regions.npy"] != wanted:
        raise ArtifactError(
            f"{what}: files.regions.npy: expected {wanted or 'none'}, as the "
            f"{regions} regions, found {shapes['regions.npy'] or 'none'}"
        )
    found = shapes["test_pictures.npy"] or (0, 0, 0, 3)
    if len(found) != 4 or found[0] != kept or found[3] != 3:
        raise ArtifactError(
            f"{what}: files.test_pictures.npy: expected ({kept}, height, width, 3), "
            f"as test_images, found {shapes['test_pictures.npy'] or 'none'}"
        )
    if kept > len(manifest.image_ids):
        raise ArtifactError(
            f"{what}: test_images: expected at most {len(manifest.image_ids)}, as "
            f"image_ids, found {kept}"
        )


def _check_fitted(manifest: TrialsManifest, what: str) -> None:
    """Require what the estimator was fitted with, and nothing else."""
    estimator = manifest.estimator
    has = {
        "reference.npy": estimator is not None and estimator.motion is not UNSET,
        "hrf_index.npy": estimator is not None and estimator.hrf_library is not UNSET,
    }
    for name, is_wanted in has.items():
        if is_wanted != (name in manifest.files):
            raise ArtifactError(
                f"{what}: files: expected {'' if is_wanted else 'no '}{name}, as the "
                f"estimator says, found {'none' if is_wanted else 'one'}"
            )


def _check_pictures(manifest: TrialsManifest, what: str) -> None:
    named = len(manifest.labels)
    if named and named != len(manifest.image_ids):
        raise ArtifactError(
            f"{what}: labels: expected {len(manifest.image_ids)} or none, found {named}"
        )
    if strange := sorted(set(manifest.gallery) - set(manifest.image_ids)):
        raise ArtifactError(
            f"{what}: gallery: expected pictures of image_ids, found {strange[0]}"
        )


def _check_names(folder: Path, manifest: TrialsManifest) -> None:
    # A writer that was stopped right after its manifest left its note, and was done.
    found = {entry.name for entry in folder.iterdir()} - {PROGRESS}
    wanted = {*manifest.files, MANIFEST}
    if extra := sorted(found - wanted):
        raise ArtifactError(
            f"{folder}: expected the files that {MANIFEST} lists, "
            f"found extra {extra[0]}"
        )
    if missing := sorted(wanted - found):
        raise ArtifactError(
            f"{folder}: expected the files that {MANIFEST} lists, "
            f"found missing {missing[0]}"
        )


def _check_indices(opened: PreparedTrials) -> None:
    manifest = opened.manifest
    library = UNSET if manifest.estimator is None else manifest.estimator.hrf_library
    for name, rows in (
        ("image", len(manifest.image_ids)),
        ("group", len(manifest.groups)),
        ("run", len(manifest.runs)),
        ("hrf_index", 0 if library is UNSET else len(library)),
    ):
        values = opened.arrays.get(name, np.empty(0, np.int64))
        outside = np.flatnonzero((values < 0) | (values >= rows))
        if outside.size:
            place, of = int(outside[0]), "voxel" if name == "hrf_index" else "trial"
            raise ArtifactError(
                f"{opened.folder / name}.npy: values: expected rows in [0, {rows}), "
                f"found {int(values[place])} at {of} {place}"
            )


def _check_mask(opened: PreparedTrials) -> None:
    mask, said = opened.arrays.get("mask"), opened.manifest.mask_sha256
    if mask is None:
        return
    found = VoxelMask.from_volume(np.array(mask)).sha256
    if found != said:
        raise ArtifactError(
            f"{opened.folder / 'mask.npy'}: voxels: expected those of mask_sha256 "
            f"{said[:12]}..., found {found[:12]}..."
        )


def encode_manifest(manifest: TrialsManifest) -> bytes:
    """Return a manifest's text: JSON, one key a line."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
