"""A day's correction of a model's first layer, without a new graph. Pure.

What the first layer makes of features x is one product ``W x``. Today the participant's
response to an image is not the one that the model predicts, ``s``, but ``(I + T) s``:
the head lies elsewhere, the tuning has drifted. T is fitted by ridge on trials with
known images, today's measured response against the model's prediction (Hoerl &
Kennard, 1970)::

    minimise  sum_i |x_i - s_i - T s_i|^2 + penalty |T|^2

With ``S`` and ``E`` the rows ``sqrt(n) s`` and ``sqrt(n) (mean x - s)`` of each of k
images shown n times, the solution is ``T = E' (S S' + penalty I)^-1 S``: k images are
far fewer than voxels, so the small system is solved.

The features' noise is white (`runtime.preprocess.whiten`), so what a trial says of an
image is the inner product with the response expected of it: ``x . (I + T) s``, which is
``(I + T)' x . s``. Hence the corrected first layer is ``W (I + T)'``. For a rotation of
the tuning the adjoint is the inverse; where T is a gain it weighs voxels by their
signal. And since

    W (I + T)' x  =  W (x + S' (S S' + penalty I)^-1 E x)

for any W, correcting the input is correcting the layer, exactly and whatever its rank:
no file of the bundle changes and no engine is built anew. It costs two thin products.

The other direction, a ridge from measured to predicted responses, has to learn the
noise of every voxel from a few minutes and regains less (docs/calibration.md). There is
no intercept: a shift is the normalisation's (`runtime.preprocess.today`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np

from runtime.arrays import Bool, Float32, Float64, Int64
from runtime.decoder import DecodingModel
from runtime.products import combined, inner

PENALTIES: Final = tuple(float(p) for p in np.logspace(-1, 3, 9))
"""Penalties tried, in units of the mean square length of the rows of ``S``."""
NO_CORRECTION: Final = float("inf")
CANDIDATES: Final = (*PENALTIES, NO_CORRECTION)
FOLDS: Final = 5
"""Parts of the images that are left out in turn."""

Latent = Float32[np.ndarray, "tokens width"]
Voxels = Float32[np.ndarray, " voxels"]
Features = Float32[np.ndarray, "trials voxels"]
Images = Int64[np.ndarray, " trials"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class InputCorrection:
    """``x + writes' (reads x)``: what stands for a corrected first layer."""

    reads: Float32[np.ndarray, "rank voxels"] = field(repr=False)
    """E of the module's text: how today's responses differ from those predicted."""
    writes: Float32[np.ndarray, "rank voxels"] = field(repr=False)
    """``(S S' + penalty I)^-1 S``."""

    def apply(
        self, features: Float32[np.ndarray, "*batch voxels"]
    ) -> Float32[np.ndarray, "*batch voxels"]:
        """Return corrected features, in the model's units as they came."""
        moved = features + (features @ self.reads.T) @ self.writes
        return np.asarray(moved, dtype=np.float32)


@final
class CorrectedModel:
    """A model with today's first layer."""

    def __init__(self, model: DecodingModel, correction: InputCorrection) -> None:
        self._model, self._correction = model, correction

    def encode_voxels(self, voxels: Voxels) -> Latent:
        """Return z_n of corrected features."""
        return self._model.encode_voxels(self._correction.apply(voxels))

    def decode_latent(self, z_n: Latent) -> Latent:
        """Carry z_n back to z_v, as without the correction."""
        return self._model.decode_latent(z_n)


@dataclass(frozen=True, slots=True, eq=False)
class _Normal:
    """The small system of one set of trials, for many penalties."""

    s: Float64[np.ndarray, "images voxels"]
    e: Float64[np.ndarray, "images voxels"]
    gram: Float64[np.ndarray, "images images"]

    @classmethod
    def of(cls, features: Features, predicted: Features, image: Images) -> "_Normal":
        _, first, index, counts = np.unique(
            image, return_index=True, return_inverse=True, return_counts=True
        )
        s = predicted[first].astype(np.float64)
        sums = np.zeros_like(s)
        np.add.at(sums, index, features.astype(np.float64))
        root = np.sqrt(counts)[:, None]
        e = (sums / counts[:, None] - s) * root
        s *= root
        return cls(s, e, inner(s, s))

    def inverse(self, penalty: float) -> Float64[np.ndarray, "images images"]:
        size = len(self.gram)
        unit = max(float(np.trace(self.gram)) / size, np.finfo(np.float64).tiny)
        return np.linalg.inv(self.gram + penalty * unit * np.eye(size))


def fit_correction(
    features: Features, predicted: Features, image: Images, penalty: float
) -> InputCorrection | None:
    """Fit today's correction at a penalty.

    Args:
        features: Today's trials in the model's units, normalisation of today included.
        predicted: The model's predicted response to each trial's image, same units.
        image: What was shown, by number.
        penalty: One of `PENALTIES`, in their unit.

    Returns:
        The correction; None at `NO_CORRECTION`.
    """
    if np.isinf(penalty):
        return None
    normal = _Normal.of(features, predicted, image)
    writes = combined(normal.inverse(penalty), normal.s)
    return InputCorrection(normal.e.astype(np.float32), writes.astype(np.float32))


def choose_penalty(
    features: Features,
    predicted: Features,
    image: Images,
    candidates: Sequence[float] = CANDIDATES,
) -> float:
    """Return the penalty under which left-out trials are told apart best.

    Trials of left-out images are compared with the predicted responses to these images
    by cosine; counted is how often the own one is nearer than another. No engine runs.

    Args:
        features: As in `fit_correction`.
        predicted: As there.
        image: As there.
        candidates: What to try, increasing; ties go to the larger.
    """
    wins = np.zeros(len(candidates))
    for held in image_folds(image):
        normal = _Normal.of(features[~held], predicted[~held], image[~held])
        _, first, own = np.unique(image[held], return_index=True, return_inverse=True)
        templates = predicted[held][first].astype(np.float64)
        lengths = np.linalg.norm(templates, axis=1, keepdims=True)
        templates /= np.where(lengths > 0, lengths, 1.0)
        rows = features[held].astype(np.float64)
        plain, read = inner(rows, templates), inner(rows, normal.e)
        written = inner(normal.s, templates)
        for k, penalty in enumerate(candidates):
            scores = plain
            if not np.isinf(penalty):
                scores = plain + read @ (normal.inverse(penalty) @ written)
            shown = scores[np.arange(len(rows)), own][:, None]
            wins[k] += (scores < shown).sum() / max(1, len(templates) - 1)
    return candidates[max(range(len(candidates)), key=lambda k: (wins[k], k))]


def image_folds(image: Images) -> list[Bool[np.ndarray, " trials"]]:
    """Return which trials are left out in each fold: all of an image, or none.

    Images are parted in the order in which they first came, so that a fold is a stretch
    of time where each image is shown once.
    """
    _, first = np.unique(image, return_index=True)
    order = image[np.sort(first)]
    parts = np.array_split(order, min(FOLDS, len(order)))
    return [np.isin(image, part) for part in parts]
