"""What a volume without a trial due costs around the engines, part by part.

    python -m benchmarks.volume_parts [--bundle B] [--calls 10000] [--items 100] \
        [--json FILE]

Each part as a run calls it, one after the other, and alone: the same calls in a loop of
their own, where nothing else has used the processor's caches in between. What the
second takes less is what the caches cost. Both take turns, a run's length at a time.
Without --bundle it draws one of the published shapes with one block.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np

from benchmarks.two_trees import drawn
from runtime.bench.statistics import ratio
from runtime.bench.table import markdown, milliseconds, within
from runtime.bundle import Bundle, open_bundle
from runtime.estimator import BetaEstimator, live_estimator
from runtime.model import Model
from runtime.preprocess.baseline import PercentSignal
from runtime.preprocess.glm import IncrementalTrialGlm
from runtime.preprocess.quality import RunQuality
from runtime.timing import summary
from runtime.voxel_source import VoxelSource
from verbs.bench_engines import SERVED, Silent, volumes_of
from verbs.bench_machine import read_machine, read_moment
from verbs.bench_volume import RUN_S, SHOWN_S, TR_S, TRIAL_S

PARTS: dict[str, tuple[type, str]] = {
    "voxels": (VoxelSource, "take"),
    "quality": (RunQuality, "update"),
    "percent signal": (PercentSignal, "update"),
    "GLM": (IncrementalTrialGlm, "update"),
}
Samples = dict[str, list[list[int]]]


@contextmanager
def watched(spent: dict[str, int]) -> Iterator[None]:
    """Write down how long the last call of each part took."""

    def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def with_time(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter_ns()
            try:
                return call(*arguments, **named)
            finally:
                spent[part] = time.perf_counter_ns() - began

        return with_time

    patches = [
        mock.patch.object(owner, name, timed(part, getattr(owner, name)))
        for part, (owner, name) in PARTS.items()
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def alone(bundle: Bundle, estimator: BetaEstimator) -> dict[str, list[int]]:
    """Return what each part but the first takes in a loop of its own, a run long."""
    rng = np.random.default_rng(0)
    voxels, count = bundle.manifest.voxels.count, round(RUN_S / TR_S)
    scans = (1000 + 20 * rng.standard_normal((8, voxels))).astype(np.float32)
    signal = (0.1 * scans - 100).astype(np.float32)
    glm = IncrementalTrialGlm(
        voxels,
        tr_s=TR_S,
        expected_volumes=count,
        max_trials=count,
        drift_cutoff_s=estimator.drift_cutoff_s,
    )
    for number, onset_s in enumerate(np.arange(0, RUN_S, TRIAL_S)):
        glm.add_trial(f"trial-{number}", float(onset_s), SHOWN_S)
    quality = RunQuality(voxels)
    percent = PercentSignal(voxels, 1)
    percent.update(scans[0])
    out = np.empty(voxels, np.float32)
    calls: dict[str, Callable[[int], object]] = {
        "quality": lambda i: quality.update(i, scans[i % 8]),
        "percent signal": lambda i: percent.update(scans[i % 8], out=out),
        "GLM": lambda i: glm.update(i, signal[i % 8]),
    }
    found: dict[str, list[int]] = defaultdict(list)
    for part, call in calls.items():
        for index in range(count):
            began = time.perf_counter_ns()
            call(index)
            found[part].append(time.perf_counter_ns() - began)
    return found


def measured(bundle: Bundle, calls: int, items: int) -> tuple[Samples, Samples]:
    """Return rounds of times, in runs and alone."""
    estimator = live_estimator(bundle.manifest.estimator)
    if not isinstance(estimator, BetaEstimator):
        raise SystemExit("expected a bundle of trials, found one of volumes")
    silent = Model(
        bundle.manifest,
        {name: Silent(bundle.manifest.graph(name)) for name in SERVED},
        bundle.tensors,
    )
    volumes = volumes_of(bundle, silent, items)["volume"]
    each, spent = round(RUN_S / TR_S / 2), dict.fromkeys(PARTS, 0)
    in_runs: Samples = defaultdict(list)
    by_itself: Samples = defaultdict(list)
    for number in range(-(-calls // each)):
        taken: dict[str, list[int]] = defaultdict(list)
        with watched(spent):
            for _ in range(each):
                volumes.prepare()
                began = time.perf_counter_ns()
                volumes.take()
                taken["all"].append(time.perf_counter_ns() - began)
                for part, ns in spent.items():
                    taken[part].append(ns)
        lone = alone(bundle, estimator)
        if number:  # the first is warming up
            for part, ns in taken.items():
                in_runs[part].append(ns)
            for part, ns in lone.items():
                by_itself[part].append(ns)
    return in_runs, by_itself


def rows(in_runs: Samples, by_itself: Samples) -> Iterator[list[str]]:
    for part in ("all", *PARTS):
        found = summary([ns for one in in_runs[part] for ns in one])
        row = [part, *map(milliseconds, (found.p50, found.p90, found.p99))]
        if part not in by_itself:
            yield [*row, "-", "-", f"{found.samples:,}"]
            continue
        lone = summary([ns for one in by_itself[part] for ns in one])
        over = ratio(
            [float(np.median(one)) for one in in_runs[part]],
            [float(np.median(one)) for one in by_itself[part]],
        )
        yield [*row, milliseconds(lone.p50), within(over), f"{found.samples:,}"]


def shown(rounds: list[list[int]]) -> dict[str, Any]:
    found = summary([ns for one in rounds for ns in one])
    middles = [float(np.median(one)) for one in rounds]
    return {"all_ns": msgspec.to_builtins(found), "median_of_each_round_ns": middles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=100, help="of the gallery")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = open_bundle(options.bundle or drawn(Path(scratch)))
        in_runs, by_itself = measured(bundle, options.calls, options.items)
    heads = ["part", "p50", "p90", "p99", "alone p50", "in a run over alone", "calls"]
    print(markdown(heads, rows(in_runs, by_itself)))
    machine, moment = read_machine(), read_moment()
    print(f"ms; {machine.cpu}, load {moment.load}")
    if options.json:
        result = {
            "machine": msgspec.to_builtins(machine),
            "load": moment.load,
            "items": options.items,
            "in_runs": {part: shown(rounds) for part, rounds in in_runs.items()},
            "alone": {part: shown(rounds) for part, rounds in by_itself.items()},
        }
        options.json.write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
