"""One flow step in our engine and in torch, on the same weights, interleaved.

    python -m benchmarks.gpu_suite --out FILE                       # on a GPU
    python -m benchmarks.gpu_suite --out FILE --device cpu --backend ort --preset tiny

Arms: our engine; torch eager; torch.compile max-autotune (on a GPU with CUDA graphs, as
that mode does); in half precision both with modules that are converted to it as a
whole, and torch's autocast over float32 weights besides. Times are of the host, copies
in and out included, for one evaluation of the velocity; each round measures every arm
once, so that a drift of the clocks meets them all. The weights are random: no time
depends on them. Beside 8 bits torch computes in bfloat16.
"""

import argparse
import copy
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from export.assemble import flow_of, write_flow
from export.fold import FoldedVelocity
from export.parity import stressed
from export.unroll import TABLE_ROW
from runtime.engine import open_engine
from runtime.errors import NeuroFlowError
from runtime.graphs import told_precision
from runtime.manifest import EIGHT_BITS
from runtime.solver import solver_from_name
from training.config import config_from_preset
from training.sit import SiT

WARM_UPS = 10
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
DTYPES |= dict.fromkeys(EIGHT_BITS, torch.bfloat16)
Arm = Callable[[], np.ndarray]


def torch_arm(folded, inputs, device, dtype, *, form) -> Arm:
    is_cast = form != "autocast"
    # A copy: another arm has the same weights in float32.
    module = copy.deepcopy(folded).to(dtype) if is_cast else folded
    run = torch.compile(module, mode="max-autotune") if form == "compile" else module
    host = [torch.from_numpy(array) for array in inputs.values()]
    if device == "cuda":
        host = [one.pin_memory() for one in host]

    @torch.no_grad()
    def arm() -> np.ndarray:
        there = [one.to(device, non_blocking=True) for one in host]
        if is_cast:
            there = [one.to(dtype) for one in there]
        with torch.autocast(device, dtype, enabled=not is_cast):
            return run(*there).float().cpu().numpy()

    return arm


def arms_of(options, folder: Path) -> tuple[dict[str, Arm], list]:
    config = config_from_preset(options.preset)
    torch.manual_seed(0)
    # Of fresh weights the velocity is zero, and arms could not be compared.
    field = stressed(SiT(config.flow).eval(), 1)
    path = config.flow_training.path
    solver = solver_from_name("euler", path)
    (folder / "graphs").mkdir()
    flow = flow_of(field, solver, {"decode": 1, "encode": 1})
    rng = np.random.default_rng(0)
    if options.precision in EIGHT_BITS:
        for t in (0.0, 0.5, 1.0):
            shape = (1, config.flow.tokens, config.flow.width)
            flow.ranges.watch(rng.standard_normal(shape), [t])
    # An engine that is told a precision takes the graph in float32.
    is_told = options.backend == "openvino" and options.precision == "bf16"
    specs = write_flow(flow.graphs("f32" if is_told else options.precision), folder)
    step = next(graph for graph in specs if graph.name == "step")
    inputs = {
        spec.name: rng.normal(size=spec.shape).astype(np.float32)
        for spec in step.inputs
    }
    # Of the sum, the velocity alone: what torch computes.
    inputs["weights"] = np.array([0, 1], np.float32)
    told = told_precision(step, options.backend, options.precision)
    engine = open_engine(options.backend, folder / step.file, step, precision=told)
    folded = FoldedVelocity(field).eval().to(options.device)
    own = {name: inputs[name] for name in ("z", TABLE_ROW)}
    dtype = DTYPES[options.precision]
    arms: dict[str, Arm] = {
        f"{engine.name} {options.precision}": lambda: engine.run(inputs)["state"]
    }
    name_of_type = str(dtype).removeprefix("torch.")
    forms = {"torch eager": "eager", "torch.compile": "compile"}
    if dtype != torch.float32:
        forms["torch autocast"] = "autocast"
    for name, form in forms.items():
        arms[f"{name} {name_of_type}"] = torch_arm(
            folded, own, options.device, dtype, form=form
        )
    return arms, [engine]


def measured(arms: dict[str, Arm], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in arms}
    for i in range(WARM_UPS + rounds):
        for name, arm in arms.items():
            before = time.perf_counter()
            arm()
            if i >= WARM_UPS:
                times[name].append(time.perf_counter() - before)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="paper-subj01")
    parser.add_argument("--backend", default="tensorrt")
    parser.add_argument("--precision", default="f32", choices=DTYPES)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu_suite: expected a GPU that torch sees, found none: not run",
              file=sys.stderr)  # fmt: skip
        return 1
    # As in our engines: float32 is float32.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory() as scratch:
        try:
            arms, engines = arms_of(options, Path(scratch))
        except NeuroFlowError as error:
            print(f"gpu_suite: {error}", file=sys.stderr)
            return error.exit_status
        wanted, *others = (arm().copy() for arm in arms.values())
        errors = [
            float(np.linalg.norm(one - wanted) / np.linalg.norm(wanted))
            for one in others
        ]
        times = measured(arms, options.rounds)
        for engine in engines:
            engine.close()
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    result = {
        "device": name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "preset": options.preset,
        "backend": options.backend,
        "rel_l2_between_arms": errors,
        "median_ms": {k: 1e3 * statistics.median(v) for k, v in times.items()},
        "samples_ms": {k: [1e3 * one for one in v] for k, v in times.items()},
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for key, value in result["median_ms"].items():
        print(f"{key:<24}{value:.3f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
