"""Heads: what a visual latent is turned into before it leaves.

Retrieval ranks a gallery by the cosine between latents from which the training mean
was subtracted (without it, every image resembles every other). Confidence is a softmax
of those cosines at a temperature that was fitted on calibration trials for a gallery
of this size.
"""

from collections.abc import Sequence

import numpy as np

from runtime.answers import Answer, Candidate
from runtime.arrays import Float32, Float64, Int64
from runtime.errors import TensorMismatchError
from runtime.rows import Latent, Latents, RowsOf, StandbyRows, WholeRows, length_of


class Retrieval:
    """A gallery ready to answer; its unit rows are computed once."""

    def __init__(
        self,
        latents: Latents,
        stimulus_ids: Sequence[str],
        labels: Sequence[str],
        *,
        mean: Float32[np.ndarray, "..."],
        temperature: float,
        top_k: int = 5,
        rows_of: RowsOf = WholeRows,
    ) -> None:
        """Prepare the search.

        Args:
            latents: Visual latents of the gallery.
            stimulus_ids: One identity for each item.
            labels: One class for each item.
            mean: Mean visual latent of the training images; subtracted on both sides.
            temperature: Of the softmax over cosines; from `fit_temperature`.
            top_k: How many candidates an answer lists.
            rows_of: What searches the gallery.

        Raises:
            BackendError: What searches cannot be opened.
            TensorMismatchError: Latents, identities and labels differ in number, or
                the mean has another shape than a latent.
        """
        if not len(latents) == len(stimulus_ids) == len(labels):
            raise TensorMismatchError(
                "gallery",
                expected=f"{len(latents)} identities and labels",
                found=f"{len(stimulus_ids)} and {len(labels)}",
            )
        if latents.shape[1:] != mean.shape:
            raise TensorMismatchError(
                "gallery.latents",
                expected=f"items of shape {mean.shape}",
                found=str(latents.shape[1:]),
            )
        self.stimulus_ids, self.labels = tuple(stimulus_ids), tuple(labels)
        self.temperature, self.top_k = temperature, min(top_k, len(latents))
        self._mean = mean.ravel()
        self._rows = rows_of(latents, mean)

    def cosines(self, z_v: Latent) -> Float32[np.ndarray, " items"]:
        """Return the cosine of `z_v` with every item, in gallery order.

        Raises:
            BackendError: An engine that searches failed.
        """
        return self._rows.cosines(z_v)

    @property
    def troubles(self) -> tuple[str, ...]:
        """A line where an engine that searched failed and was replaced."""
        rows = self._rows
        failed = isinstance(rows, StandbyRows) and rows.trouble
        return (failed,) if failed else ()

    def cosine(self, z_v: Latent, other: Latent) -> float:
        """Return the cosine of `z_v` with a latent that need not be in the gallery."""
        query, item = z_v.ravel() - self._mean, other.ravel() - self._mean
        item /= length_of(item)
        return float(item @ query / length_of(query))

    def answer(self, z_v: Latent) -> Answer:
        """Rank the gallery and say how sure the first place is."""
        cosines = self.cosines(z_v)
        if not np.isfinite(cosines).all():
            return Answer("ABSTAIN", reason="the latent is not finite")
        # A stable sort of the negated scores: equal scores keep gallery order, so that
        # two machines agree on ties.
        best = np.argsort(-cosines, kind="stable")[: self.top_k]
        probabilities = softmax(cosines, self.temperature)
        candidates = tuple(
            Candidate(self.stimulus_ids[i], self.labels[i], float(cosines[i]))
            for i in best
        )
        return Answer(
            "ANSWER",
            label=candidates[0].label,
            confidence=float(probabilities[best[0]]),
            candidates=candidates,
        )


def softmax(
    scores: Float32[np.ndarray, "*rows items"], temperature: float
) -> Float64[np.ndarray, "*rows items"]:
    """Return ``softmax(scores / temperature)`` over the last axis in float64."""
    logits = scores.astype(np.float64) / temperature
    logits -= logits.max(axis=-1, keepdims=True)
    weights = np.exp(logits)
    normalised: Float64[np.ndarray, "*rows items"] = weights / weights.sum(
        axis=-1, keepdims=True
    )
    return normalised


def fit_temperature(
    cosines: Float32[np.ndarray, "trials items"], shown: Int64[np.ndarray, " trials"]
) -> float:
    """Fit the temperature that makes the shown item most likely on the whole.

    Guo et al. (2017), "On calibration of modern neural networks", section 4.2: one
    parameter, fitted by the negative log likelihood of held-out trials.

    Args:
        cosines: Scores of calibration trials; none of them trained the model.
        shown: Column of the item that was shown in each trial.

    Returns:
        The temperature, between 0.001 and 10.
    """
    # Fitted before a session; a worker that starts in one does not wait for it.
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(shown))

    def loss(log_temperature: float) -> float:
        probabilities = softmax(cosines, float(np.exp(log_temperature)))
        return -float(np.log(probabilities[rows, shown] + 1e-300).mean())

    found = minimize_scalar(loss, bounds=(np.log(1e-3), np.log(10.0)), method="bounded")
    return float(np.exp(found.x))
