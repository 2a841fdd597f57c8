"""Linear discriminant analysis, what a real-time study would try first.

Fisher (1936); covariance shrunk as Ledoit & Wolf (2004) choose by themselves, so that
nothing is left to tune. It names categories that it has seen: which of the pictures was
shown is no question that it can answer.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.errors import BackendError
from training.peers.contract import (
    CategoryNamer,
    Counted,
    Features,
    Lesson,
    Rows,
    uncounted,
)


@dataclass(frozen=True, slots=True)
class Lda:
    """scikit-learn's, solver ``lsqr``, shrinkage ``auto``."""

    def fit(self, lesson: Lesson, counted: Counted = uncounted) -> "FittedLda":
        """Learn.

        Raises:
            BackendError: scikit-learn is missing.
        """
        del counted
        model = _library().LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        features = lesson.trials.voxels.astype(np.float64)
        return FittedLda(model.fit(features, lesson.shown_categories()))


class FittedLda(CategoryNamer):
    """A linear score for each category."""

    evaluations = 1

    def __init__(self, model: Any) -> None:
        self._model = model
        self.parameters = int(model.coef_.size + model.intercept_.size)

    def name(self, features: Features) -> Rows:
        """Return the category of each trial."""
        named = self._model.predict(features.astype(np.float64))
        return np.asarray(named, dtype=np.int64)


def _library() -> Any:
    try:
        import sklearn.discriminant_analysis as library
    except ImportError as error:
        raise BackendError(
            "lda: expected scikit-learn, found it missing. Install neuroflow-rt[dev]"
        ) from error
    return library
