"""Calibration where the truth is known: false gains, and the ridge the other way round.

    python -m benchmarks.calibrate_linear --seeds 100 --few 20

Days of `tests.linear_participant`, 100 trials of 100 images to calibrate on and 100 of
other images to be judged by. Beside it how often the judge of before would have kept
anything, which compares what the same fits decode with the gallery. The rival corrects
the input by a ridge from measured to predicted responses, its penalty chosen by the
same left-out trials.
"""

import argparse
import contextlib

import numpy as np

from runtime.calibration import KnownTrials, calibrate, folds_of
from runtime.correction import (
    FOLDS,
    PENALTIES,
    InputCorrection,
    choose_penalty,
    fit_correction,
    image_folds,
)
from runtime.errors import CalibrationError
from runtime.identification import mean_interval
from runtime.predictions import Predictions, predict_all
from runtime.preprocess import FeatureSpace, todays_normaliser
from tests.decoded import identification
from tests.linear_participant import Day, a_day

DAYS = {
    "as the first": {},
    "as the first, clear": {"snr": 0.25},
    "pictures shuffled": {"is_shuffled": True, "angle": 0.5},
    "pictures shuffled, of another kind than the gallery's": {
        "is_shuffled": True,
        "offset_sd": 1.0,
        "shift": 5.0,
    },
    "other gains and offsets": {"gain_sd": 0.5, "offset_sd": 1.0},
    "turned by 1.2": {"angle": 1.2},
    "turned by 0.9, clear": {"angle": 0.9, "snr": 0.2},
    "turned by 1.2, clear": {"angle": 1.2, "snr": 0.25},
}
TRIALS = 100


def halves(day: Day) -> tuple[KnownTrials, KnownTrials]:
    t = day.trials
    first, second = (
        KnownTrials(t.betas[rows], t.image[rows], t.run[rows], t.latents, t.names)
        for rows in (slice(None, TRIALS), slice(TRIALS, None))
    )
    return first, second


def the_other_way(x: np.ndarray, s: np.ndarray, penalty: float) -> InputCorrection:
    """``x + (s - x)' (x x' + penalty)^-1 x``: from measured to predicted."""
    gram = x.astype(np.float64) @ x.T
    unit = np.trace(gram) / len(gram)
    inverse = np.linalg.inv(gram + penalty * unit * np.eye(len(gram)))
    return InputCorrection(x, (inverse @ (s - x)).astype(np.float32))


def rivals_penalty(x: np.ndarray, s: np.ndarray, image: np.ndarray) -> float:
    wins = np.zeros(len(PENALTIES))
    for held in image_folds(image):
        templates = s[held] / np.linalg.norm(s[held], axis=1, keepdims=True)
        for k, penalty in enumerate(PENALTIES):
            moved = the_other_way(x[~held], s[~held], penalty).apply(x[held])
            scores = moved @ templates.T
            wins[k] += (scores < np.diag(scores)[:, None]).mean()
    return PENALTIES[int(wins.argmax())]


def scores(day: Day, features: np.ndarray, trials: KnownTrials, rows) -> np.ndarray:
    """Identification of what is decoded, among the gallery."""
    return np.array([
        identification(
            day.model.decode_latent(day.model.encode_voxels(x)),
            trials.latents[image], trials.names[image], day.retrieval,
        )
        for x, image in zip(features, trials.image[rows], strict=True)
    ])  # fmt: skip


def score(day: Day, space: FeatureSpace, move, trials: KnownTrials) -> float:
    features = move(space.to_model(trials.betas))
    return float(scores(day, features, trials, slice(None)).mean())


def is_kept_by_decoding(day: Day, today: KnownTrials, expected: Predictions) -> bool:
    plain, normalised, corrected = np.zeros((3, len(today.image)))
    for fold in folds_of(today, day.space, expected.voxels):
        plain[fold.rows] = scores(day, fold.plain, today, fold.rows)
        normalised[fold.rows] = scores(day, fold.normalised, today, fold.rows)
        corrected[fold.rows] = scores(day, fold.corrected, today, fold.rows)
    first, second, both = (
        mean_interval(more - less, today.image, FOLDS).low
        for more, less in (
            (normalised, plain), (corrected, normalised), (corrected, plain)
        )
    )  # fmt: skip
    return first > 0 or (second > 0 and both > 0)


def one(seed: int, change: dict) -> list[float]:
    day = a_day(seed, images=2 * TRIALS, **change)
    today, unseen = halves(day)
    kept = 0
    predictions = predict_all(day.model, today.latents)
    with contextlib.suppress(CalibrationError):
        found = calibrate(today, day.space, day.model, predictions)
        kept = 1 if found.correction is None else 2
    affine = todays_normaliser(day.space.affine, today.betas, today.image)
    space = FeatureSpace(affine, day.space.whitening)
    x = space.to_model(today.betas)
    s = predictions.voxels[today.image]
    ours = fit_correction(
        x, s, today.image, choose_penalty(x, s, today.image, PENALTIES)
    )
    theirs = the_other_way(x, s, rivals_penalty(x, s, today.image))
    return [
        kept,
        is_kept_by_decoding(day, today, predictions),
        score(day, day.space, lambda rows: rows, unseen),
        score(day, space, lambda rows: rows, unseen),
        score(day, space, ours.apply, unseen),
        score(day, space, theirs.apply, unseen),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--few", type=int, default=30)
    chosen = parser.parse_args()
    print(
        "| day | days | refused | normalised | corrected | kept by decoding | as it is "
        "| normalised | our correction | the other way |\n" + "|---" * 10 + "|"
    )
    for name, change in DAYS.items():
        is_control = name.startswith(("as the first", "pictures"))
        seeds = chosen.seeds if is_control else chosen.few
        rows = np.array([one(seed, change) for seed in range(seeds)])
        counts = [int((rows[:, 0] == k).sum()) for k in range(3)]
        counts.append(int(rows[:, 1].sum()))
        means = [f"{mean:.3f}" for mean in rows[:, 2:].mean(axis=0)]
        print("| " + " | ".join([name, str(seeds), *map(str, counts), *means]) + " |",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
