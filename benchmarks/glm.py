"""A trial's beta while the run grows: ours beside nilearn, and what a volume costs.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/glm.py --out FILE

At each length nilearn fits the whole run so far with the design that ours has, by
ordinary least squares and with its AR(1) noise; ours takes one more volume and
estimates one trial. The arms take turns, the first of a round changes. Times are of
this process alone (processor time, one thread), so that others count for little.
Everything is made up: no time depends on the values.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nilearn
import numpy as np
from nilearn.glm.first_level import run_glm

from runtime.preprocess import (
    CANONICAL,
    CausalNormaliser,
    CausalStatistics,
    IncrementalTrialGlm,
    PercentSignal,
    Responses,
    VoxelMask,
)
from runtime.preprocess.hrf import LIBRARY
from runtime.preprocess.quality import RunQuality
from runtime.preprocess.smooth import MaskSmoothing
from verbs.demo.summary import machine

TR_S, VOLUMES = 1.5, 288
LENGTHS = (60, 150, 288)
MINE, OTHERS = 8_627, 15_724
"""Voxels of the realtime study that protocols.md cites, and of NSD's subject 1."""
BASELINE = 10


def run_of(voxels: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    run = rng.standard_normal((VOLUMES, voxels), dtype=np.float32)
    return np.asarray(5 * run + 1000, dtype=np.float32)


def new_glm(voxels: int, **options: Any) -> IncrementalTrialGlm:
    glm = IncrementalTrialGlm(
        voxels, tr_s=TR_S, expected_volumes=VOLUMES, max_trials=VOLUMES, **options
    )
    onset_s = BASELINE * TR_S
    # Every 4 s for 3 s, as in NSD: eight responses overlap.
    while onset_s < VOLUMES * TR_S:
        glm.add_trial(f"t{onset_s:g}", onset_s, 3.0)
        onset_s += 4.0
    return glm


def seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def summary(taken: list[float]) -> dict[str, float]:
    return {"median_ms": 1e3 * statistics.median(taken), "min_ms": 1e3 * min(taken)}


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    each = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    low, high = (each[round(q * (len(each) - 1))] for q in (0.05, 0.95))
    return {"median": statistics.median(each), "p5": low, "p95": high}


def beside_nilearn(run: np.ndarray, length: int, rounds: int) -> dict[str, Any]:
    glm = new_glm(run.shape[1])
    for index in range(length - rounds - 1):
        glm.update(index, run[index])
    due = [t for t in glm.trial_ids if float(t[1:]) + 12 <= (length - rounds) * TR_S]
    trial_id = due[-1]
    design = glm.design(trial_id)[:length]
    signal = run[:length].astype(np.float64)
    place = iter(range(length - rounds - 1, length))

    def ours() -> object:
        index = next(place)
        glm.update(index, run[index])
        return glm.estimate(trial_id)

    def theirs(noise_model: str) -> Callable[[], object]:
        def call() -> object:
            labels, results = run_glm(signal, design, noise_model=noise_model)
            contrast = np.eye(design.shape[1])[1]
            return [results[k].Tcontrast(contrast) for k in np.unique(labels)]

        return call

    arms = {"ours": ours, "ols": theirs("ols"), "ar1": theirs("ar1")}
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for call in arms.values():
        call()
    for turn in range(rounds):
        order = [*arms][turn % 3 :] + [*arms][: turn % 3]
        for name in order:
            taken[name].append(seconds(arms[name]))
    return {
        "volumes": length,
        **{name: summary(each) for name, each in taken.items()},
        "ours_over_ols": ratio(taken["ours"], taken["ols"]),
        "ours_over_ar1": ratio(taken["ours"], taken["ar1"]),
    }


def flatness(run: np.ndarray, **options: Any) -> dict[str, Any]:
    glm = new_glm(run.shape[1], **options)
    columns = options.get("confounds", 0)
    values = np.random.default_rng(1).standard_normal((VOLUMES, columns))
    taken = [
        seconds(lambda i=index: glm.update(i, run[i], values[i]))
        for index in range(VOLUMES)
    ]
    trial_id = glm.trial_ids[-10]
    estimates = [seconds(lambda: glm.estimate(trial_id)) for _ in range(5)]
    # The first third has fewer trials, and memory that is touched for the first time.
    return {
        "second_third": summary(taken[96:192]),
        "last_third": summary(taken[192:]),
        "estimate": summary(estimates),
    }


def stages(voxels: int) -> dict[str, Any]:
    run, glm = run_of(voxels), new_glm(voxels)
    percent = PercentSignal(voxels, BASELINE)
    statistics_ = CausalStatistics(
        np.full(voxels, 1000, dtype=np.float32), np.ones(voxels, dtype=np.float32)
    )
    normaliser = CausalNormaliser(statistics_, VOLUMES)
    quality, smoothing = RunQuality(voxels), MaskSmoothing(ball(voxels), (1.8,) * 3, 4)
    out = np.empty(voxels, dtype=np.float32)
    taken: dict[str, list[float]] = {
        name: []
        for name in ("percent and GLM", "normalised volume", "quality", "smoothing")
    }

    def percent_and_glm(index: int) -> None:
        signal = percent.update(run[index], out=out)
        if signal is not None:
            glm.update(index, signal)

    for index in range(VOLUMES):
        calls = (
            lambda i=index: percent_and_glm(i),
            lambda i=index: normaliser.update(run[i], i, out=out),
            lambda i=index: quality.update(i, run[i]),
            lambda i=index: smoothing(run[i], out=out),
        )
        for name, call in zip(taken, calls, strict=True):
            taken[name].append(seconds(call))
    return {name: summary(each[VOLUMES // 3 :]) for name, each in taken.items()}


def ball(voxels: int) -> VoxelMask:
    """The most compact mask of so many voxels."""
    side = 2 * round((voxels * 0.75 / np.pi) ** (1 / 3)) + 5
    middle = (np.indices((side,) * 3) - (side - 1) / 2) ** 2
    order = np.argsort(middle.sum(axis=0), axis=None, kind="stable")
    chosen = np.zeros(side**3, dtype=np.bool_)
    chosen[order[:voxels]] = True
    return VoxelMask.from_volume(chosen.reshape((side,) * 3))


def options_of(voxels: int) -> dict[str, dict[str, Any]]:
    places = np.arange(voxels)
    times_s = (places * 18 // voxels) / 18 * TR_S
    return {
        "plain": {},
        "6 confounds": {"confounds": 6},
        "24 confounds": {"confounds": 24},
        "18 slice times": {
            "responses": Responses.of(voxels, (CANONICAL,), slice_times_s=times_s)
        },
        "7 responses": {
            "responses": Responses.of(voxels, LIBRARY, hrf_index=places % 7)
        },
    }


def markdown(found: dict[str, Any]) -> str:
    lines = [
        "| volumes | ours, ms | OLS, ms | AR(1), ms | ours / OLS | ours / AR(1) |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["beside_nilearn"]:
        times = " | ".join(
            f"{row[arm]['median_ms']:.1f}" for arm in ("ours", "ols", "ar1")
        )
        ratios = " | ".join(
            f"{r['median']:.3f} ({r['p5']:.3f} to {r['p95']:.3f})"
            for r in (row["ours_over_ols"], row["ours_over_ar1"])
        )
        lines.append(f"| {row['volumes']} | {times} | {ratios} |")
    lines += [
        "",
        "| 8,627 voxels | second third, ms a volume | last third | an estimate, ms |",
        "|---|---|---|---|",
    ]
    for name, row in found["a_volume"].items():
        cells = (row[k]["median_ms"] for k in ("second_third", "last_third"))
        told = " | ".join(f"{x:.2f}" for x in cells)
        lines.append(f"| {name} | {told} | {row['estimate']['median_ms']:.1f} |")
    lines += ["", "| ms a volume | 8,627 voxels | 15,724 voxels |", "|---|---|---|"]
    few, many = found["stages"]
    lines += [
        f"| {name} | {few[name]['median_ms']:.2f} | {many[name]['median_ms']:.2f} |"
        for name in few
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    run = run_of(MINE)
    found = {
        "voxels": MINE,
        "tr_s": TR_S,
        "rounds": given.rounds,
        "clock": "process_time",
        "beside_nilearn": [beside_nilearn(run, n, given.rounds) for n in LENGTHS],
        "a_volume": {
            name: flatness(run, **options) for name, options in options_of(MINE).items()
        },
        "stages": [stages(MINE), stages(OTHERS)],
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "nilearn": nilearn.__version__,
        },
    }
    print(markdown(found))
    if given.out is not None:
        text = json.dumps(found, indent=2)
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
