"""What could judge a calibration, side by side on the same fits of the same days.

    python -m benchmarks.calibrate_judges --built PLACE --seeds 11 --days 6

PLACE is what `benchmarks.calibrate --built PLACE` left. A day's betas are those of the
first day, voxels of a pair turned into each other and multiplied by gains: estimating
is linear, and so many days cost no more than their decoding. The judges: decoding,
against the gallery; z_n, against predictions; voxels, against predicted responses,
which runs no engine. What they say of 100 calibration trials is held against what
decoding gains on the test runs, of which nobody has seen anything.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.calibrate import run_names
from runtime.bundle import open_bundle
from runtime.calibration import KnownTrials, folds_of
from runtime.correction import FOLDS
from runtime.gallery import open_gallery
from runtime.heads import Retrieval
from runtime.identification import identification, mean_interval
from runtime.model import Model, open_model
from runtime.predictions import Predictions, predict_all
from runtime.preprocess import FeatureSpace, todays_normaliser
from tests.decoded import identification as decoded
from verbs.todays_trials import read_today

TRIALS = 100
DEGREES = np.pi / 180
DAYS = {
    "as the first": (0.0, 0.0),
    "other gains": (0.0, 0.5),
    "turned by 45 degrees": (45 * DEGREES, 0.0),
    "turned by 70 degrees": (70 * DEGREES, 0.0),
    "gains and 70 degrees": (70 * DEGREES, 0.5),
    "pictures shuffled": (0.0, 0.0),
    "gains and 70 degrees, pictures shuffled": (70 * DEGREES, 0.5),
}
JUDGES = ("decoding", "z_n", "voxels")


def turned(betas: np.ndarray, angle: float, gain_sd: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    order = rng.permutation(betas.shape[1])
    half = len(order) // 2
    a, b = order[:half], order[half : 2 * half]
    moved = betas.astype(np.float64)
    moved[:, a] = np.cos(angle) * betas[:, a] - np.sin(angle) * betas[:, b]
    moved[:, b] = np.sin(angle) * betas[:, a] + np.cos(angle) * betas[:, b]
    moved *= np.exp(gain_sd * rng.standard_normal(betas.shape[1]))
    return moved.astype(np.float32)


def scores_by_decoding(
    model: Model, features: np.ndarray, trials: KnownTrials, rows, search: Retrieval
) -> np.ndarray:
    return np.array([
        decoded(
            model.decode_latent(model.encode_voxels(x)),
            trials.latents[image], trials.names[image], search,
        )
        for x, image in zip(features, trials.image[rows], strict=True)
    ])  # fmt: skip


def judged(
    model: Model,
    space: FeatureSpace,
    trials: KnownTrials,
    expected: Predictions,
    search: Retrieval,
) -> dict[str, np.ndarray]:
    """Return each judge's scores: candidates by trials."""
    found = {judge: np.zeros((3, len(trials.image))) for judge in JUDGES}
    flat = expected.z_n.reshape(len(expected.z_n), -1)
    for fold in folds_of(trials, space, expected.voxels):
        rows = fold.rows
        shown, own = np.unique(trials.image[rows], return_inverse=True)
        for k, x in enumerate((fold.plain, fold.normalised, fold.corrected)):
            z_n = np.stack([model.encode_voxels(one).ravel() for one in x])
            found["decoding"][k, rows] = scores_by_decoding(
                model, x, trials, rows, search
            )
            found["z_n"][k, rows] = identification(z_n, flat[shown], own, flat.mean(0))
            found["voxels"][k, rows] = identification(
                x, expected.voxels[shown], own, expected.voxels.mean(0)
            )
    return found


def one_day(model, space, both, expected, search, name, change, seed):
    """Return for each judge whether it believes and its gain; the truth under test."""
    calibration, test = both
    rows = np.arange(len(calibration.image))
    # One half of the day's calibration, and then the other.
    rows = rows[:TRIALS] if seed % 2 == 0 else rows[-TRIALS:]
    image = calibration.image[rows]
    if "shuffled" in name:
        image = np.random.default_rng(seed).permutation(image)
    kinds, image = np.unique(image, return_inverse=True)
    trials = KnownTrials(
        turned(calibration.betas, *change, seed)[rows], image, calibration.run[rows],
        calibration.latents[kinds], tuple(calibration.names[k] for k in kinds),
    )  # fmt: skip
    expected = Predictions(expected.z_n[kinds], expected.voxels[kinds])
    scores = judged(model, space, trials, expected, search)
    said = {}
    for judge, (plain, normalised, corrected) in scores.items():
        gains = [
            mean_interval(more - less, image, FOLDS)
            for more, less in (
                (normalised, plain), (corrected, normalised), (corrected, plain)
            )
        ]  # fmt: skip
        is_corrected = gains[1].low > 0 and gains[2].low > 0
        said[judge] = (gains[0].low > 0 or is_corrected, is_corrected, gains[0].mean)
    today = FeatureSpace(
        todays_normaliser(space.affine, trials.betas, image), space.whitening
    )
    test = replace(test, betas=turned(test.betas, *change, seed))
    every = np.arange(len(test.image))
    before, after = (
        scores_by_decoding(model, one.to_model(test.betas), test, every, search).mean()
        for one in (space, today)
    )
    return said, after - before


def run_seed(place: Path, days: int) -> dict[str, list]:
    found: dict[str, list] = {name: [] for name in DAYS}
    with (
        open_bundle(place / "bundle") as bundle,
        open_model(bundle, threads=1) as model,
    ):
        items = open_gallery(place / "gallery", bundle.manifest.latent)
        both = [
            read_today(
                place / "bids", bundle, items, run_names(place / "bids", split)
            ).trials
            for split in ("calibration", "test")
        ]
        expected = predict_all(model, both[0].latents)
        search = Retrieval(
            items.latents, items.ids, items.labels,
            mean=bundle.latent_mean, temperature=1.0,
        )  # fmt: skip
        for name, change in DAYS.items():
            # Days as the first differ in which half is calibrated on.
            count = min(days, 2) if name == "as the first" else days
            for day in range(count):
                found[name].append(
                    one_day(
                        model, bundle.feature_space(), both, expected, search,
                        name, change, day,
                    )
                )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--built", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11])
    parser.add_argument("--days", type=int, default=6)
    chosen = parser.parse_args()
    all_days: dict[str, list] = {name: [] for name in DAYS}
    for seed in chosen.seeds:
        found = run_seed(chosen.built / str(seed), chosen.days)
        for name, days in found.items():
            all_days[name] += days
    print(
        "| day | days | gain of decoding on test runs | "
        + " | ".join(f"by {judge}: believed | corrected | gain" for judge in JUDGES)
        + " |\n|" + "---|" * (3 + 3 * len(JUDGES))
    )  # fmt: skip
    for name, days in all_days.items():
        cells = [name, str(len(days)), f"{np.mean([truth for _, truth in days]):+.3f}"]
        for judge in JUDGES:
            said = np.array([one[judge] for one, _ in days], dtype=float)
            cells += [f"{said[:, 0].sum():.0f}", f"{said[:, 1].sum():.0f}"]
            cells += [f"{said[:, 2].mean():+.3f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
