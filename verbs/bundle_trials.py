"""A recording's trials of one split, and what a bundle makes of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from runtime.bundle import Bundle
from runtime.errors import BundleError, RecordingError, UsageError
from runtime.estimator import BetaEstimator
from runtime.live import backbone_of
from runtime.model import Model
from runtime.patch_dct import PatchDct
from runtime.preprocess import FeatureSpace, VoxelMask
from runtime.recording import Recording, open_recording
from training.features import Progress, trial_betas
from training.metrics.result import Absent
from training.metrics.voxels import image_means
from training.participant import open_participant
from training.stimuli import Stimuli, open_stimuli

WHOLE_MASK = "all voxels"

Betas = Float32[np.ndarray, "rows voxels"]
Latents = Float32[np.ndarray, "rows tokens width"]
Pictures = UInt8[np.ndarray, "rows height width 3"]
Count = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class SplitTrials:
    """Every trial of a split that could be estimated, and what it shows."""

    stimuli: Stimuli
    betas: Betas
    """Percent signal, one row a trial, in order of time."""
    shown: Int64[np.ndarray, " trials"]
    """Row of `stimuli` of each trial."""
    rois: dict[str, Bool[np.ndarray, " voxels"]]
    """Voxels by region; the first is all of them."""
    rois_absent: Absent | None

    @property
    def images(self) -> Int64[np.ndarray, " images"]:
        """Rows of `stimuli` that were shown, increasing."""
        return np.unique(self.shown)

    @property
    def repeats(self) -> int:
        """Trials that every image has at least."""
        return int(np.unique(self.shown, return_counts=True)[1].min())

    def averaged(self) -> Betas:
        """Return the mean of each image's trials, in the order of `images`."""
        return image_means(self.betas, self.shown)[0].astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What a bundle decodes from responses, one row each."""

    latents: Latents
    retrieval: Latents
    pictures: Pictures


def read_trials(
    folder: Path, bundle: Bundle, split: str, on_run: Progress | None = None
) -> SplitTrials:
    """Estimate the trials of a split as the bundle's server would have.

    Args:
        folder: A BIDS folder with events and pictures.
        bundle: Says which voxels, and how a trial is estimated.
        split: Runs without it are not read.
        on_run: Told after each run.

    Raises:
        UsageError: The bundle decodes volumes; it has no trials.
        RecordingError: No such split, or volumes of another shape than the bundle's.
    """
    estimator = bundle.manifest.estimator
    if not isinstance(estimator, BetaEstimator):
        raise UsageError(
            "evaluate --bundle: expected a bundle that decodes trials, found one for "
            "volumes. Use --leave-one-run-out for those."
        )
    stimuli, whole = open_stimuli(folder), open_recording(folder)
    runs = tuple(r for r in whole.runs if any(e.split == split for e in r.events))
    if not runs:
        found = sorted({event.split for run in whole.runs for event in run.events})
        raise RecordingError(
            f"{folder}: expected runs of split {split}, found "
            f"{', '.join(filter(None, found)) or 'none'}"
        )
    mask = VoxelMask.from_volume(bundle.mask)
    for run in runs:
        if run.shape != mask.shape:
            raise RecordingError(
                f"{run.run_id}: expected volumes of {mask.shape} as the bundle's, "
                f"found {run.shape}"
            )
    recording = Recording(whole.folder, runs, mask)
    betas = trial_betas(recording, estimator, on_run).select(split)
    shown = [stimuli.row(event.stimulus_id) for event in betas.events]
    rois, absent = _regions(folder, whole.mask, mask)
    return SplitTrials(
        stimuli, betas.betas, np.array(shown, dtype=np.int64), rois, absent
    )


def _regions(
    folder: Path, recorded: VoxelMask, mask: VoxelMask
) -> tuple[dict[str, Bool[np.ndarray, " voxels"]], Absent | None]:
    regions = {WHOLE_MASK: np.ones(len(mask.indices), dtype=np.bool_)}
    if recorded.sha256 != mask.sha256:
        return regions, Absent("the recording's mask is not the bundle's")
    try:
        names = np.array(open_participant(folder).roi_names())
    except (RecordingError, OSError, KeyError) as error:
        return regions, Absent(f"no regions beside the mask: {error}")
    for name in sorted(set(names.tolist())):
        regions[name] = names == name
    return regions, None


class BundleMaps:
    """A bundle's maps over many rows: responses to pictures, and back."""

    def __init__(self, bundle: Bundle, model: Model) -> None:
        """Prepare.

        Raises:
            UsageError: The bundle's latents are no images.
            BundleError: The backbone's latents are not the model's.
        """
        backbone = backbone_of(bundle)
        if backbone is None:
            raise UsageError(
                "evaluate --bundle: expected a bundle whose latents are images, found "
                f"backbone {bundle.manifest.backbone.name}"
            )
        self.bundle, self.backbone = bundle, backbone
        self.space: FeatureSpace = bundle.feature_space()
        self._model = model

    def latents(self, pictures: Sequence[np.ndarray] | Pictures) -> Latents:
        """Return z_v of pictures.

        Raises:
            TensorMismatchError: A picture has another size than the backbone's.
        """
        return np.stack([self.backbone.tokens_from_image(image) for image in pictures])

    def decode(self, betas: Betas, on_row: Count | None = None) -> Decoded:
        """Decode responses given in percent signal."""
        latents, retrieval = [], []
        features = self.space.to_model(betas)
        for done, row in enumerate(features, start=1):
            z_n, found = self._model.encode_voxels_for_retrieval(row)
            latents.append(self._model.decode_latent(z_n))
            retrieval.append(found)
            if on_row is not None:
                on_row(done, len(features))
        return Decoded(
            np.stack(latents), np.stack(retrieval), invert(self.backbone, latents)
        )

    def predict(self, latents: Latents, on_row: Count | None = None) -> Betas:
        """Predict responses in percent signal."""
        rows = []
        for done, z_v in enumerate(latents, start=1):
            rows.append(self._model.predict_voxels(self._model.encode_latent(z_v)))
            if on_row is not None:
                on_row(done, len(latents))
        return self.space.from_model(np.stack(rows))


def invert(backbone: PatchDct, latents: Sequence[np.ndarray]) -> Pictures:
    """Return the pictures that latents stand for."""
    return np.stack([backbone.image_from_tokens(z_v) for z_v in latents])


def check_external(own: Bundle, external: Bundle) -> None:
    """Refuse an external bundle that cannot read the own one's predicted responses.

    Raises:
        BundleError: Other voxels, or another estimate of a response.
        UsageError: It is the same bundle.
    """
    if own.manifest.training == external.manifest.training:
        raise UsageError(
            "--external: expected an independently trained bundle, found the same "
            "training"
        )
    for what, ours, theirs in (
        (
            "voxels",
            own.manifest.voxels.voxel_order_sha256,
            external.manifest.voxels.voxel_order_sha256,
        ),
        (
            "estimator",
            str(own.manifest.estimator),
            str(external.manifest.estimator),
        ),
    ):
        if ours != theirs:
            raise BundleError(
                f"--external: expected the same {what}, found another. Train it on the "
                "same participant with the same estimator."
            )
