"""What a folder of prepared trials says of itself: types, and nothing that reads."""

from typing import Annotated, Final, Literal

import msgspec

from runtime.estimator import BetaEstimator, ExternalEstimator, Normalisation
from runtime.manifest import Affine, BackboneSpec

MANIFEST: Final = "manifest.json"
PROGRESS: Final = "progress.json"

Count = Annotated[int, msgspec.Meta(ge=1)]
Position = Annotated[int, msgspec.Meta(ge=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

Betas = Literal["nsd", "causal", "offline"]
"""Who estimated the responses.

* ``nsd``: the released GLMsingle betas, which have seen whole sessions;
* ``causal``: this system's estimator at a decision delay, volume by volume;
* ``offline``: least squares separate over whole runs, for comparison.
"""


class StoredArray(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """One .npy file."""

    dtype: str
    shape: tuple[int, ...]
    bytes: Count
    """Of the whole file, header included."""
    sha256: Sha256
    """Of the whole file."""
    sampled_sha256: Sha256
    """Of 64 windows of 64 KiB spread over it: what opening a large file compares."""


class Split(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Trials of a split stand together: this many from here on."""

    first: Position
    trials: Count


class VisualSource(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Where z_v comes from."""

    name: str
    """Such as ``open_clip ViT-bigG-14``, ``patch_dct`` or ``file``."""
    detail: str
    """What else decides the numbers: sizes, versions, how pictures are resized."""
    weights_sha256: Sha256 | None = None
    image_size: Count | None = None
    """Side of the square picture that the backbone sees, in pixels."""
    patch: Count | None = None
    """Side of a patch of it."""

    def spec(self) -> BackboneSpec:
        """Return the identity that a bundle cites.

        Latents of a file have no size that anyone knows; their name says which file.
        """
        is_file = self.name == "file"
        return BackboneSpec(
            name=f"{self.name} {self.detail}" if is_file else self.name,
            image_size=self.image_size or 1,
            patch=self.patch or 1,
            parameters_sha256=self.weights_sha256,
        )


class TrialsManifest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """A folder of prepared trials."""

    schema: Literal[1] = 1
    source: Literal["nsd", "bids"]
    subject: str
    voxels: Count
    mask_sha256: Sha256
    """`VoxelMask.sha256`: which voxels, in which order."""
    affine: Affine | None = None
    """Voxel indices to scanner millimetres; None in folders of before it was kept."""
    betas: Betas
    betas_detail: str
    """What else decides them: which release, or which software and settings."""
    estimator: BetaEstimator | None = None
    """Of causal betas."""
    units: Literal["percent signal change"] = "percent signal change"
    """Of mean and std, so of what inverting the normalisation gives."""
    normalisation: Normalisation
    groups: tuple[str, ...]
    """Rows of mean and std: the sessions, or one for all."""
    runs: tuple[str, ...]
    """What `run.npy` counts."""
    splits: dict[str, Split]
    image_ids: tuple[str, ...]
    """Row by row of the latents: training pictures, those of other splits, and those
    that were never shown but may be answered with."""
    labels: tuple[str, ...] = ()
    """Category of each picture; empty where the recording has none."""
    gallery: tuple[str, ...] = ()
    """Pictures that retrieval may answer with, in the recording's order; empty where it
    does not say."""
    visual: VisualSource
    regions: tuple[str, ...] = ()
    """Row by row of `regions.npy`, which says which voxels are in it."""
    test_images: Position = 0
    """How many of the last pictures `test_pictures.npy` holds: those of the test."""
    is_finite: Literal[True] = True
    """Every value was looked at when it was written."""
    files: dict[str, StoredArray]

    def estimated_by(self) -> BetaEstimator | ExternalEstimator:
        """Return how the betas were estimated, as a bundle says it."""
        if self.estimator is not None:
            return self.estimator
        return ExternalEstimator(
            name=self.betas,
            detail=self.betas_detail,
            normalisation=self.normalisation,
        )


class ProgressNote(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """How far an unfinished preparation is."""

    schema: Literal[1] = 1
    task_sha256: Sha256
    blocks: Position
    """Sessions or runs whose voxels are on disk."""
    latents: Position
    """Images whose z_v is on disk."""
    inputs: dict[str, str] = {}
    """What was read through, by name, and what it was then; see `files.identity`."""
    pictures: str = ""
    """A hash of the pictures whose z_v is on disk; empty where z_v came from a file."""
