"""The verb that measures latency.

Part of the command line (`neuroflow.py`): it parses, and imports what measures when it
is called.
"""

import inspect
from pathlib import Path
from typing import Literal

import tyro

BenchBackend = Literal["openvino", "ort", "ort_cuda", "tensorrt", "reference"]
BenchPrecision = Literal["f32", "f16", "bf16", "int8", "fp8"]


def bench(
    bundle: tyro.conf.Positional[Path | None] = None,
    /,
    *,
    preset: str | None = None,
    depth: int | None = None,
    backend: BenchBackend = "openvino",
    precision: BenchPrecision = "f32",
    threads: tuple[int, ...] = (),
    against: str = "",
    rounds: int = 12,
    seconds: float = 3.0,
    evaluations: tuple[int, ...] = (),
    tr: float = 1.0,
    volumes: int = 20,
    gallery: int = 100,
    json: Path | None = None,
    compare: tuple[Path, Path] | None = None,
) -> None:
    """Measure latency by stage and flow step, as multiples of this machine's limits.

    Args:
        bundle: A bundle's folder.
        preset: A model of this preset's size instead, its weights drawn.
        depth: Blocks of the velocity field instead of the preset's.
        backend: The engine that is measured in full.
        precision: Of its arithmetic, and of the others where they have it.
        threads: Threads of an evaluation, several for a sweep. Default: all cores.
        against: Others to measure in turns: any backend, torch, torch-compile,
            torch-autocast; as in ort,openvino:int8 each may name its own precision.
        rounds: Turns that each engine takes, at least 6; they give the intervals.
        seconds: For each stage of each engine, over all rounds.
        evaluations: Lengths N of the flow, from which the cost of a step is fitted.
            Default: 1 5 10 20; of heun, which makes two a step, 2 6 10 20.
        tr: Repetition time in seconds of the paced run, and its deadline.
        volumes: Volumes of the paced run; 0 for none.
        gallery: Items that the heads search.
        json: File for the result with every raw sample.
        compare: Two such files: say what changed, and measure nothing.
    """
    asked = dict(locals())
    from verbs.bench import compare_files, run_bench
    from verbs.bench_options import Options, check_alone
    from verbs.bench_rounds import Plan

    if compare is not None:
        usual = {k: v.default for k, v in inspect.signature(bench).parameters.items()}
        check_alone([k for k, v in asked.items() if v != usual[k] and k != "compare"])
        compare_files(*compare)
        return
    options = Options(
        bundle=bundle,
        preset=preset,
        depth=depth,
        backend=backend,
        precision=precision,
        threads=threads,
        against=tuple(name for name in against.split(",") if name),
        plan=Plan(
            rounds=rounds,
            seconds=seconds,
            evaluations=evaluations,
            period_s=tr,
            volumes=volumes,
        ),
        gallery=gallery,
    )
    run_bench(options, json_file=json)
