"""What attention costs in one block of the velocity field, beside a linear form of it.

    python benchmarks/attention_share.py [--repeats 30] [--threads 1]

Counts floating-point operations and times the parts of a block at the published size,
interleaved, on this machine; prints JSON. The linear form is phi(q) (phi(k)^T v) with
phi = elu + 1 (Katharopoulos et al., 2020): the least that any attention does whose cost
is linear in the tokens and that keeps the width of its heads.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from training.config import PRESETS
from training.sit import Block
from verbs.demo.summary import machine


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend as the published model does."""
    return F.scaled_dot_product_attention(q, k, v)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend in time linear in the tokens."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    total = q @ k.sum(dim=-2, keepdim=True).mT
    mixed: Tensor = (q @ (k.mT @ v)) / total
    return mixed


def operations(tokens: int, width: int, heads: int, mlp_ratio: int) -> dict[str, float]:
    """Count the operations of one block, in GFLOP, a multiplication and addition each.

    The modulation is left out: it depends on t alone, and export folds it away.
    """
    head = width // heads
    return {
        "projections": 2 * tokens * width * 4 * width / 1e9,
        "mlp": 2 * tokens * width * 2 * mlp_ratio * width / 1e9,
        "softmax attention": 2 * 2 * tokens * tokens * width / 1e9,
        "linear attention": 2 * 2 * tokens * head * width / 1e9,
    }


@torch.inference_mode()
def times_ms(dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """Time each part, interleaved; medians in milliseconds."""
    config = PRESETS["paper-subj01"].flow
    block = Block(config).to(dtype).eval()
    x = torch.randn(1, config.tokens, config.width).to(dtype)
    modulation = torch.randn(1, 6 * config.width).to(dtype)
    head = config.width // config.heads
    q, k, v = (
        torch.randn(1, config.heads, config.tokens, head).to(dtype) for _ in range(3)
    )
    parts: dict[str, Callable[[], Tensor]] = {
        "block": lambda: block(x, modulation),
        "qkv and output projection": lambda: block.attn.proj(
            block.attn.qkv(x)[..., : config.width]
        ),
        "mlp": lambda: block.mlp(x),
        "softmax attention": lambda: softmax_attention(q, k, v),
        "linear attention": lambda: linear_attention(q, k, v),
    }
    found: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(repeats + 3):
        for name, part in parts.items():
            begin_ns = time.perf_counter_ns()
            part()
            if turn >= 3:
                found[name].append((time.perf_counter_ns() - begin_ns) / 1e6)
    return {name: round(statistics.median(each), 3) for name, each in found.items()}


def main() -> None:
    """Print what was counted and measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    flow = PRESETS["paper-subj01"].flow
    counted = operations(flow.tokens, flow.width, flow.heads, flow.mlp_ratio)
    result = {
        "machine": machine(),
        "threads": arguments.threads,
        "gflop_per_block": {name: round(value, 3) for name, value in counted.items()},
        "ms_per_block": {
            str(dtype).removeprefix("torch."): times_ms(dtype, arguments.repeats)
            for dtype in (torch.float32, torch.bfloat16)
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
