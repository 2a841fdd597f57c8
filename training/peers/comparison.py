"""What the peers' sheets amount to: accuracies, and ours minus each, with intervals.

Pure: sheets in, figures out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import numpy as np
from jaxtyping import Float64, Int64

from runtime.errors import RecordingError
from training.metrics.intervals import image_interval, paired_interval
from training.peers.sheet import Sheet
from training.resample import Interval

OURS: Final = "ours"
Measure = Literal["picture", "picture of means", "category", "category of means"]
MEASURES: Final[tuple[Measure, ...]] = (
    "picture",
    "picture of means",
    "category",
    "category of means",
)
SHIFTED: Final = "shifted"
"""Condition of answers held against the next stimulus; needs no training."""
RESAMPLE_SEED: Final = 0


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One peer under one condition, by one measure."""

    measure: Measure
    accuracy: Interval
    by_subject: dict[int, float]
    """Share right, by participant, or by run of the recording."""
    ours_minus: Interval | None
    """On the same trials of the same participants; None of ours and of controls."""
    chance: float


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One peer under one condition."""

    peer: str
    condition: str
    subjects: list[int]
    parameters: list[int]
    """Fewest and most over participants, whose voxels differ in number."""
    evaluations: int
    training_s: float
    """Processor seconds of one training, mean."""
    figures: list[Figure]
    """Of the measures that the peer can be asked about."""


@dataclass(frozen=True, slots=True, eq=False)
class _Hits:
    """Right or wrong, with what the intervals draw."""

    right: Float64[np.ndarray, " trials"]
    subject: Int64[np.ndarray, " trials"]
    """Participant, or run."""
    image: Int64[np.ndarray, " trials"]
    """Picture, or block."""


def compare_peers(sheets: Sequence[Sheet], peers: Sequence[str]) -> list[Row]:
    """Turn the sheets of one kind of participant into rows.

    Args:
        sheets: Of one kind.
        peers: Names, in the order of the rows; those without a sheet are left out.

    Raises:
        RecordingError: Two peers were not asked the same questions, or one was asked
            with several settings.
    """
    for peer in peers:
        settings = {one.recipe for one in sheets if one.peer == peer}
        if len(settings) > 1:
            raise RecordingError(
                f"peers: expected one recipe of {peer}, found {len(settings)}. "
                "Remove the older sheets"
            )
    found: list[Row] = []
    for condition in ("real", "shuffled", "no signal", SHIFTED):
        stored = "real" if condition == SHIFTED else condition
        for peer in peers:
            own = _of(sheets, peer, stored)
            ours = _of(sheets, OURS, stored) if condition == "real" else {}
            if own:
                found.append(_row(own, ours if peer != OURS else {}, condition))
    return found


def _of(sheets: Sequence[Sheet], peer: str, condition: str) -> dict[int, Sheet]:
    """Return sheets by participant, in order."""
    chosen = [s for s in sheets if s.peer == peer and s.condition == condition]
    return {one.subject: one for one in sorted(chosen, key=lambda s: s.subject)}


def _row(own: dict[int, Sheet], ours: dict[int, Sheet], condition: str) -> Row:
    sheets = list(own.values())
    both = [subject for subject in own if subject in ours]
    counts = [one.parameters for one in sheets]
    figures = []
    for measure in MEASURES:
        hits = _hits(sheets, measure, condition)
        if hits is None:
            continue
        rng = np.random.default_rng(RESAMPLE_SEED)
        figures.append(
            Figure(
                measure=measure,
                accuracy=image_interval(
                    hits.right, rng, images=hits.image, participants=hits.subject
                ),
                by_subject={
                    int(one): float(hits.right[hits.subject == one].mean())
                    for one in np.unique(hits.subject)
                },
                ours_minus=_difference(own, ours, both, measure) if both else None,
                chance=1
                / (sheets[0].gallery if "picture" in measure else sheets[0].categories),
            )
        )
    return Row(
        peer=sheets[0].peer,
        condition=condition,
        subjects=list(own),
        parameters=[min(counts), max(counts)],
        evaluations=sheets[0].evaluations,
        training_s=sum(one.training_s for one in sheets) / len(sheets),
        figures=figures,
    )


def _difference(
    own: dict[int, Sheet],
    ours: dict[int, Sheet],
    subjects: Sequence[int],
    measure: Measure,
) -> Interval | None:
    for subject in subjects:
        for name in ("image", "run", "stretch", "mean_image"):
            if getattr(own[subject], name) != getattr(ours[subject], name):
                raise RecordingError(
                    f"peers: expected the same questions to {own[subject].peer} and "
                    f"to ours, found another {name} of participant {subject}"
                )
    theirs = _hits([own[subject] for subject in subjects], measure, "real")
    of_ours = _hits([ours[subject] for subject in subjects], measure, "real")
    if theirs is None or of_ours is None:
        return None
    return paired_interval(
        of_ours.right,
        theirs.right,
        np.random.default_rng(RESAMPLE_SEED),
        images=theirs.image,
        participants=theirs.subject,
    )


def _hits(sheets: Sequence[Sheet], measure: Measure, condition: str) -> _Hits | None:
    parts = [_hits_of(one, measure, condition) for one in sheets]
    known = [part for part in parts if part is not None]
    if not known:
        return None
    return _Hits(
        np.concatenate([part.right for part in known]),
        np.concatenate([part.subject for part in known]),
        np.concatenate([part.image for part in known]),
    )


def _hits_of(one: Sheet, measure: Measure, condition: str) -> _Hits | None:
    is_mean, is_shifted = measure.endswith("means"), condition == SHIFTED
    is_picture = measure.startswith("picture")
    if is_mean and (is_shifted or not one.mean_image):
        return None
    said = {
        "picture": one.picture,
        "picture of means": one.mean_picture,
        "category": one.category,
        "category of means": one.mean_category,
    }[measure]
    if said is None:
        return None
    if is_mean:
        shown = one.mean_image if is_picture else one.mean_image_category
        image, run = one.mean_image, [0] * len(said)
    elif is_shifted:
        shown = one.next_image if is_picture else one.next_category
        image, run = one.image, one.run
    else:
        shown = one.image if is_picture else one.image_category
        image, run = one.image, one.run
    asked = np.array(shown) >= 0
    right = (np.array(said) == np.array(shown)).astype(np.float64)
    # A recording is one person: its runs are drawn, and blocks within them.
    is_runs = one.kind == "haxby"
    outer = np.array(run) if is_runs else np.full(len(said), one.subject)
    inner = np.array(one.stretch) if is_runs else np.array(image)
    return _Hits(right[asked], outer[asked].astype(np.int64), inner[asked])
