"""Leave one run out: our model and ridge on the same recorded volumes.

Every statistic, penalty, noise covariance and weight comes from the training runs of
the fold. Returns what each method said of every volume; what it amounts to is
`training.comparison`.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from runtime.estimator import VolumeEstimator
from training.config import ModelConfig
from training.fit import Observer
from training.haxby import (
    CATEGORIES,
    Features,
    LabelledRuns,
    Labels,
    category_codes,
    category_trials,
    category_whitening,
    causal_features,
    offline_features,
)
from training.recorded import Cosines, category_cosines, fit_stages, seeded
from training.resample import permute_blocks
from training.ridge import PENALTIES, Ridge, fit_ridge_tuned

OURS = ("ours causal", "ours offline", "ours offline, tested causal", "ours shuffled")
RIDGE = (
    "ridge causal",
    "ridge causal whitened",
    "ridge offline",
    "ridge offline whitened",
    "ridge offline, tested causal",
    "ridge shuffled",
)
SHUFFLE_SEED = 7
"""Draws the permutation of blocks of the control."""

Named = Int64[np.ndarray, "seeds volumes"]
Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answers:
    """What every method said of every volume, rest included, when it was left out."""

    named: dict[str, Named]
    """Category from 0, by method; ridge and the controls have one row."""
    cosines: Float32[np.ndarray, "seeds volumes categories"]
    """Scores of ours, causal."""
    penalties: dict[str, list[float]]
    """Ridge's penalty in each fold."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """One fold's features of one kind, plain and whitened."""

    plain: Features
    white: Features


def answer_left_out_runs(
    data: LabelledRuns,
    config: ModelConfig,
    estimator: VolumeEstimator,
    *,
    seeds: int,
    held_runs: Sequence[int] | None = None,
    announce: Announce = lambda _line: None,
    on_step: Observer | None = None,
) -> Answers:
    """Train on all runs but one and answer that one, for each run in turn.

    Args:
        data: The recording.
        config: The model; its seeds are replaced by 0 to ``seeds - 1``.
        estimator: How volumes become causal features, and the noise's shrinkage.
        seeds: Trainings per fold.
        held_runs: Runs to leave out, each in turn; all by default. Volumes of other
            runs are answered -1.
        announce: Told which fold begins.
        on_step: Told after each training step.
    """
    held_runs = range(len(data.volumes)) if held_runs is None else held_runs
    volumes = len(data.labels)
    rows = dict.fromkeys(OURS[:3], seeds) | dict.fromkeys((OURS[3], *RIDGE), 1)
    named = {
        name: np.full((n, volumes), -1, dtype=np.int64) for name, n in rows.items()
    }
    cosines = np.zeros((seeds, volumes, CATEGORIES), dtype=np.float32)
    penalties: dict[str, list[float]] = {name: [] for name in RIDGE}
    offline = offline_features(data)
    for position, held in enumerate(held_runs):
        announce(f"run {held + 1} left out ({position + 1} of {len(held_runs)})")
        fold = _Fold(data, held, estimator, offline)
        for name, (model, rows_of_test) in fold.ridges().items():
            named[name][0, fold.test] = model.predict(rows_of_test).argmax(axis=1)
            penalties[name].append(model.penalty)
        for seed in range(seeds):
            chosen = seeded(config, seed, data.recording.mask.voxels)
            for name, scores in fold.ours(chosen, on_step).items():
                if len(named[name]) > seed:
                    named[name][seed, fold.test] = scores.argmax(axis=1)
                if name == OURS[0]:
                    cosines[seed, fold.test] = scores
    return Answers(named, cosines, penalties)


class _Fold:
    """One run left out: features from the others' statistics, and the models."""

    def __init__(
        self,
        data: LabelledRuns,
        held: int,
        estimator: VolumeEstimator,
        offline: Features,
    ) -> None:
        self.test = data.runs == held
        self.train = ~self.test
        self._runs, self._labels = data.runs[self.train], data.labels[self.train]
        self._shuffled = permute_blocks(
            self._labels, self._runs, np.random.default_rng([SHUFFLE_SEED, held])
        )
        others = [run for run in range(len(data.volumes)) if run != held]
        causal, _ = causal_features(data, others, estimator)
        shrinkage = estimator.noise_shrinkage
        self._causal = self._whitened(causal, causal, self._labels, shrinkage)
        self._offline = self._whitened(offline, offline, self._labels, shrinkage)
        self._mixed = self._whitened(causal, offline, self._labels, shrinkage)
        self._control = self._whitened(causal, causal, self._shuffled, shrinkage)

    def _whitened(
        self,
        features: Features,
        noise_of: Features,
        labels: Labels,
        shrinkage: float | None,
    ) -> _Prepared:
        whitening = category_whitening(noise_of[self.train], labels, shrinkage)
        return _Prepared(features, whitening.whiten(features))

    def ridges(self) -> dict[str, tuple[Ridge, Features]]:
        """Return each ridge with the features of the left-out run that it answers."""
        fits = {
            "ridge causal": self._ridge(self._causal.plain, self._labels),
            "ridge causal whitened": self._ridge(self._causal.white, self._labels),
            "ridge offline": self._ridge(self._offline.plain, self._labels),
            "ridge offline whitened": self._ridge(self._offline.white, self._labels),
            "ridge shuffled": self._ridge(self._causal.plain, self._shuffled),
        }
        fits["ridge offline, tested causal"] = fits["ridge offline"]
        tested = {
            "ridge causal": self._causal.plain,
            "ridge causal whitened": self._causal.white,
            "ridge offline": self._offline.plain,
            "ridge offline whitened": self._offline.white,
            "ridge offline, tested causal": self._causal.plain,
            "ridge shuffled": self._causal.plain,
        }
        return {name: (fit, tested[name][self.test]) for name, fit in fits.items()}

    def _ridge(self, features: Features, labels: Labels) -> Ridge:
        return fit_category_ridge(features[self.train], labels, self._runs)

    def ours(self, config: ModelConfig, on_step: Observer | None) -> dict[str, Cosines]:
        """Train on causal, offline and shuffled data; score the left-out run.

        The control is trained once, with the first seed.
        """
        causal, offline = self._causal.white, self._offline.white
        scores = self._scores(config, causal, self._labels, (causal,), on_step)
        found = {OURS[0]: scores[0]}
        tested = (offline, self._mixed.white)
        scores = self._scores(config, offline, self._labels, tested, on_step)
        found |= {OURS[1]: scores[0], OURS[2]: scores[1]}
        if config.vae_training.seed == 0:
            control = self._control.white
            scores = self._scores(config, control, self._shuffled, (control,), on_step)
            found[OURS[3]] = scores[0]
        return found

    def _scores(
        self,
        config: ModelConfig,
        features: Features,
        labels: Labels,
        tested: tuple[Features, ...],
        on_step: Observer | None,
    ) -> list[Cosines]:
        codes = category_codes(config.vae.tokens, config.vae.width)
        trials = category_trials(features[self.train], labels, codes)
        with tempfile.TemporaryDirectory() as folder:
            vae, flow = fit_stages(config, trials, Path(folder), on_step)
            return [
                category_cosines(vae, flow, rows[self.test], codes) for rows in tested
            ]


def fit_category_ridge(
    features: Float[np.ndarray, "volumes voxels"],
    labels: Labels,
    runs: Labels,
    penalties: Sequence[float] = PENALTIES,
    categories: int = CATEGORIES,
) -> Ridge:
    """Fit ridge to the categories of labelled volumes, its penalty tuned by run.

    Args:
        features: Training volumes, rest included; rest is left out of the fit.
        labels: 0 rest, then the categories.
        runs: Run of each volume; each in turn is left out to rate a penalty.
        penalties: What to try.
        categories: How many there are.
    """
    shown = labels > 0
    wanted = labels[shown] - 1

    def accuracy(
        predicted: Float64[np.ndarray, "samples targets"],
        index: Int64[np.ndarray, " n"],
    ) -> float:
        return float((predicted.argmax(axis=1) == wanted[index]).mean())

    targets = np.eye(categories)[wanted]
    ridge, _ = fit_ridge_tuned(
        features[shown], targets, runs[shown], accuracy, penalties
    )
    return ridge
