"""One stage of `neuroflow bench` in two source trees, in turns, on the same bundle.

    python -m benchmarks.two_trees BEFORE AFTER [--stage volume] [--calls 10000]

For a change of our own code: each tree has a process of its own, and both take turns in
one run, so that what drifts meets both. Without --bundle it draws one of the published
shapes with one block: what is ours around the engines depends on no more.
"""

import argparse
import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np

from runtime.bench.result import Who
from runtime.bench.statistics import ratio
from runtime.bench.table import markdown, milliseconds, within
from runtime.timing import summary
from training.config import config_from_preset
from verbs.bench_machine import read_machine, read_moment
from verbs.bench_orders import Child, Job, Order, started
from verbs.bench_preset import write_preset


def drawn(folder: Path, depth: int = 1) -> Path:
    config = config_from_preset("paper-subj01")
    flow = msgspec.structs.replace(config.flow, depth=depth)
    config = msgspec.structs.replace(config, flow=flow)
    return write_preset(config, folder, created="2026-01-02", seed=0)


def opened(tree: Path, job: Job, stack: ExitStack) -> Child:
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(tree.resolve())
    try:
        return stack.enter_context(started(job))
    finally:
        del os.environ["PYTHONPATH"]
        if known is not None:
            os.environ["PYTHONPATH"] = known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--stage", default="volume")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--items", type=int, default=100, help="of the gallery")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    # Processes start in the folder of this one, which would be imported from first.
    os.environ["PYTHONSAFEPATH"] = "1"
    order = Order(stage=options.stage, count=options.calls // options.rounds)
    samples: dict[str, list[list[int]]] = {"before": [], "after": []}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        bundle = options.bundle or drawn(Path(scratch))
        who = Who(peer=options.backend, precision="f32", threads=options.threads)
        place = str(bundle.resolve())
        job = Job(kind="stages", who=who, bundle=place, gallery=options.items)
        trees = {"before": options.before, "after": options.after}
        children = {name: opened(tree, job, stack) for name, tree in trees.items()}
        for child in children.values():
            child.ask(order)
        for i in range(options.rounds):
            for name in ("before", "after") if i % 2 else ("after", "before"):
                samples[name].append(list(children[name].ask(order).samples_ns))
    rows = []
    for name, rounds in samples.items():
        found = summary([ns for one in rounds for ns in one])
        ns = (found.p50, found.p90, found.p99, found.p999, found.max)
        rows.append([name, *map(milliseconds, ns), f"{found.samples:,}"])
    middle = {k: [float(np.median(one)) for one in v] for k, v in samples.items()}
    print(markdown(["tree", "p50", "p90", "p99", "p99.9", "max", "calls"], rows))
    print(f"after over before: {within(ratio(middle['after'], middle['before']))}")
    machine, moment = read_machine(), read_moment()
    print(f"{options.stage}, ms; {machine.cpu}, load {moment.load}")
    if options.json:
        result = {
            "machine": msgspec.to_builtins(machine),
            "load": moment.load,
            "stage": options.stage,
            "items": options.items,
            "samples_ns": samples,
        }
        options.json.write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
