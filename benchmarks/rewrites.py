"""What each exact rewrite gains in our engines, at the published size.

    python -m benchmarks.rewrites [--of block] [--rounds 30] [--threads 2] [--json FILE]
    python -m benchmarks.rewrites --of encoder --backends openvino --precision bf16

One block and the final layer of the velocity field, the voxel encoder, or the decoder,
exported without a rewrite and with each, each held against the trained module in
float64. Every round calls every arm once, in changing order; a ratio is formed inside a
round, its interval from the rounds.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.assemble import autoencoder_modules
from export.channels_last import channels_last
from export.fold import FoldedEncoder, VoxelDecoder, conditioning_table
from export.graphs import Graph, graph_from_module, write_graph
from export.parity import stressed
from runtime.bench.statistics import ratio
from runtime.bench.table import markdown, within
from runtime.engine import open_engine
from training.config import config_from_preset
from training.neurovae import NeuroVAE
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


class EncoderArm(nn.Module):
    """The voxel encoder, its first layers one product, with some of the rewrites."""

    def __init__(
        self, vae: NeuroVAE, *, alone=False, mean=False, folded=False, last=False
    ) -> None:
        super().__init__()
        self.vae, self.whole = vae, FoldedEncoder(vae)
        self.alone, self.mean = alone, mean
        if not folded:
            self.whole.features.mid.attn_1 = vae.encoder.mid.attn_1
        if last:
            self.whole = channels_last(self.whole, "features.down.0", "mean")

    def forward(self, voxels: Tensor) -> tuple[Tensor, ...]:
        """Return z_n, and the retrieval features unless it is alone."""
        if self.mean:
            return (self.whole(voxels),)
        features = self.whole.features(voxels)
        z_n = self.vae.posterior(features).mean
        return (z_n,) if self.alone else (z_n, self.vae.retrieval(features))


ENCODER_ARMS = {
    "with the retrieval features": {},
    "z_n alone": {"alone": True},
    "no log-variance": {"alone": True, "mean": True},
    "attention of two maps": {"alone": True, "mean": True, "folded": True},
    "channels last": {"alone": True, "mean": True, "folded": True, "last": True},
}
ARMS = {
    "as trained": {},
    "1 + scale in the table": {"one": True},
    "scale in q": {"scale": True},
    "q, k, v split first": {"layout": True},
    "split first, scale in q": {"layout": True, "scale": True},
    "all three": {"one": True, "layout": True, "scale": True},
}


@dataclass(frozen=True)
class Case:
    """An arm to be measured."""

    graph: Graph
    inputs: dict[str, np.ndarray]
    error: float
    """Relative L2 distance from the trained module, in float64."""


def rel_l2(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@torch.no_grad()
def block_cases() -> dict[str, Case]:
    config = config_from_preset("paper-subj01").flow
    torch.manual_seed(0)
    field = stressed(SiT(msgspec.structs.replace(config, depth=1)).eval(), 1)
    row = conditioning_table(field, (0.0,))
    z = torch.randn(1, config.tokens, config.width)
    wide = copy.deepcopy(field).double()
    wanted, found = wide(z.double(), torch.zeros(1, dtype=torch.float64)), {}
    for name, how in ARMS.items():
        exact, arm = Arm(wide, **how), Arm(field, **how).eval()
        own = arm.row(row).float()
        found[name] = Case(
            graph_from_module("step", arm, (z, own), inputs=["z", "modulation"],
                              outputs=["velocity"]),
            {"z": z.numpy(), "modulation": own.numpy()},
            rel_l2(exact(z.double(), exact.row(row)), wanted),
        )  # fmt: skip
    return found


@torch.no_grad()
def encoder_cases() -> dict[str, Case]:
    config = config_from_preset("paper-subj01").vae
    torch.manual_seed(0)
    vae = NeuroVAE(config).eval()
    voxels = torch.randn(1, config.voxels)
    wide = copy.deepcopy(vae).double()
    wanted, found = wide.encode(voxels.double()), {}
    for name, how in ENCODER_ARMS.items():
        arm = EncoderArm(vae, **how).eval()
        outputs = ["z_n", "retrieval"][: len(arm(voxels))]
        found[name] = Case(
            graph_from_module("encoder", arm, (voxels,), inputs=["voxels"],
                              outputs=outputs),
            {"voxels": voxels.numpy()},
            rel_l2(EncoderArm(wide, **how)(voxels.double())[0], wanted),
        )  # fmt: skip
    return found


@torch.no_grad()
def decoder_cases() -> dict[str, Case]:
    config = config_from_preset("paper-subj01").vae
    torch.manual_seed(0)
    vae = NeuroVAE(config).eval()
    z_n = torch.randn(1, config.tokens, config.width)
    wide = copy.deepcopy(vae).double()
    wanted, found = wide.decode(z_n.double()), {}
    for name, fold in (
        ("attention of two maps", VoxelDecoder),
        ("channels last", lambda vae: autoencoder_modules(vae)[-1]),
    ):
        found[name] = Case(
            graph_from_module("decoder", fold(vae).eval(), (z_n,), inputs=["z_n"],
                              outputs=["voxels"]),
            {"z_n": z_n.numpy()},
            rel_l2(fold(wide)(z_n.double()), wanted),
        )  # fmt: skip
    return found


CASES = {"block": block_cases, "encoder": encoder_cases, "decoder": decoder_cases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--of", choices=CASES, default="block")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backends", nargs="+", default=["openvino", "ort"])
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases, engines = CASES[options.of](), {}
    first, *_ = cases
    with tempfile.TemporaryDirectory() as scratch:
        for i, (name, case) in enumerate(cases.items()):
            if case.error > EXACT:
                raise SystemExit(f"{name}: relative L2 error {case.error:.1e}")
            path = Path(scratch) / f"{i}.onnx"
            write_graph(case.graph, path)
            for backend in options.backends:
                engines[backend, name] = open_engine(
                    backend,
                    path,
                    case.graph.spec("arm.onnx"),
                    precision=options.precision,
                    threads=options.threads,
                )
    times = {key: [] for key in engines}
    order = list(engines)
    for i in range(options.rounds + 2):
        for key in order[i % len(order) :] + order[: i % len(order)]:
            before = time.perf_counter_ns()
            engines[key].run(cases[key[1]].inputs)
            if i >= 2:
                times[key].append(time.perf_counter_ns() - before)
    rows = []
    for backend, name in engines:
        mine, plain = times[backend, name], times[backend, first]
        share, best = within(ratio(mine, plain)), f"{min(mine) / 1e6:.1f}"
        median = f"{statistics.median(mine) / 1e6:.1f}"
        rows.append([backend, name, best, median, share, f"{cases[name].error:.0e}"])
    heads = [
        *("engine", options.of, "best ms", "median ms"),
        *(f"over {first} [95 %]", "float64 error"),
    ]
    print(markdown(heads, rows))
    machine, moment = read_machine(), read_moment()
    print(
        f"{machine.cpu}, {options.precision}, {options.threads} threads, "
        f"load {moment.load}"
    )
    if options.json:
        result = {
            "machine": msgspec.to_builtins(machine),
            "load": moment.load,
            "threads": options.threads,
            "precision": options.precision,
            "errors": {name: case.error for name, case in cases.items()},
            "samples_ns": {f"{b} {n}": t for (b, n), t in times.items()},
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
