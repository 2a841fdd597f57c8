"""What a participant's answers are held against: ridge, and what its truth allows.

Same trials, same gallery, same causal betas for all three.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from runtime.heads import Retrieval
from training.dataset import Dataset
from training.participant import (
    Lapses,
    ParticipantFolder,
    decoding_ceiling,
    encoding_ceiling,
    fit_beta_model,
)
from training.ridge import Ridge, fit_ridge_tuned

FOLDS = 5
SUPPRESSOR = "SUP"
Latents = Float32[np.ndarray, "trials tokens width"]


@dataclass(frozen=True, slots=True, eq=False)
class Ceilings:
    """Upper bounds that follow from a simulated participant's own truth."""

    single: Bool[np.ndarray, " trials"]
    """Whether the Bayes decoder has each test trial right."""
    joint: Bool[np.ndarray, " images"]
    """The same with all the trials of an image judged together."""
    encoding_r: float
    """Mean over visual voxels of sqrt(NC), at the repeats of the test set."""


@dataclass(frozen=True, slots=True, eq=False)
class RidgeBaseline:
    """Ridge from features to z_v, penalty tuned inside the training trials."""

    ridge: Ridge
    is_whitened: bool
    """Whether it chose the whitened features or the plain z-scored betas."""

    def decode(
        self, dataset: Dataset, betas: Float32[np.ndarray, "trials voxels"]
    ) -> Latents:
        """Return z_v of trials given as betas in percent signal."""
        features = _features(dataset, betas, is_whitened=self.is_whitened)
        tokens, width = dataset.latents.shape[1:]
        predicted = self.ridge.predict(features).astype(np.float32)
        return predicted.reshape(len(betas), tokens, width)


def _features(
    dataset: Dataset,
    betas: Float32[np.ndarray, "trials voxels"],
    *,
    is_whitened: bool,
) -> Float32[np.ndarray, "trials voxels"]:
    space = dataset.space
    return space.to_model(betas) if is_whitened else space.affine.normalise(betas)


def fit_ridge_baseline(dataset: Dataset) -> RidgeBaseline:
    """Fit ridge with the features and the penalty that training images prefer.

    Whole images are left out together: repeats of one image are never on both sides.
    What the model gets, whitened features, ridge may have too.
    """
    train = dataset.betas.select("train")
    image = dataset.rows(train)
    targets = dataset.latents.reshape(len(dataset.latents), -1)[image]
    candidates = []
    for is_whitened in (False, True):
        features = _features(dataset, train.betas, is_whitened=is_whitened)
        ridge, reached = fit_latent_ridge(
            features, targets, image_folds(image), dataset.latent_mean().ravel()
        )
        candidates.append((reached, RidgeBaseline(ridge, is_whitened)))
    return max(candidates, key=lambda candidate: candidate[0])[1]


def image_folds(image: Int64[np.ndarray, " trials"]) -> Int64[np.ndarray, " trials"]:
    """Deal trials to folds so that all the repeats of an image are in one."""
    # Position in the sorted list of images, so that folds are even whatever the rows.
    places: Int64[np.ndarray, " trials"] = np.unique(image, return_inverse=True)[1]
    return places % FOLDS


def fit_latent_ridge(
    features: Float32[np.ndarray, "trials voxels"],
    targets: Float32[np.ndarray, "trials values"],
    folds: Int64[np.ndarray, " trials"],
    centre: Float32[np.ndarray, " values"],
) -> tuple[Ridge, float]:
    """Fit ridge to latents at the penalty that gives the best cosines when left out.

    Args:
        features: One row a trial.
        targets: z_v of what was shown, flat.
        folds: Of each trial; each in turn is left out to rate a penalty.
        centre: Subtracted from both sides of a cosine.

    Returns:
        The fit on all trials, and the mean cosine that chose it.
    """

    def score(
        predicted: Float64[np.ndarray, "n k"], index: Int64[np.ndarray, " n"]
    ) -> float:
        return float(_row_cosines(predicted - centre, targets[index] - centre).mean())

    return fit_ridge_tuned(features, targets, folds, score)


