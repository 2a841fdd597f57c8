"""Several participants' evaluations as one row: means over people, crossed intervals.

Pure. What the papers print as the average of subjects 1, 2, 5 and 7; the intervals are
over other people and other images, which `crossed.crossed_draws` draws apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np
from jaxtyping import Float64

from runtime.errors import ArtifactError, UsageError
from training.metrics.crossed import crossed_interval
from training.metrics.intervals import MIN_IMAGES, image_interval
from training.metrics.ledger import Ledger, Row, row_name
from training.metrics.result import (
    Absent,
    BundleEvaluation,
    CombinedEvaluation,
    EncodingFigures,
    Figure,
    ImageFigures,
    Participant,
    RetrievalFigures,
    RoiFigures,
    SpreadFigures,
    Value,
)

SEED = 0
_SAME = 1e-9
"""Of a mean and the values that it was computed from: rounding, and no more."""

AnyRow = TypeVar(
    "AnyRow", ImageFigures, RetrievalFigures, EncodingFigures, SpreadFigures
)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One participant's evaluation and the values behind it."""

    name: str
    """Of its folder, for messages."""
    result: BundleEvaluation
    ledger: Ledger


def combine(judged: Sequence[Judged], seed: int = SEED) -> CombinedEvaluation:
    """Average participants, with intervals over people and images.

    A figure that one of them lacks is absent, with whose it is.

    Args:
        judged: Two or more, of different participants and the same split.
        seed: Draws the intervals.

    Raises:
        UsageError: Fewer than two, the same participant twice, or evaluations of
            another split or of betas that were estimated otherwise.
        ArtifactError: Values are not those that an evaluation's figures came from.
    """
    _check_fit(judged)
    for one in judged:
        _check_values(one)
    people = _People(judged, np.random.default_rng(seed))
    first = judged[0].result
    return CombinedEvaluation(
        participants=[
            Participant(
                subject=one.result.subject,
                recording=one.result.recording,
                bundle_sha256=one.result.bundle_sha256,
                trials=one.result.trials,
                images=one.result.images,
                repeats=one.result.repeats,
                rendered_elsewhere=one.result.rendered_elsewhere,
            )
            for one in judged
        ],
        split=first.split,
        responses=first.responses,
        images=len(people.images),
        images_seen_by_all=len(set.intersection(*people.seen)),
        seed=seed,
        reconstructions=people.rows(lambda result: result.reconstructions),
        retrieval=people.rows(lambda result: result.retrieval),
        encoding=people.rows(lambda result: result.encoding),
        spread=people.rows(lambda result: result.spread),
        spread_from="; ".join(
            sorted({one.result.spread_from for one in judged} - {""})
        ),
    )


def _check_fit(judged: Sequence[Judged]) -> None:
    if len(judged) < 2:
        raise UsageError(
            f"--combine: expected at least two evaluations, found {len(judged)}"
        )
    first = judged[0]
    people: dict[str, str] = {}
    for one in judged:
        # A bundle is one person's, whatever the person is called.
        for who in (one.result.subject, f"bundle {one.result.bundle_sha256[:12]}"):
            if who in people:
                raise UsageError(
                    f"--combine: expected different participants, found {who} in "
                    f"{people[who]} and {one.name}"
                )
            people[who] = one.name
        for what in ("split", "responses"):
            wanted, found = getattr(first.result, what), getattr(one.result, what)
            if wanted != found:
                raise UsageError(
                    f"--combine: {what}: expected {wanted} as in {first.name}, found "
                    f"{found} in {one.name}"
                )


def _check_values(one: Judged) -> None:
    """Compare an evaluation's means with the values that lie beside it."""
    result = one.result
    if len(one.ledger.images) != result.images:
        raise ArtifactError(
            f"{one.name}: expected values of {result.images} images, found "
            f"{len(one.ledger.images)}"
        )
    rows: list[Row] = [
        *result.reconstructions,
        *result.retrieval,
        *result.encoding,
        *result.spread,
    ]
    for row in rows:
        for field in row.__struct_fields__:
            name, figure = f"{row_name(row)}/{field}", getattr(row, field)
            known = one.ledger.values.get(name)
            if known is None or not isinstance(figure, Value):
                continue
            found = float(known[0].mean())
            if not abs(found - figure.mean) <= _SAME * max(1.0, abs(figure.mean)):
                raise ArtifactError(
                    f"{one.name}: {name}: expected values of mean {figure.mean:g}, as "
                    f"the evaluation says, found {found:g}. Evaluate again"
                )


def _identities(judged: Sequence[Judged]) -> list[Sequence[str]]:
    """Name each person's images so that the same name is the same picture.

    By names alone where somebody's pictures are not kept.
    """
    if not all(one.ledger.pictures for one in judged):
        return [one.ledger.images for one in judged]
    return [
        [" ".join(both) for both in zip(ledger.images, ledger.pictures, strict=True)]
        for ledger in (one.ledger for one in judged)
    ]


