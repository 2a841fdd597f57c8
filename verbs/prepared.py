"""Prepared trials as what a bundle and a gallery are made of, and are judged on."""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from export.preprocessing import Preprocessing
from runtime.bundle import Bundle
from runtime.errors import ArtifactError
from runtime.estimator import description, units_of
from runtime.manifest import Affine
from runtime.preprocess import AffineNormaliser, FeatureSpace, NoiseWhitening
from runtime.preprocess.reference import Reference
from training.data.manifest import MANIFEST
from training.data.store import PreparedTrials
from training.learned_from import backbone_words
from training.metrics.result import Absent
from training.trials import take_rows
from verbs.pipeline import GOLDEN_SAMPLES, Candidates, Ingredients
from verbs.split_trials import (
    WHOLE_MASK,
    Pictures,
    Sessions,
    SplitTrials,
    evenly,
    said_of_shared,
)


def ingredients_from(trials: PreparedTrials) -> Ingredients:
    """Return what belongs into a bundle beside the checkpoints.

    Betas that were scaled within sessions have no one mean and scale: the bundle's are
    0 and 1, and it takes the z-scores.

    Raises:
        ArtifactError: The folder holds no mask: it is of before masks were kept.
    """
    manifest, mask = trials.manifest, trials.arrays.get("mask")
    if mask is None or manifest.affine is None:
        raise ArtifactError(
            f"{trials.folder / 'mask.npy'}: expected the mask that a bundle holds, "
            "found none. Prepare the trials again"
        )
    learned = trials.split("train")
    reference, hrf_index = _fitted(trials)
    return Ingredients(
        preprocessing=Preprocessing(
            subject=manifest.subject,
            estimator=manifest.estimated_by(),
            mask=np.array(mask),
            affine=_matrix(manifest.affine),
            space=FeatureSpace(
                _normaliser(trials), NoiseWhitening.identity(manifest.voxels)
            ),
            hrf_index=hrf_index,
            reference=reference,
        ),
        latent_mean=learned.latent_mean(),
        golden_voxels=np.array(learned.voxels[:GOLDEN_SAMPLES]),
        backbone=manifest.visual.spec(),
    )


def _fitted(
    trials: PreparedTrials,
) -> tuple[Float32[np.ndarray, "x y z"] | None, Int64[np.ndarray, " voxels"] | None]:
    """Return the reference volume and the voxels' choice of response, where kept."""
    reference, hrf_index = (
        trials.arrays.get(name) for name in ("reference", "hrf_index")
    )
    return (
        None if reference is None else np.array(reference),
        None if hrf_index is None else np.array(hrf_index),
    )


def _matrix(affine: Affine) -> Float64[np.ndarray, "4 4"]:
    return np.array(affine, dtype=np.float64)


def _normaliser(trials: PreparedTrials) -> AffineNormaliser:
    voxels = trials.manifest.voxels
    if units_of(trials.manifest.estimated_by()) == "session z":
        return AffineNormaliser(
            np.zeros(voxels, np.float32), np.ones(voxels, np.float32)
        )
    return AffineNormaliser(
        np.array(trials.arrays["mean"][0]), np.array(trials.arrays["std"][0])
    )


def candidates_from(trials: PreparedTrials) -> Candidates:
    """Return what a gallery is made of: every picture where none are named for it."""
    manifest = trials.manifest
    row_of = {name: row for row, name in enumerate(manifest.image_ids)}
    names = manifest.gallery or manifest.image_ids
    rows = np.array([row_of[name] for name in names], dtype=np.int64)
    labels = manifest.labels or manifest.image_ids
    stimuli = trials.arrays.get("stimuli")
    return Candidates(
        latents=trials.arrays["latents"],
        rows=rows,
        ids=names,
        labels=[labels[row] for row in rows],
        images=None if stimuli is None else stimuli[rows],
        calibration=(
            trials.split("calibration") if "calibration" in manifest.splits else None
        ),
    )