def repeat_means(
    rows: Float32[np.ndarray, "trials voxels"], image: Int64[np.ndarray, " trials"]
) -> tuple[Float32[np.ndarray, "images voxels"], Int64[np.ndarray, " images"]]:
    """Return the mean over all trials of each image, and the images, ascending."""
    images = np.unique(image)
    return np.stack([rows[image == one].mean(axis=0) for one in images]), images


def _row_cosines(
    a: Float64[np.ndarray, "n k"], b: Float64[np.ndarray, "n k"]
) -> Float64[np.ndarray, " n"]:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: Float64[np.ndarray, " n"] = (a * b).sum(axis=1) / np.maximum(norms, 1e-30)
    return cosines


def top1(
    search: Retrieval, decoded: Latents, shown: Sequence[str]
) -> Bool[np.ndarray, " trials"]:
    """Say for each trial whether the best of the gallery is what was shown."""
    best = [int(np.argmax(search.cosines(z_v))) for z_v in decoded]
    return np.array(
        [search.stimulus_ids[i] == seen for i, seen in zip(best, shown, strict=True)]
    )


def ceilings(dataset: Dataset, participant: ParticipantFolder) -> Ceilings:
    """Return what the participant's truth allows on the test trials.

    The maximum a posteriori decoder under the true generator, with the same gallery
    and the same causal betas; encoding by the noise ceiling of the test images.

    Args:
        dataset: With the splits train and test.
        participant: The same participant, with its truth.
    """
    truth, table = participant.truth(), participant.parameters()
    train, test = dataset.betas.select("train"), dataset.betas.select("test")
    trained, shown = dataset.rows(train), dataset.rows(test)
    gallery = np.array(dataset.stimuli.gallery_rows())
    noise = truth["noise_loadings"] * truth["noise_scale_percent"]
    model = fit_beta_model(
        train.betas.astype(np.float64),
        truth["patterns"][trained],
        (truth["trial_factor"], noise),
    )
    found = decoding_ceiling(
        test.betas.astype(np.float64),
        np.searchsorted(gallery, shown),
        truth["patterns"][gallery],
        model,
        Lapses(table.lapse_probability, table.lapse_gain_high, table.gain_sd),
    )
    repeats = round(len(shown) / len(np.unique(shown)))
    per_voxel = encoding_ceiling(test.betas.astype(np.float64), shown, repeats)
    visual = visual_voxels(participant)
    return Ceilings(found.single, found.joint, float(per_voxel[visual].mean()))


def visual_voxels(participant: ParticipantFolder) -> Bool[np.ndarray, " voxels"]:
    """Return the voxels that carry signal: all but the suppressor's."""
    return np.array([name != SUPPRESSOR for name in participant.roi_names()])


def encoding_correlation(
    predicted: Float32[np.ndarray, "images voxels"],
    measured: Float32[np.ndarray, "images voxels"],
    voxels: Bool[np.ndarray, " voxels"],
) -> float:
    """Return the mean over voxels of the correlation across images.

    Across images, not across voxels: the latter mostly rewards knowing the mean
    pattern. Voxels whose prediction or measurement never varies count as zero.
    """
    a = predicted[:, voxels].astype(np.float64)
    b = measured[:, voxels].astype(np.float64)
    return float(_row_cosines((a - a.mean(axis=0)).T, (b - b.mean(axis=0)).T).mean())


def pixel_correlation(
    decoded: Sequence[np.ndarray], seen: Sequence[np.ndarray]
) -> float:
    """Return the mean over trials of the correlation of pixels (PixCorr)."""
    a = np.stack([image.ravel() for image in decoded]).astype(np.float64)
    b = np.stack([image.ravel() for image in seen]).astype(np.float64)
    a -= a.mean(axis=1, keepdims=True)
    b -= b.mean(axis=1, keepdims=True)
    return float(_row_cosines(a, b).mean())
