"""What 8 bits lose of a flow, and what each step towards them is worth.

    python -m benchmarks.eight_bits [--width 48] [--depth 12] [--fields 4]

Stressed fields (`export.parity.stressed`), each calibrated as export does, on three
latents along both directions; a fourth is new to it. ONNX Runtime on the CPU computes
the graphs as they are written, against float64. Needs no GPU, and measures no time.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch

from export.assemble import Flow, flow_of, write_flow
from export.eight_bits import Seen, quantised
from export.graphs import Graph
from export.parity import Reference, flow_vectors, stressed, unit_latents
from export.unroll import unrolled
from runtime.bench.table import markdown
from runtime.engine import open_engine
from runtime.golden import LIMITS, judge
from runtime.solver import Direction, solver_from_name
from training.config import config_from_preset
from training.neurovae import NeuroVAE
from training.sit import SiT

CALIBRATED = 3


def around_zero(flow: Flow) -> Callable[[np.ndarray], Seen]:
    """Hide the means, so that they are rounded with the rest."""

    def seen(weight: np.ndarray) -> Seen:
        found = flow.ranges.of(weight)
        return found._replace(mean=np.zeros_like(found.mean))

    return seen


ARMS: dict[str, Callable[[Flow], Graph]] = {
    "int8": lambda flow: quantised(flow.step, flow.ranges.of, "int8"),
    "fp8": lambda flow: quantised(flow.step, flow.ranges.of, "fp8"),
    "fp8, means rounded too": lambda flow: quantised(
        flow.step, around_zero(flow), "fp8"
    ),
}


def losses(
    flow: Flow, step: Graph, golden: dict[str, np.ndarray], folder: Path
) -> Iterator[float]:
    """Yield 1 - cosine of each latent at the end of each direction."""
    ends: dict[Direction, tuple[str, str]] = {
        "decode": ("z_n", "z_v"),
        "encode": ("z_v", "z_n_encoded"),
    }
    graphs = [
        unrolled(step, flow.tables[way], flow.solver, flow.steps[way], way)
        for way in ends
    ]
    for spec, (source, target) in zip(
        write_flow(graphs, folder), ends.values(), strict=True
    ):
        engine = open_engine("ort", folder / spec.file, spec, threads=1)
        (given,), (result,) = spec.inputs, spec.outputs
        for z, wanted in zip(golden[source], golden[target], strict=True):
            found = engine.run({given.name: z[None].astype(np.float32)})[result.name]
            yield 1 - judge("end", wanted, found[0]).cosine
        engine.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--solver", default="rotation")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--fields", type=int, default=4)
    options = parser.parse_args()
    config = config_from_preset("tiny")
    sizes = msgspec.structs.replace(
        config.flow,
        tokens=options.tokens,
        width=options.width,
        heads=options.heads,
        depth=options.depth,
    )
    torch.manual_seed(0)
    vae, drawn = NeuroVAE(config.vae).eval(), SiT(sizes).eval()
    solver = solver_from_name(options.solver, config.flow_training.path)
    steps: dict[Direction, int] = {"decode": options.steps, "encode": options.steps}
    found: dict[str, list[float]] = {name: [] for name in ARMS}
    for seed in range(options.fields):
        field = stressed(drawn, seed)
        reference = Reference(vae, field, solver, steps)
        golden = flow_vectors(reference, unit_latents(field, CALIBRATED + 1, seed))
        flow = flow_of(field, solver, steps)
        for z, t in reference.visited(golden["z_n"], golden["z_v"]):
            flow.ranges.watch(z[:CALIBRATED], [t] * CALIBRATED)
        for name, arm in ARMS.items():
            with tempfile.TemporaryDirectory() as scratch:
                (Path(scratch) / "graphs").mkdir()
                found[name] += losses(flow, arm(flow), golden, Path(scratch))
        print(f"field {seed + 1} of {options.fields}", file=sys.stderr, flush=True)
    limit = LIMITS["fp8"].cosine or 0.0
    rows = [
        [
            name,
            f"{1 - np.mean(values):.5f}",
            f"{1 - max(values):.5f}",
            f"{sum(1 - one >= limit for one in values)} of {len(values)}",
        ]
        for name, values in found.items()
    ]
    print(markdown(["", "mean cosine", "worst", f"at least {limit:g}"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
