"""What left-out answers amount to: accuracies, paired differences, rest, intervals.

Pure: answers in, figures out. Chance among eight categories is .125.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from runtime.heads import fit_temperature, softmax
from training.evaluate import OURS, Answers
from training.haxby import CATEGORIES, Labels
from training.resample import Interval, auc, block_interval, blocks_of

PAIRS = (
    ("ours causal", "ridge causal"),
    ("ours causal", "ridge causal whitened"),
    ("ours offline", "ridge offline"),
    ("ours offline", "ridge offline whitened"),
    ("ours offline, tested causal", "ridge offline, tested causal"),
)
"""Ours against ridge on the same volumes; the first pair is the headline."""
THRESHOLDS = (0.0, 0.3, 0.5, 0.7, 0.9)
"""Confidences below which the answer is withheld."""


class MethodAccuracy(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Share of labelled volumes named rightly."""

    method: str
    accuracy: Interval
    per_run: list[float]
    """Mean over seeds, by left-out run."""
    per_seed: list[float]


class PairedDifference(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Ours minus ridge on the same volumes."""

    ours: str
    baseline: str
    difference: Interval
    difference_elsewhere: Interval | None
    """On the runs that no setting was chosen on; None where there are none."""
    per_run: list[float]


class Abstention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens when answers below a confidence are withheld."""

    threshold: float
    labelled_answered: float
    """Share of the labelled volumes that get an answer."""
    accuracy_of_answered: float | None
    """None where nothing is answered."""
    rest_answered: float
    """Share of the rest volumes that get an answer, all of them wrong."""


class RestDecisions(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """What is said of volumes at rest, which no category describes."""

    volumes: int
    distribution: list[float]
    """Share of the rest volumes given to each category, ours causal."""
    ridge_distribution: list[float]
    """The same for ridge, causal."""
    confidence_labelled: Interval
    confidence_rest: Interval
    auc: float
    """How often a labelled volume is more confident than a rest volume."""
    abstention: list[Abstention]


class Comparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All figures of one recording."""

    chance: float
    labelled_volumes: int
    methods: list[MethodAccuracy]
    pairs: list[PairedDifference]
    rest: RestDecisions
    temperatures: list[list[float]]
    """Of the confidence by seed and run, fitted on the answers to the other runs."""
    penalties: dict[str, list[float]]
    """Ridge's, tuned within the training runs of each fold."""


def compare(
    answers: Answers,
    labels: Labels,
    runs: Labels,
    rng: np.random.Generator,
    looked_at: Sequence[int] = (),
) -> Comparison:
    """Turn answers into figures.

    Args:
        answers: Of `training.evaluate.answer_left_out_runs`; runs that were never left
            out (answered -1) are ignored.
        labels: 0 rest, then the categories.
        runs: Run of each volume.
        rng: Draws the resamples.
        looked_at: Runs on which the model's settings were chosen.
    """
    answered = answers.named[OURS[0]][0] >= 0
    blocks = blocks_of(labels, runs)
    shown = answered & (labels > 0)
    hits = {
        name: (named[:, shown] == labels[shown] - 1).astype(np.float64)
        for name, named in answers.named.items()
    }
    where = (runs[shown], blocks[shown])
    elsewhere = ~np.isin(where[0], looked_at)
    methods = [
        MethodAccuracy(
            method=name,
            accuracy=block_interval(hit, *where, rng),
            per_run=_by_run(hit, where[0]),
            per_seed=[float(mean) for mean in hit.mean(axis=1)],
        )
        for name, hit in hits.items()
    ]
    pairs = [
        PairedDifference(
            ours=ours,
            baseline=baseline,
            # Ridge has one row: nothing in it is drawn at random.
            difference=block_interval(hits[ours] - hits[baseline], *where, rng),
            difference_elsewhere=(
                block_interval(
                    (hits[ours] - hits[baseline])[:, elsewhere],
                    where[0][elsewhere],
                    where[1][elsewhere],
                    rng,
                )
                if elsewhere.any()
                else None
            ),
            per_run=_by_run(hits[ours] - hits[baseline], where[0]),
        )
        for ours, baseline in PAIRS
    ]
    confidence, temperatures = cross_fitted_confidence(answers.cosines, labels, runs)
    return Comparison(
        chance=1 / CATEGORIES,
        labelled_volumes=int(shown.sum()),
        methods=methods,
        pairs=pairs,
        rest=_rest(answers, confidence, labels, runs, answered, rng),
        temperatures=temperatures,
        penalties=answers.penalties,
    )


def cross_fitted_confidence(
    cosines: Float32[np.ndarray, "seeds volumes categories"],
    labels: Labels,
    runs: Labels,
) -> tuple[Float64[np.ndarray, "seeds volumes"], list[list[float]]]:
    """Return the confidence of every answer, and the temperatures behind it.

    A run's temperature is fitted on the answers that the other runs got when they were
    left out, so that neither its labels nor its answers enter.
    """
    answered = np.abs(cosines).sum(axis=(0, 2)) > 0
    confidence = np.zeros(cosines.shape[:2])
    temperatures: list[list[float]] = []
    for seed, scores in enumerate(cosines):
        temperatures.append([])
        for run in np.unique(runs[answered]):
            others = answered & (runs != run) & (labels > 0)
            # With a single run left out there is nothing else to fit on.
            temperature = (
                fit_temperature(scores[others], labels[others] - 1)
                if others.any()
                else 1.0
            )
            here = answered & (runs == run)
            confidence[seed, here] = softmax(scores[here], temperature).max(axis=1)
            temperatures[-1].append(temperature)
    return confidence, temperatures


def _rest(
    answers: Answers,
    confidence: Float64[np.ndarray, "seeds volumes"],
    labels: Labels,
    runs: Labels,
    answered: Bool[np.ndarray, " volumes"],
    rng: np.random.Generator,
) -> RestDecisions:
    blocks = blocks_of(labels, runs)
    rest, shown = answered & (labels == 0), answered & (labels > 0)
    named, truth = answers.named[OURS[0]], labels[shown] - 1
    intervals = [
        block_interval(confidence[:, part], runs[part], blocks[part], rng)
        for part in (shown, rest)
    ]
    right = named[:, shown] == truth
    return RestDecisions(
        volumes=int(rest.sum()),
        distribution=_shares(named[:, rest]),
        ridge_distribution=_shares(answers.named["ridge causal"][:, rest]),
        confidence_labelled=intervals[0],
        confidence_rest=intervals[1],
        auc=float(np.mean([auc(seed[shown], seed[rest]) for seed in confidence])),
        abstention=[
            _abstention(threshold, confidence[:, shown], right, confidence[:, rest])
            for threshold in THRESHOLDS
        ],
    )


def _abstention(
    threshold: float,
    labelled: Float64[np.ndarray, "seeds n"],
    right: Bool[np.ndarray, "seeds n"],
    rest: Float64[np.ndarray, "seeds m"],
) -> Abstention:
    kept = labelled >= threshold
    return Abstention(
        threshold=threshold,
        labelled_answered=float(kept.mean()),
        accuracy_of_answered=float(right[kept].mean()) if kept.any() else None,
        rest_answered=float((rest >= threshold).mean()),
    )


def _shares(named: Int64[np.ndarray, "seeds volumes"]) -> list[float]:
    counts = np.bincount(named.ravel(), minlength=CATEGORIES)
    return [float(share) for share in counts / named.size]


def _by_run(values: Float64[np.ndarray, "seeds volumes"], runs: Labels) -> list[float]:
    return [float(values[:, runs == run].mean()) for run in np.unique(runs)]
