"""Which image is shown when: runs, trials and the role of every image.

Times are seconds from the first volume of a run. Pure: randomness is an argument.
"""

import math
from dataclasses import dataclass

import numpy as np

from runtime.errors import ConfigError
from training.participant.parameters import ParticipantParameters

ROLES = ("train", "calibration", "test", "distractor")


@dataclass(frozen=True, slots=True)
class Trial:
    """One showing of one image."""

    trial_id: int
    image: int
    onset_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """One run; `split` is train, calibration, test or live."""

    number: int
    split: str
    trials: tuple[Trial, ...]
    n_volumes: int


def image_roles(p: ParticipantParameters) -> list[str]:
    """Return the role of every image, in image order."""
    counts = (
        p.training_images,
        p.calibration_images,
        p.test_images,
        p.distractor_images,
    )
    return [role for role, n in zip(ROLES, counts, strict=True) for _ in range(n)]


def build_design(p: ParticipantParameters, rng: np.random.Generator) -> list[Run]:
    """Lay out all runs: training, calibration, test, live.

    Raises:
        ConfigError: Trials do not divide into runs, or an image would be shown twice
            in one run.
    """
    train = _shuffled_repeats(0, p.training_images, p.training_repeats, rng)
    first = p.training_images
    calibration = _shuffled_repeats(first, p.calibration_images, 1, rng)
    first += p.calibration_images
    test = _shuffled_repeats(first, p.test_images, p.test_repeats, rng)
    live = rng.permutation(p.test_images)[: p.live_trials] + first
    blocks = [
        *[("train", b) for b in _divided("training", train, p.training_runs)],
        *[
            ("calibration", b)
            for b in _divided("calibration", calibration, p.calibration_runs)
        ],
        *[("test", b) for b in _divided("test", test, p.test_repeats)],
        ("live", [int(i) for i in live]),
    ]
    runs: list[Run] = []
    trial_id = 0
    for number, (split, images) in enumerate(blocks, start=1):
        runs.append(_run(p, number, split, images, trial_id))
        trial_id += len(images)
    return runs


def _run(
    p: ParticipantParameters, number: int, split: str, images: list[int], first_id: int
) -> Run:
    trials = tuple(
        Trial(first_id + k, image, p.baseline_s + k * p.onset_asynchrony_s)
        for k, image in enumerate(images)
    )
    tail_s = p.live_tail_s if split == "live" else p.tail_s
    length_s = p.baseline_s + len(images) * p.onset_asynchrony_s + tail_s
    return Run(number, split, trials, math.ceil(length_s / p.tr_s - 1e-9))


def _shuffled_repeats(
    first: int, n_images: int, repeats: int, rng: np.random.Generator
) -> list[int]:
    """Show all images once in a new order before any is shown again."""
    return [int(i) + first for _ in range(repeats) for i in rng.permutation(n_images)]


def _divided(what: str, images: list[int], n_runs: int) -> list[list[int]]:
    if n_runs < 1 or len(images) % n_runs:
        raise ConfigError(
            f"{what} runs: expected a divisor of {len(images)} trials, found {n_runs}"
        )
    n = len(images) // n_runs
    blocks = [images[k * n : (k + 1) * n] for k in range(n_runs)]
    if any(len(set(block)) < n for block in blocks):
        raise ConfigError(
            f"{what} runs: expected no image twice in a run, found {n_runs} runs. "
            "Use a multiple of the repeats."
        )
    return blocks
