"""The table of `few_trials.py`: means, and paired differences from plain training."""

import numpy as np

from training.metrics.intervals import image_interval, paired_interval
from training.resample import Interval

Unit = dict[str, object]
SEED = 0
"""Draws the resamples."""
LEAST_PARTICIPANTS = 3
"""Below it the interval of encoding, which is one number a participant, is left out."""
HEAD = (
    "| trials | people | training | one trial | minus plain | three trials "
    "| minus plain | encoding r | minus plain |",
    "|---|---|---|---|---|---|---|---|---|",
)


def table(units: list[Unit], trials: list[int], variants: tuple[str, ...]) -> str:
    """Return Markdown: a row for each number of trials and variant.

    Only participants of which every variant is there count, so that all rows of a
    number of trials are of the same people. Of one participant an interval is over
    images alone.
    """
    lines = list(HEAD)
    for n in trials:
        found = {
            name: {
                u["seed"]: u for u in units if (u["asked"], u["variant"]) == (n, name)
            }
            for name in variants
        }
        seeds = sorted(set.intersection(*(set(of) for of in found.values())))
        if not seeds:
            continue
        columns = {name: [of[seed] for seed in seeds] for name, of in found.items()}
        measured = columns["plain"][0]["trials"]
        for name, ours in columns.items():
            plain = None if name == "plain" else columns["plain"]
            cells = [
                cell
                for key in ("one", "three", "encoding")
                for cell in _cells(key, ours, plain)
            ]
            row = [str(measured), str(len(seeds)), name, *cells]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _cells(key: str, ours: list[Unit], plain: list[Unit] | None) -> tuple[str, str]:
    if ours[0][key] is None:
        return "-", "-"
    mean = f"{np.mean([np.mean(unit[key]) for unit in ours]):.3f}"
    if plain is None:
        return mean, "-"
    found = _difference(key, ours, plain)
    if key == "encoding" and len(ours) < LEAST_PARTICIPANTS:
        return mean, f"{found.mean:+.3f}"
    return mean, f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _difference(key: str, ours: list[Unit], plain: list[Unit]) -> Interval:
    rng = np.random.default_rng(SEED)
    a, b = (
        np.concatenate([np.ravel(unit[key]).astype(float) for unit in units])
        for units in (ours, plain)
    )
    if key == "encoding":
        return image_interval(a - b, rng)
    lengths = [np.size(unit[key]) for unit in ours]
    people = np.repeat(np.arange(len(ours)), lengths)
    images = None
    if key == "one":
        images = np.concatenate([np.array(unit["images"]) for unit in ours])
    return paired_interval(a, b, rng, images=images, participants=people)
