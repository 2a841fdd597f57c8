"""Metrics on the features of networks: two-way identification and distance.

"Incep", "CLIP", "Alex(2)" and "Alex(5)" of the papers are two-way identification in
percent; "Incep" is not the Inception Score. "Eff" and "SwAV" are distances, where
smaller is better.
"""

from typing import Final

import numpy as np
from jaxtyping import Float64, Shaped

from runtime.errors import TensorMismatchError
from training.metrics.correlation import (
    check_paired,
    flat_rows,
    row_correlations,
    standard_rows,
)

CHANCE: Final = 0.5
"""Two-way identification of reconstructions that know nothing."""

Features = Shaped[np.ndarray, "images *features"]
PerImage = Float64[np.ndarray, " images"]


def two_way(shown: Features, reconstructed: Features) -> PerImage:
    """Return how often each reconstruction is nearer to its image than to another.

    NeuroFlow's released `eval.py` (lines 239 to 251): with r[i, j] Pearson's
    correlation across features of shown image i and reconstruction j, success is
    r[i, j] < r[j, j] for i other than j. The mean over all ordered pairs is the mean of
    what this returns. A tie is no success, as there.

    Args:
        shown: Features of the images shown, any shape an image.
        reconstructed: Features of the reconstructions, in the same order.

    Returns:
        A share in [0, 1] for each image; the papers print the mean times 100.

    Raises:
        TensorMismatchError: Other shapes, or fewer than two images.
    """
    check_paired("features", shown, reconstructed)
    if len(shown) < 2:
        raise TensorMismatchError(
            "features", expected="at least two images", found=f"{len(shown)}"
        )
    r = standard_rows(flat_rows(shown)) @ standard_rows(flat_rows(reconstructed)).T
    # The diagonal never beats itself, so that it needs no exception.
    return np.asarray((r < np.diag(r)[None]).sum(axis=0) / (len(shown) - 1))


def correlation_distances(shown: Features, reconstructed: Features) -> PerImage:
    """Return one minus Pearson's correlation across features, an image.

    NeuroFlow's released `eval.py` (lines 260 and 261): scipy's correlation distance,
    averaged over images. 0 is the same up to scale and offset, 1 unrelated, 2 opposite.

    Args:
        shown: Features of the images shown.
        reconstructed: Features of the reconstructions, in the same order.

    Raises:
        TensorMismatchError: Other shapes.
    """
    return 1.0 - row_correlations(flat_rows(shown), flat_rows(reconstructed))
