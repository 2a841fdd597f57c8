"""Where the time of a flow step and of the voxel encoder goes: ours, and torch's.

    python -m benchmarks.graph_profile [--depth 12] [--rounds 20] [--json FILE]

OpenVINO in bfloat16 counts the time of each node of what it compiled, torch's profiler
that of each of its operators, on one model of the published shapes whose weights are
drawn; both take turns. Torch runs its modules in bfloat16 as they were trained, not
compiled: the compiler's kernels have no names that say what they are. Beside the step
the time that its products alone take here, the limit that `neuroflow bench` states.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from torch.profiler import ProfilerActivity, profile

from benchmarks.two_trees import drawn
from runtime.bench.limits import best, block_products, flop, openvino_products
from runtime.bench.result import Who
from runtime.bench.table import markdown
from runtime.bench.work import evaluation
from runtime.bundle import Bundle, open_bundle
from runtime.engines.device import cpu_facts, cpu_flags
from runtime.engines.openvino import convolutions_are_faster, import_library
from runtime.engines.openvino_products import convolve
from runtime.engines.openvino_weights import halve
from training.config import config_from_json
from verbs.bench_machine import read_machine, read_moment
from verbs.bench_orders import Job
from verbs.bench_preset import CONFIG
from verbs.bench_sizes import sizes_of_config
from verbs.bench_torch import open_torch

KINDS = ("products", "attention", "layout", "norms, activations, sums")
PRODUCTS, ATTENTION, LAYOUT, REST = KINDS
LIBRARY_KINDS = {
    "FullyConnected": PRODUCTS,
    "Convolution": PRODUCTS,
    "Reorder": LAYOUT,
    "Transpose": LAYOUT,
}
TORCH_KINDS = {
    "aten::addmm": PRODUCTS,
    "aten::mm": PRODUCTS,
    "aten::mkldnn_convolution": PRODUCTS,
    "aten::_slow_conv2d_forward": PRODUCTS,
    "aten::bmm": ATTENTION,
    "aten::baddbmm": ATTENTION,
    "aten::_softmax": ATTENTION,
    "aten::_scaled_dot_product_flash_attention_for_cpu": ATTENTION,
    "aten::copy_": LAYOUT,
}
Times = dict[str, float]
"""Milliseconds by kind."""


class Profiled:
    """A graph that OpenVINO compiled as our engine has it, with its counters on."""

    def __init__(self, path: Path, threads: int) -> None:
        library = import_library()
        core = library.Core()
        model = core.read_model(str(path))
        # They live as long as what is compiled of them.
        self._weights = halve(library, model)
        if convolutions_are_faster(cpu_flags(cpu_facts())):
            self._weights = convolve(library, model, self._weights)
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": str(threads),
            "PERF_COUNT": "YES",
        }
        compiled = core.compile_model(model, "CPU", config)
        self._request = compiled.create_infer_request()
        self._calls, self._summed = 0, dict.fromkeys(KINDS, 0.0)
        rng = np.random.default_rng(0)
        for port in compiled.inputs:
            numbers = rng.standard_normal(tuple(port.shape)).astype(np.float32)
            self._request.set_tensor(port, library.Tensor(numbers))
        read = onnx.load(path, load_external_data=False)
        kinds = {node.name: node.op_type for node in read.graph.node}
        self._made_of = {
            node.get_friendly_name(): {kinds.get(name, "") for name in _origins(node)}
            for node in compiled.get_runtime_model().get_ops()
        }

    def times(self) -> Times:
        """Run once and return what each kind took."""
        self._request.infer()
        self._calls += 1
        summed: Times = dict.fromkeys(KINDS, 0.0)
        for node in self._request.get_profiling_info():
            kind = LIBRARY_KINDS.get(node.node_type)
            if kind is None:
                made_of = self._made_of.get(node.node_name, set())
                is_attention = bool(made_of & {"Softmax", "MatMul"})
                kind = ATTENTION if is_attention else REST
            # The library tells the mean of all calls so far, in whole microseconds.
            summed[kind] += self._calls * node.real_time.total_seconds() * 1e3
        found = {kind: summed[kind] - self._summed[kind] for kind in KINDS}
        self._summed = summed
        return found


def _origins(node: Any) -> Iterable[str]:
    told = node.get_rt_info()
    names = told["originalLayersNames"].astype(str) if told else ""
    return [name.strip() for name in names.split(",")]


def torch_times(call: Callable[[], object]) -> Times:
    """Call torch once and return what each kind of operator took, by itself."""
    with profile(activities=[ProfilerActivity.CPU]) as told:
        call()
    found: Times = dict.fromkeys(KINDS, 0.0)
    for event in told.key_averages():
        kind = TORCH_KINDS.get(event.key, REST)
        found[kind] += event.self_cpu_time_total / 1e3
    return found


def measured(bundle: Bundle, weights: Path, threads: int, rounds: int) -> Any:
    """Return rounds of times by graph, who computed it and kind."""
    who = Who(peer="torch", precision="bf16", threads=threads)
    job = Job(kind="stages", who=who, bundle="", weights=str(weights))
    stages = open_torch(bundle, job)
    calls = {"step": stages.flow(1), "encoder": stages.calls["encoder"]}
    profiled = {
        name: Profiled(bundle.folder / bundle.manifest.graph(name).file, threads)
        for name in calls
    }
    rows: dict[str, dict[str, list[Times]]] = {}
    for number in range(rounds + 1):
        for name, call in calls.items():
            at = rows.setdefault(name, defaultdict(list))
            found = {"openvino": profiled[name].times(), "torch": torch_times(call)}
            if number:  # the first warms up
                for by, times in found.items():
                    at[by].append(times)
    return rows


def limit_ms(weights: Path, threads: int) -> float:
    """Return the least time of a step whose products run at this machine's limit."""
    sizes = sizes_of_config(config_from_json((weights / CONFIG).read_bytes()))
    products = block_products(sizes)
    ways = {
        name: openvino_products(
            products,
            precision="bf16",
            threads=threads,
            are_convolutions=name == "convolutions",
        )
        for name in ("products", "convolutions")
    }
    for call in ways.values():
        call()
    rate = best(ways, flop(products), time.monotonic_ns)
    return evaluation(sizes).flop / rate.per_s * 1e3


