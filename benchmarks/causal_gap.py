"""What deciding live costs on Haxby's recording, with each option of the estimator.

    python benchmarks/causal_gap.py ../shared/data/haxby2001 --out FILE

Ridge on eight categories, each of the 12 runs left out in turn, penalty tuned within
the other eleven: on features that pass volume by volume through the front end that
serves live, and on features made of whole runs. Not whitened.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

from runtime.estimator import VolumeEstimator
from runtime.recording import open_recording
from training.haxby import (
    CATEGORIES,
    LabelledRuns,
    causal_features,
    offline_features,
    read_labelled,
)
from training.ridge import fit_ridge_tuned

OPTIONS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "spikes above 1.5 left out": {"spike_ratio": 1.5},
    "spikes above 2 left out": {"spike_ratio": 2.0},
    "smoothed by 4 mm": {"smoothing_fwhm_mm": 4.0},
}


def accuracies(data: LabelledRuns, options: dict[str, Any] | None) -> list[float]:
    """Return each left-out run's accuracy; offline features without options."""
    everyone = range(len(data.recording.runs))
    found = []
    for held in everyone:
        if options is None:
            features = offline_features(data)
        else:
            estimator = structs.replace(VolumeEstimator(), **options)
            others = [run for run in everyone if run != held]
            features, _ = causal_features(data, others, estimator)
        shown = data.labels > 0
        train, test = shown & (data.runs != held), shown & (data.runs == held)
        labels = data.labels[train] - 1

        def score(predicted: np.ndarray, index: np.ndarray, right=labels) -> float:
            return float((predicted.argmax(axis=1) == right[index]).mean())

        ridge, _ = fit_ridge_tuned(
            features[train], np.eye(CATEGORIES)[labels], data.runs[train], score
        )
        predicted = ridge.predict(features[test]).argmax(axis=1)
        found.append(float((predicted == data.labels[test] - 1).mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recording", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    data = read_labelled(open_recording(given.recording))
    found = {"offline": accuracies(data, None)}
    for name, options in OPTIONS.items():
        found[name] = accuracies(data, options)
    offline = np.array(found["offline"])
    print("| features | accuracy, % | offline minus these, points |")
    print("|---|---|---|")
    for name, each in found.items():
        gap = 100 * (offline - each)
        error = gap.std(ddof=1) / np.sqrt(len(gap))
        cell = "" if name == "offline" else f"{gap.mean():.1f} ({error:.1f})"
        print(f"| {name} | {100 * np.mean(each):.1f} | {cell} |", flush=True)
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