class _People:
    """Participants side by side, figure by figure."""

    def __init__(self, judged: Sequence[Judged], rng: np.random.Generator) -> None:
        self._judged, self._rng = judged, rng
        names = _identities(judged)
        self.seen = [set(of_one) for of_one in names]
        self.images = sorted(set.union(*self.seen))
        self._shared = len(set.intersection(*self.seen))
        place = {name: number for number, name in enumerate(self.images)}
        self._places = [
            np.array([place[name] for name in of_one], dtype=np.int64)
            for of_one in names
        ]

    def rows(self, of: Callable[[BundleEvaluation], Sequence[AnyRow]]) -> list[AnyRow]:
        """Combine the rows that everybody has."""
        theirs = [{row_name(row): row for row in of(j.result)} for j in self._judged]
        return [
            self._row(name, [known[name] for known in theirs])
            for name in theirs[0]
            if all(name in known for known in theirs)
        ]

    def _row(self, name: str, rows: Sequence[AnyRow]) -> AnyRow:
        changes: dict[str, object] = {}
        for field in rows[0].__struct_fields__:
            found = [getattr(row, field) for row in rows]
            if isinstance(found[0], Value | Absent):
                changes[field] = self._figure(f"{name}/{field}", found)
            elif field == "rois":
                changes[field] = self._regions(name, found)
            elif field == "pixcorr_percentiles":
                changes[field] = None
            elif field == "candidates":
                changes[field] = min(found)
        return msgspec.structs.replace(rows[0], **changes)

    def _regions(
        self, name: str, theirs: Sequence[Sequence[RoiFigures]]
    ) -> list[RoiFigures]:
        by_name = [{roi.roi: roi for roi in rois} for rois in theirs]
        combined = []
        for region in by_name[0]:
            if not all(region in known for known in by_name):
                continue
            found = [known[region] for known in by_name]
            combined.append(
                RoiFigures(
                    roi=region,
                    voxels=sum(roi.voxels for roi in found),
                    **{
                        field: self._figure(
                            f"{name}/regions/{region}/{field}",
                            [getattr(roi, field) for roi in found],
                        )
                        for field in (
                            "correlation",
                            "ceiling",
                            "normalised",
                            "explained_variance",
                        )
                    },
                )
            )
        return combined

    def _figure(self, name: str, found: Sequence[Figure]) -> Figure:
        values: list[Value] = []
        for one, figure in zip(self._judged, found, strict=True):
            if isinstance(figure, Absent):
                # Not by its folder: a page that is passed on names no place.
                return Absent(f"{one.result.subject}: {figure.reason}")
            values.append(figure)
        chances = {value.chance for value in values}
        chance = chances.pop() if len(chances) == 1 else None
        n = len(self.images)
        mean = float(np.mean([value.mean for value in values]))
        if any(one.result.images < MIN_IMAGES for one in self._judged):
            return Value(mean=mean, chance=chance, n=n)
        if all(name in one.ledger.values for one in self._judged):
            return self._crossed(name, chance)
        if all(name in one.ledger.draws for one in self._judged):
            low, high = self._drawn(name)
            return Value(mean=mean, low=low, high=high, chance=chance, n=n)
        # One figure a participant and no more: an interval over these few says nothing.
        return Value(mean=mean, chance=chance, n=sum(value.n for value in values))

    def _crossed(self, name: str, chance: float | None) -> Value:
        known = [one.ledger.values[name] for one in self._judged]
        images = [
            place[about] for place, (_, about) in zip(self._places, known, strict=True)
        ]
        # Where nobody saw another's images, these are drawn within each person.
        interval = crossed_interval if self._shared else image_interval
        found = interval(
            np.concatenate([values for values, _ in known]),
            self._rng,
            images=np.concatenate(images),
            participants=np.repeat(
                np.arange(len(known)), [len(values) for values, _ in known]
            ),
        )
        return Value(
            mean=found.mean,
            low=found.low,
            high=found.high,
            chance=chance,
            n=len(np.unique(np.concatenate(images))),
        )

    def _drawn(self, name: str) -> tuple[float | None, float | None]:
        """Return the interval of a figure that is no mean over images.

        Each draw has the same images for everybody, if they saw the same; participants
        are drawn over that. Where they saw some images in common and others not, the
        draws are of nothing that they share, and there is no interval.
        """
        if self._shared and self._shared != len(self.images):
            return None, None
        draws = [one.ledger.draws[name] for one in self._judged]
        if len({len(one) for one in draws}) != 1:
            return None, None
        table = np.stack(draws)
        low, high = np.percentile(_over_people(table, self._rng), [2.5, 97.5])
        return float(low), float(high)


def _over_people(
    table: Float64[np.ndarray, "participants draws"], rng: np.random.Generator
) -> Float64[np.ndarray, " draws"]:
    people, draws = table.shape
    counts = rng.multinomial(people, np.full(people, 1 / people), size=draws)
    return np.asarray((counts * table.T).sum(axis=1) / people)
