"""Does a model of fewer bits still find what it found? A gate of ranks, not of errors.

A cosine of 0.997 says that a latent hardly moved; whether its nearest neighbour in a
gallery is still the same is what a participant is told. Judged in pairs: the same noisy
latents are decoded before and after, so that what both find or both miss says nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float, Int64

from export.parity import Array, Reference
from runtime.errors import ParityError
from runtime.manifest import GateSpec, GraphPrecision

ITEMS: Final = 32
"""Of a gallery. Five that are lost and none won are more than noise: 16 % of it."""
NOISE: Final = 1.0
"""Standard deviation of what is added to a latent, in that of the latents. Without any
noise every item is found, whatever the engine."""
_CONFIDENCE: Final = 0.95


def ranks(
    found: Float[np.ndarray, "k tokens width"],
    gallery: Float[np.ndarray, "k tokens width"],
) -> Int64[np.ndarray, " k"]:
    """Return the rank of each latent's own item, from 1, among the whole gallery.

    By the cosine of what is left after the gallery's mean, as retrieval ranks
    (`runtime.heads`). An item that ties with another counts as behind it, and a latent
    that is not finite finds its own last.
    """
    rows, items = (x.reshape(len(x), -1).astype(np.float64) for x in (found, gallery))
    mean = items.mean(axis=0)
    rows, items = rows - mean, items - mean
    with np.errstate(invalid="ignore", over="ignore"):
        cosines = rows @ (items / np.linalg.norm(items, axis=1, keepdims=True)).T
    own = np.diagonal(cosines)[:, None]
    placed = np.asarray((cosines >= own).sum(axis=1), np.int64)
    return np.where(np.isfinite(cosines).all(axis=1), placed, len(items))


@final
@dataclass(frozen=True, slots=True)
class Change:
    """What retrieval lost and won between two engines."""

    items: int
    lost: int
    """Found first before, and not after."""
    won: int
    """The other way."""

    @property
    def allowed(self) -> int:
        """Return how many may be lost by chance, of those that changed.

        Where nothing but noise decides, each is as likely to be won as lost: the 95 %
        quantile of a binomial distribution of one half (the exact test of McNemar,
        1947, "Note on the sampling error of the difference between correlated
        proportions or percentages", one-sided).
        """
        # Late: it takes longer to import than all else here, and 8 bits alone ask.
        from scipy.stats import binom

        return int(binom.ppf(_CONFIDENCE, self.lost + self.won, 0.5))

    def gate(self, name: str, precision: GraphPrecision) -> GateSpec:
        """Return what a manifest keeps.

        Raises:
            ParityError: More are lost than noise explains.
        """
        if self.lost > self.allowed:
            raise ParityError(
                f"{name}: expected retrieval unchanged within noise, at most "
                f"{self.allowed} lost, found {self.lost} of {self.items} lost and "
                f"{self.won} won"
            )
        return GateSpec(
            name=name,
            metric="lost",
            limit=float(self.allowed),
            reached=float(self.lost),
            precision=precision,
        )


def change(before: Int64[np.ndarray, " k"], after: Int64[np.ndarray, " k"]) -> Change:
    """Compare the ranks of the same items, one by one."""
    was, is_ = before == 1, after == 1
    return Change(
        items=len(before),
        lost=int(np.count_nonzero(was & ~is_)),
        won=int(np.count_nonzero(~was & is_)),
    )


@final
@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Noisy neural latents, and the visual latents among which to find their own."""

    queries: Float[np.ndarray, "k tokens width"]
    gallery: Float[np.ndarray, "k tokens width"]
    before: Int64[np.ndarray, " k"]
    """Ranks by the model in float64."""

    def change_by(self, decode: Callable[[Array], Array]) -> Change:
        """Return what an engine loses and wins against float64."""
        found = np.stack([decode(query.astype(np.float32)) for query in self.queries])
        return change(self.before, ranks(found, self.gallery))


def task_of(
    reference: Reference, z_n: Float[np.ndarray, "k tokens width"], seed: int
) -> Task:
    """Make a task of latents: find each one's z_v from a noisy copy of it.

    Args:
        reference: The model in float64.
        z_n: As many different ones as the gallery shall have.
        seed: Of the noise.
    """
    rng = np.random.default_rng(seed)
    noise = NOISE * z_n.std() * rng.standard_normal(z_n.shape)
    queries = (z_n + noise).astype(np.float32)
    gallery = reference.flow(z_n.astype(np.float32), "decode")
    before = ranks(reference.flow(queries, "decode"), gallery)
    return Task(queries, gallery, before)


def blends(
    voxels: Float[np.ndarray, "k voxels"], count: int, seed: int
) -> Float[np.ndarray, "count voxels"]:
    """Return sums of real trials with random weights, of their mean length.

    A bundle has a few golden trials and a gallery needs more that are like them.
    """
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, len(voxels))) @ voxels.astype(np.float64)
    lengths = np.linalg.norm(mixed, axis=1, keepdims=True)
    length = np.linalg.norm(voxels, axis=1).mean()
    return np.asarray(mixed * length / np.maximum(lengths, 1e-30))
