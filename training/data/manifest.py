"""What a folder of prepared trials says of itself: types, and nothing that reads."""

from typing import Annotated, Final, Literal

import msgspec

from runtime.estimator import BetaEstimator

MANIFEST: Final = "manifest.json"
PROGRESS: Final = "progress.json"

Count = Annotated[int, msgspec.Meta(ge=1)]
Position = Annotated[int, msgspec.Meta(ge=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

Normalisation = Literal["session-train", "session-published-leaky", "pooled-train"]
"""How voxels were scaled.

* ``session-train``: z-score within each session, from its training trials alone;
* ``session-published-leaky``: z-score within each session from all its trials, those of
  the test images included, as the published preparation does: the statistics have seen
  the test;
* ``pooled-train``: z-score from the training trials of all runs.
"""

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
    """Row by row of the latents, training pictures first."""
    visual: VisualSource
    is_finite: Literal[True] = True
    """Every value was looked at when it was written."""
    files: dict[str, StoredArray]


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a preparation is about: another one may not go on with its files."""

    manifest: TrialsManifest
    """As it will be, but for `files`."""


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