def split_of(
    trials: PreparedTrials, bundle: Bundle, split: str, at_most: int | None = None
) -> SplitTrials:
    """Return the trials of a split, after comparing the folder with the bundle.

    Args:
        trials: Of the participant whom the bundle was trained on.
        bundle: Says which voxels, estimated how, and which z_v.
        split: Whose trials; the model must not have been trained on it.
        at_most: Read no more than this many, evenly spread over time.

    Raises:
        ArtifactError: No such split, or trials of another participant, other voxels,
            another estimator or other z_v than the bundle's.
    """
    _check_fits(trials, bundle)
    rows = trials.rows(split)
    # In order of time: repetitions are counted by it.
    order = rows.start + np.argsort(trials.arrays["position"][rows], kind="stable")
    if at_most is not None:
        order = order[evenly(len(order), at_most)]
    voxels = take_rows(trials.arrays["voxels"], order)
    images, shown = np.unique(trials.arrays["image"][order], return_inverse=True)
    manifest = trials.manifest
    is_by_session = bundle.manifest.voxels.units == "session z"
    return SplitTrials(
        betas=voxels if is_by_session else trials.in_units(voxels, order),
        shown=shown.astype(np.int64),
        z_v=take_rows(trials.arrays["latents"], images).astype(np.float32, copy=False),
        pictures=_pictures(trials, images),
        names=[manifest.image_ids[row] for row in images],
        labels=[manifest.labels[row] for row in images] if manifest.labels else None,
        rois={WHOLE_MASK: np.ones(manifest.voxels, dtype=np.bool_)} | _regions(trials),
        rois_absent=(
            None
            if manifest.regions
            else Absent("the folder of trials holds no map of regions (regions.npy)")
        ),
        sessions=_sessions(trials, order) if is_by_session else None,
    )


def _regions(trials: PreparedTrials) -> dict[str, Bool[np.ndarray, " voxels"]]:
    names = trials.manifest.regions
    return {
        name: np.array(trials.arrays["regions"][row]) for row, name in enumerate(names)
    }


def _pictures(
    trials: PreparedTrials, images: Int64[np.ndarray, " images"]
) -> Pictures | Absent:
    """Return pictures, in increasing order; mapped, not read, where they are a run."""
    kept, first = trials.arrays.get("stimuli"), 0
    if kept is None:
        kept = trials.arrays.get("test_pictures")
        first = len(trials.manifest.image_ids) - trials.manifest.test_images
    if kept is None:
        return Absent(
            "the folder of trials keeps no pictures (stimuli.npy, test_pictures.npy)"
        )
    rows = images - first
    if rows[0] < 0:
        return Absent("the folder of trials keeps the pictures of the test alone")
    is_run = rows[-1] - rows[0] == len(rows) - 1
    return kept[rows[0] : rows[-1] + 1] if is_run else np.array(kept[rows])


def _sessions(trials: PreparedTrials, order: Int64[np.ndarray, " trials"]) -> Sessions:
    return Sessions(
        mean=np.array(trials.arrays["mean"]),
        std=np.array(trials.arrays["std"]),
        of_trial=np.array(trials.arrays["group"][order]),
    )


def said_of_trials(trials: PreparedTrials, split: str) -> str:
    """Say that pictures of a split were trained on; empty where none was.

    Raises:
        ArtifactError: No such split.
    """
    if "train" not in trials.manifest.splits:
        return ""
    learned, judged = (
        set(trials.arrays["image"][trials.rows(name)].tolist())
        for name in ("train", split)
    )
    return said_of_shared(learned, judged, split)


def _check_fits(trials: PreparedTrials, bundle: Bundle) -> None:
    ours, manifest = bundle.manifest, trials.manifest
    estimator, visual = manifest.estimated_by(), manifest.visual.spec()
    for field, wanted, found in (
        ("subject", ours.subject, manifest.subject),
        ("mask_sha256", ours.voxels.voxel_order_sha256, manifest.mask_sha256),
        ("betas", description(ours.estimator), description(estimator)),
        ("visual", backbone_words(ours.backbone), backbone_words(visual)),
        # The words above do not hold every constant.
        ("estimator", str(ours.estimator), str(estimator)),
        ("visual", str(ours.backbone), str(visual)),
    ):
        if wanted != found:
            raise ArtifactError(
                f"{trials.folder / MANIFEST}: {field}: expected {wanted} as the "
                f"bundle's, found {found}"
            )
    check_kept(trials, bundle.reference(), bundle.hrf_index)


def check_kept(
    trials: PreparedTrials,
    reference: Reference | None,
    hrf_index: Int64[np.ndarray, " voxels"] | None,
) -> None:
    """Compare what the estimator of some trials was fitted with to a bundle's.

    Raises:
        ArtifactError: Another reference volume, or another choice of responses.
    """
    volume = None if reference is None else reference.volume
    wanted = {"reference.npy": volume, "hrf_index.npy": hrf_index}
    for (name, one), other in zip(wanted.items(), _fitted(trials), strict=True):
        # The estimator, which is the same, says whether there is one.
        if one is None or other is None or np.array_equal(one, other):
            continue
        raise ArtifactError(
            f"{trials.folder / name}: expected the bundle's, found another. "
            "Give the trials that the model was trained on"
        )