def shown(rows: Any, limit: float) -> str:
    """Return a table of each graph, means of the rounds.

    No medians: what the counters round in one call they make up for in the next.
    """
    text = []
    for name, found in rows.items():
        body = []
        whole = {
            by: float(np.mean([sum(one.values()) for one in times]))
            for by, times in found.items()
        }
        for kind in KINDS:
            cells = [kind]
            for by, times in found.items():
                middle = float(np.mean([one[kind] for one in times]))
                cells += [f"{middle:.3g}", f"{100 * middle / whole[by]:.1f} %"]
            body.append(cells)
        total = ["all", *(cell for ms in whole.values() for cell in (f"{ms:.3g}", ""))]
        heads = [f"{name}, ms", *(cell for by in found for cell in (by, "share"))]
        text.append(markdown(heads, [*body, total]))
    return "\n".join([*text, f"A step's products alone, at the limit: {limit:.3g} ms."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=12, help="blocks of the flow")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "weights"
        folder = drawn(Path(scratch), options.depth)
        with open_bundle(folder, is_drawn=True) as bundle:
            rows = measured(bundle, weights, options.threads, options.rounds)
        limit = limit_ms(weights, options.threads)
    print(shown(rows, limit))
    machine, moment = read_machine(), read_moment()
    print(f"{machine.cpu}, {machine.cores} cores, load {moment.load}")
    if options.json:
        result = {
            "machine": msgspec.to_builtins(machine),
            "load": moment.load,
            "depth": options.depth,
            "limit_ms": limit,
            "times_ms": rows,
        }
        options.json.write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
