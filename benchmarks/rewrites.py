"""What each exact rewrite of a block of the velocity field gains, in our engines.

    python -m benchmarks.rewrites [--rounds 30] [--threads 2] [--json FILE]

One block and the final layer at the published size, exported as it was trained and with
each rewrite, each held against the first in float64. Every round calls every arm once,
in changing order; a ratio is formed inside a round, its interval from the rounds.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.fold import conditioning_table
from export.graphs import graph_from_module, write_graph
from export.parity import stressed
from runtime.bench.statistics import ratio
from runtime.bench.table import markdown, within
from runtime.engine import open_engine
from training.config import config_from_preset
from training.sit import SiT
from verbs.bench_machine import read_machine, read_moment

EXACT = 1e-12


class Arm(nn.Module):
    """A field's velocity under a row of the table, written out with some rewrites."""

    def __init__(self, field: SiT, *, one=False, layout=False, scale=False) -> None:
        super().__init__()
        self.field, self.one, self.layout, self.scale = field, one, layout, scale
        self.heads, width = field.config.heads, field.config.width
        self.sizes = [6 * width] * field.config.depth + [2 * width]
        factor = torch.ones(3 * width, dtype=torch.float64)
        if scale:
            factor[:width] = (width // self.heads) ** -0.5
        self.qkv = nn.ModuleList()
        for block in field.blocks:
            linear = nn.Linear(width, 3 * width, dtype=block.attn.qkv.weight.dtype)
            with torch.no_grad():
                linear.weight.copy_(block.attn.qkv.weight * factor[:, None])
                linear.bias.copy_(block.attn.qkv.bias * factor)
            self.qkv.append(linear)

    def row(self, row: Tensor) -> Tensor:
        """Return a row of the table as this arm wants it."""
        if not self.one:
            return row
        width = self.field.config.width
        scales = torch.zeros_like(row).reshape(-1, width)
        for i in range(self.field.config.depth):
            scales[[6 * i + 1, 6 * i + 4]] = 1
        scales[-1] = 1
        return row + scales.reshape(row.shape)

    def _modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        normed = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        return normed * (scale if self.one else 1 + scale) + shift

    def _attend(self, i: int, x: Tensor) -> Tensor:
        b, t, d = x.shape
        h, qkv = self.heads, self.qkv[i](x)
        if self.layout:
            q, k, v = (part.reshape(b, t, h, d // h) for part in qkv.chunk(3, dim=-1))
            q, k, v = q.transpose(1, 2), k.permute(0, 2, 3, 1), v.transpose(1, 2)
            if not self.scale:
                q = q * (d // h) ** -0.5
            found = torch.softmax(q @ k, dim=-1) @ v
        else:
            q, k, v = qkv.reshape(b, t, 3, h, d // h).permute(2, 0, 3, 1, 4).unbind(0)
            found = F.scaled_dot_product_attention(
                q, k, v, scale=1.0 if self.scale else None
            )
        return found.transpose(1, 2).reshape(b, t, d)

    def forward(self, z: Tensor, modulation: Tensor) -> Tensor:
        """Return the velocity."""
        x = z + self.field.pos_embed
        *rows, last = torch.split(modulation, self.sizes, dim=-1)
        for i, (block, row) in enumerate(zip(self.field.blocks, rows, strict=True)):
            a, b, c, d, e, f = row[:, None].chunk(6, dim=-1)
            x = x + c * block.attn.proj(self._attend(i, self._modulate(x, a, b)))
            x = x + f * block.mlp(self._modulate(x, d, e))
        shift, scale = last[:, None].chunk(2, dim=-1)
        return self.field.final_layer.linear(self._modulate(x, shift, scale))


ARMS = {
    "as trained": {},
    "1 + scale in the table": {"one": True},
    "scale in q": {"scale": True},
    "q, k, v split first": {"layout": True},
    "split first, scale in q": {"layout": True, "scale": True},
    "all three": {"one": True, "layout": True, "scale": True},
}


@torch.no_grad()
def error(field: SiT, row: Tensor, z: Tensor, how) -> float:
    """Return the relative L2 distance of an arm from the field itself, in float64."""
    wide = SiT(field.config).double().eval()
    wide.load_state_dict(field.state_dict())
    arm = Arm(wide, **how)
    wanted = wide(z.double(), torch.zeros(1, dtype=torch.float64))
    found = arm(z.double(), arm.row(row))
    return float((found - wanted).norm() / wanted.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backends", nargs="+", default=["openvino", "ort"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config = config_from_preset("paper-subj01").flow
    torch.manual_seed(0)
    field = stressed(SiT(msgspec.structs.replace(config, depth=1)).eval(), 1)
    row = conditioning_table(field, (0.0,))
    z = torch.randn(1, config.tokens, config.width)
    engines, inputs, errors = {}, {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, how in ARMS.items():
            errors[name] = error(field, row, z, how)
            if errors[name] > EXACT:
                raise SystemExit(f"{name}: relative L2 error {errors[name]:.1e}")
            arm = Arm(field, **how).eval()
            own = arm.row(row).float()
            graph = graph_from_module("step", arm, (z, own), inputs=["z", "modulation"],
                                      outputs=["velocity"])  # fmt: skip
            path = Path(scratch) / f"{len(inputs)}.onnx"
            write_graph(graph, path)
            inputs[name] = {"z": z.numpy(), "modulation": own.numpy()}
            for backend in options.backends:
                engines[backend, name] = open_engine(
                    backend, path, graph.spec("step.onnx"), threads=options.threads
                )
    times = {key: [] for key in engines}
    order = list(engines)
    for i in range(options.rounds + 2):
        for key in order[i % len(order) :] + order[: i % len(order)]:
            before = time.perf_counter_ns()
            engines[key].run(inputs[key[1]])
            if i >= 2:
                times[key].append(time.perf_counter_ns() - before)
    rows = []
    for backend, name in engines:
        mine, trained = times[backend, name], times[backend, "as trained"]
        share, best = within(ratio(mine, trained)), f"{min(mine) / 1e6:.1f}"
        rows.append([backend, name, best, share, f"{errors[name]:.0e}"])
    heads = ["engine", "block", "best ms", "over as trained [95 %]", "float64 error"]
    print(markdown(heads, rows))
    machine, moment = read_machine(), read_moment()
    print(f"{machine.cpu}, {options.threads} threads, load {moment.load}")
    if options.json:
        result = {
            "machine": msgspec.to_builtins(machine),
            "load": moment.load,
            "threads": options.threads,
            "errors": errors,
            "samples_ns": {f"{b} {n}": t for (b, n), t in times.items()},
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
